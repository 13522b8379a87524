"""The Bayes oracle: its formula on white noise, and that it beats whoever knows less."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("numba")

from n2q_edge.evaluation.cases import true_quality
from n2q_edge.evaluation.oracle import PhantomCase, PhantomSlice, full_dose_given_low, oracle
from n2q_edge.spec import ModelSpec

SPEC = ModelSpec(name="t", version="t", network={"class": "compact"})


@pytest.fixture(scope="module")
def phantom_cases(tmp_path_factory: pytest.TempPathFactory) -> list[PhantomCase]:
    return list(PhantomSlice(5, 10.0, size=128).cases(SPEC, tmp_path_factory.mktemp("phantoms")))


def test_realisations_have_the_conditional_moments() -> None:
    """mu = 40, sigma = 10, D = 1/4, one pixel seen at 80: mean 40 + 40/4 = 50, variance 3/4 * 100 = 75."""
    draws = np.random.default_rng(0).normal(0.0, 10.0, (20_000, 1, 1)).astype(np.float32)
    low, anatomy = np.full((1, 1), 80.0, np.float32), np.full((1, 1), 40.0, np.float32)
    found = np.ravel(list(full_dose_given_low(low, anatomy, 0.25, draws)))
    assert found.mean() == pytest.approx(50.0, abs=1e-3)
    assert found.var() == pytest.approx(75.0, rel=0.04)  # four standard errors of a variance: 4 sqrt(2/20000)


@pytest.mark.parametrize("dose", [0.05, 0.25, 0.75])
def test_the_moments_are_those_of_simulated_pairs(dose: float) -> None:
    """FD = n0 and LD = n0 + n1, many times: regressing FD on LD gives slope D and residual variance 1 - D."""
    rng = np.random.default_rng(1)
    full = rng.standard_normal(200_000)
    low = full + np.sqrt((1 - dose) / dose) * rng.standard_normal(full.size)
    slope = (full @ low) / (low @ low)
    assert slope == pytest.approx(dose, abs=0.01)
    assert np.var(full - slope * low) == pytest.approx(1 - dose, rel=0.02)


def test_the_phantom_has_the_noise_it_should(phantom_cases: list[PhantomCase]) -> None:
    """Inserted variance at D is (1 - D)/D of the full dose's: 19, 9, 3, 1 and 1/3."""
    case = phantom_cases[0]
    soft = case.window & (np.abs(case.anatomy - 60.0) < 30.0)
    full_noise = float(np.var(case.draws[:, soft]))
    for case, ratio in zip(phantom_cases, (19, 9, 3, 1, 1 / 3), strict=True):
        total = float(np.var((case.scan.hu - case.anatomy)[soft]))
        assert total / full_noise == pytest.approx(1 + ratio, rel=0.25)


def test_the_oracle_beats_who_knows_the_anatomy_but_not_the_noise(phantom_cases: list[PhantomCase]) -> None:
    """Squared error against the map of the noise-free twin, and of the mean twin without its spread."""
    mine, clean, plain = [], [], []
    for case in phantom_cases:
        low = case.scan.hu
        mean = case.anatomy + np.float32(case.dose) * (low - case.anatomy)
        guesses = (
            oracle(case, SPEC).native.quality,
            true_quality(low, case.anatomy, SPEC),
            true_quality(low, mean, SPEC),
        )
        for errors, guess in zip((mine, clean, plain), guesses, strict=True):
            errors.append(float(np.mean((guess - case.quality)[case.body] ** 2)))
    assert np.mean(mine) < np.mean(clean)
    assert np.mean(mine) < np.mean(plain)


def test_the_reduced_map_of_the_oracle(phantom_cases: list[PhantomCase]) -> None:
    case = phantom_cases[1]
    reduced = oracle(case, SPEC).reduced
    assert reduced.shape == (256, 256)
    reference = (case.paper + 1) / 2
    assert np.mean((reduced - reference) ** 2) < 0.25 * np.var(reference)


def test_noise_images_are_kept(phantom_cases: list[PhantomCase], tmp_path: Path) -> None:
    phantom = PhantomSlice(5, 10.0, size=128)
    first = next(phantom.cases(SPEC, tmp_path))
    (kept,) = tmp_path.glob("*.npz")
    before = kept.stat().st_mtime_ns
    second = next(phantom.cases(SPEC, tmp_path))
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.scan.hu, second.scan.hu)
