"""Metrics of predictors whose scores are known beforehand."""

import numpy as np
import pytest
from scipy import stats

torch = pytest.importorskip("torch")

from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.evaluation.cases import Case, Scan, cases, slice_cases
from n2q_edge.evaluation.evaluate import evaluate
from n2q_edge.evaluation.predictions import Prediction, torch_predictor
from n2q_edge.evaluation.scores import CaseScores, bootstrap, intervals, rank_correlations
from n2q_edge.spec import ModelSpec

SPEC = ModelSpec(name="t", version="t", network={"class": "compact"})


def one_hot(index: int) -> np.ndarray:
    return np.eye(5, dtype=np.float32)[index]


@pytest.fixture(scope="module")
def truth(cached_slices: list[CachedSlice]) -> dict[bytes, Case]:
    """What a perfect predictor knows, by the image it is shown."""
    known = {}
    for case in cases(cached_slices, SPEC):
        known[case.scan.hu.tobytes()] = case
        known[case.reduced.hu.tobytes()] = case
    return known


def perfect_map(case: Case, scan: Scan) -> np.ndarray:
    return case.quality if scan is case.scan or scan.hu.shape == case.quality.shape else (case.paper + 1) / 2


def constant(scan: Scan) -> Prediction:
    return Prediction(np.full_like(scan.hu, 0.5))


def test_a_perfect_predictor_has_no_error(cached_slices: list[CachedSlice], truth: dict[bytes, Case]) -> None:
    def perfect(scan: Scan) -> Prediction:
        case = truth[scan.hu.tobytes()]
        return Prediction(perfect_map(case, scan), one_hot(SPEC.dose_levels.index(case.dose)))

    found = evaluate(perfect, cached_slices, SPEC)
    for region in ("body", "window"):
        assert found[region]["mae"] == found[region]["rmse"] == 0
        assert found[region]["plcc"] == pytest.approx(1.0)
    assert found["body"]["ssim"] == pytest.approx(1.0)
    assert found["slice"]["mae"] == 0
    assert found["slice"]["srocc"] == pytest.approx(1.0)
    assert found["dose"] == {"accuracy": 1.0, "log_error": pytest.approx(0.0, abs=1e-6)}
    assert found["paper"] == {
        "ssim": pytest.approx(1.0),
        "mse": pytest.approx(0.0, abs=1e-12),
        "nrmse": pytest.approx(0.0, abs=1e-6),
    }
    assert found["rises_with_dose"] == 1.0
    assert (found["slices"], found["patients"]) == (2, 2)
    assert [row["body_mae"] for row in found["by_patient"].values()] == [0, 0]


def test_a_constant_offset_is_the_error(cached_slices: list[CachedSlice], truth: dict[bytes, Case]) -> None:
    def shifted(scan: Scan) -> Prediction:
        return Prediction(perfect_map(truth[scan.hu.tobytes()], scan) - np.float32(0.125), one_hot(0))

    found = evaluate(shifted, cached_slices, SPEC)
    assert found["body"]["mae"] == pytest.approx(0.125, abs=1e-6)
    assert found["body"]["rmse"] == pytest.approx(0.125, abs=1e-6)
    assert found["body"]["plcc"] == pytest.approx(1.0, abs=1e-6)
    assert found["slice"]["mae"] == pytest.approx(0.125, abs=1e-6)
    # In [-1, 1] the offset is 0.25.
    assert found["paper"]["mse"] == pytest.approx(0.25**2, abs=1e-6)
    # Always the lowest level: right in one case of five; log errors are those of the levels to 5 %.
    assert found["dose"]["accuracy"] == pytest.approx(0.2)
    expected = np.mean(np.log(np.array(SPEC.dose_levels) / 0.05))
    assert found["dose"]["log_error"] == pytest.approx(expected, abs=1e-5)


def test_a_constant_predictor_without_a_dose_head(cached_slices: list[CachedSlice]) -> None:
    found = evaluate(constant, cached_slices, SPEC)
    assert found["slice"]["plcc"] == found["slice"]["srocc"] == found["body"]["plcc"] == 0
    assert found["rises_with_dose"] == 0
    assert found["dose"] == {"accuracy": None, "log_error": None}
    assert not any(name.startswith("dose.") for name in found["intervals"])


def test_true_quality_rises_with_dose(cached_slices: list[CachedSlice]) -> None:
    means = np.array([case.quality[case.body].mean() for case in cases(cached_slices, SPEC)])
    assert (np.diff(means.reshape(2, 5), axis=1) > 0).all()


def test_a_case_does_not_depend_on_the_slices_beside_it(cached_slices: list[CachedSlice]) -> None:
    alone = next(slice_cases(cached_slices[1], SPEC))
    among = list(cases(cached_slices, SPEC))[5]
    np.testing.assert_array_equal(alone.scan.hu, among.scan.hu)


def test_intervals_hold_the_value(cached_slices: list[CachedSlice]) -> None:
    found = evaluate(constant, cached_slices, SPEC)
    low, high = found["intervals"]["body.mae"]
    assert low <= found["body"]["mae"] <= high


def case_scores(patient: str, error: float) -> CaseScores:
    """One case of one pixel: truth 0.5, prediction 0.5 + error."""
    x, y = 0.5 + error, 0.5
    sums = (1.0, abs(error), error**2, x, y, x * x, y * y, x * y)
    fields = {"slice_key": f"s-{patient}", "patient": patient, "dose": 0.05, "true_mean": y, "mean": x}
    scores = {"ssim": error, "mse": error, "nrmse": error}
    return CaseScores.from_json(
        {**fields, "body": sums, "window": sums, "map_ssim": 1.0, "level_hit": None, "log_dose_error": None}
        | {"paper": scores}
    )


def test_the_bootstrap_resamples_patients() -> None:
    """Two patients with errors 0 and 0.4: a draw of two holds 0, 1 or 2 of the second, 1 : 2 : 1."""
    draws = bootstrap([case_scores("a", 0.0), case_scores("b", 0.4)])["body.mae"]
    values, counts = np.unique(draws.round(9), return_counts=True)
    assert values.tolist() == [0.0, 0.2, 0.4]
    assert counts / counts.sum() == pytest.approx([0.25, 0.5, 0.25], abs=0.06)  # four standard errors


def test_rank_correlation_of_repeated_cases_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(20), rng.standard_normal(20).round(1)  # with ties
    repeats = rng.integers(0, 4, (3, 20))
    expected = [stats.spearmanr(np.repeat(x, n), np.repeat(y, n))[0] for n in repeats]
    assert rank_correlations(x, y, repeats) == pytest.approx(expected)


def test_scores_survive_json() -> None:
    one = case_scores("a", 0.25)
    assert CaseScores.from_json(one.to_json()) == one


def test_one_patient_has_no_interval() -> None:
    assert intervals([case_scores("a", 0.25)]) == {}


class Sharpen(torch.nn.Module):
    """A convolution that reaches 2 pixels far; it remembers the size of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.reach = 2
        self.conv = torch.nn.Conv2d(1, 1, 5, padding=2)
        self.seen: tuple[int, ...] = ()

    def forward(self, hu: torch.Tensor) -> tuple[torch.Tensor]:
        self.seen = tuple(hu.shape)
        return (self.conv(hu),)


def test_a_network_of_finite_reach_runs_on_what_is_wanted_only() -> None:
    network = Sharpen()
    hu = np.random.default_rng(0).uniform(-100, 100, (64, 64)).astype(np.float32)
    whole = torch_predictor(network, torch.device("cpu"))(Scan(hu, 1.0, (slice(0, 64), slice(0, 64))))
    assert whole.probabilities is None
    wanted = (slice(20, 41), slice(1, 30))
    part = torch_predictor(network, torch.device("cpu"), size_multiple=8)(Scan(hu, 1.0, wanted))
    assert network.seen == (1, 1, 32, 32)  # 21 + 2 * 2 = 25 rows and 29 + 1 + 2 = 32 columns, in eights
    np.testing.assert_allclose(part.quality[wanted], whole.quality[wanted], atol=1e-5)
