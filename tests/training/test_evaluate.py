"""Metrics of predictors whose scores are known beforehand."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from n2q_edge.spec import ModelSpec
from n2q_edge.training.cache import CachedSlice
from n2q_edge.training.evaluate import cases, evaluate, torch_predictor

SPEC = ModelSpec(name="t", version="t", network={"class": "compact"})


def one_hot(index: int) -> np.ndarray:
    return np.eye(5, dtype=np.float32)[index]


@pytest.fixture(scope="module")
def truth(cached_slices: list[CachedSlice]) -> dict[bytes, tuple[np.ndarray, int]]:
    """What a perfect predictor knows: the map and the level of each simulated slice."""
    return {
        case.hu.tobytes(): (case.quality, SPEC.dose_levels.index(case.dose))
        for case in cases(cached_slices, SPEC)
    }


def test_a_perfect_predictor_has_no_error(
    cached_slices: list[CachedSlice], truth: dict[bytes, tuple[np.ndarray, int]]
) -> None:
    def perfect(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        quality, level = truth[hu.tobytes()]
        return quality, one_hot(level)

    metrics = evaluate(perfect, cached_slices, SPEC)
    for region in ("body", "window"):
        assert metrics[region]["mae"] == metrics[region]["rmse"] == 0
        assert metrics[region]["plcc"] == pytest.approx(1.0)
    assert metrics["slice"]["mae"] == 0
    assert metrics["slice"]["srocc"] == pytest.approx(1.0)
    assert metrics["dose"] == {"accuracy": 1.0, "log_error": pytest.approx(0.0, abs=1e-6)}
    assert metrics["rises_with_dose"] == 1.0
    assert (metrics["slices"], metrics["patients"]) == (2, 2)


def test_a_constant_offset_is_the_error(
    cached_slices: list[CachedSlice], truth: dict[bytes, tuple[np.ndarray, int]]
) -> None:
    def shifted(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return truth[hu.tobytes()][0] - np.float32(0.125), one_hot(0)

    metrics = evaluate(shifted, cached_slices, SPEC)
    assert metrics["body"]["mae"] == pytest.approx(0.125, abs=1e-6)
    assert metrics["body"]["rmse"] == pytest.approx(0.125, abs=1e-6)
    assert metrics["body"]["plcc"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["slice"]["mae"] == pytest.approx(0.125, abs=1e-6)
    # Always the lowest level: right in one case of five; log errors are those of the levels to 5 %.
    assert metrics["dose"]["accuracy"] == pytest.approx(0.2)
    expected = np.mean(np.log(np.array(SPEC.dose_levels) / 0.05))
    assert metrics["dose"]["log_error"] == pytest.approx(expected, abs=1e-5)


def test_a_constant_predictor_does_not_correlate(cached_slices: list[CachedSlice]) -> None:
    def constant(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full_like(hu, 0.5), one_hot(2)

    metrics = evaluate(constant, cached_slices, SPEC)
    assert metrics["slice"]["plcc"] == metrics["slice"]["srocc"] == 0
    assert metrics["rises_with_dose"] == 0


def test_a_predictor_without_a_dose_head_has_no_dose_errors(cached_slices: list[CachedSlice]) -> None:
    def constant(hu: np.ndarray) -> tuple[np.ndarray, None]:
        return np.full_like(hu, 0.5), None

    metrics = evaluate(constant, cached_slices, SPEC)
    assert metrics["dose"] is None
    assert metrics["per_dose"]["0.25"]["dose"] is None


def test_a_network_predicts_by_the_names_of_its_outputs() -> None:
    """A noise map in the second place is no dose."""
    spec = replace(SPEC, outputs=("quality_map", "noise_map"))
    predict = torch_predictor(lambda hu: (hu / 100, hu), torch.device("cpu"), spec)  # type: ignore[arg-type]
    quality, dose = predict(np.full((8, 8), 50, np.float32))
    assert (quality == 0.5).all()
    assert dose is None


def test_true_quality_rises_with_dose(cached_slices: list[CachedSlice]) -> None:
    means = np.array([case.quality[case.body].mean() for case in cases(cached_slices, SPEC)])
    assert (np.diff(means.reshape(2, 5), axis=1) > 0).all()


def test_intervals_hold_the_value(cached_slices: list[CachedSlice]) -> None:
    def constant(hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full_like(hu, 0.5), one_hot(2)

    metrics = evaluate(constant, cached_slices, SPEC)
    low, high = metrics["intervals"]["body.mae"]
    assert low <= metrics["body"]["mae"] <= high
