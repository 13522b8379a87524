"""The model-free baselines: their formulas by hand, and that a fit finds what the data say."""

import numpy as np
import pytest

pytest.importorskip("torch")

from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.evaluation.baselines import NAMES, Fitted, baseline, fit, flat_tissue_ssim, local_wiener
from n2q_edge.evaluation.cases import Case, cases
from n2q_edge.spec import ModelSpec

SPEC = ModelSpec(name="t", version="t", network={"class": "compact"})


@pytest.fixture(scope="module")
def known(cached_slices: list[CachedSlice]) -> list[Case]:
    return list(cases(cached_slices[:1], SPEC))


@pytest.fixture(scope="module")
def fitted(known: list[Case]) -> Fitted:
    return fit(known, SPEC)


def test_ssim_of_flat_tissue_by_hand() -> None:
    """v = 0.01, of which 3/4 inserted: (2 * 0.01 * 0.25 + C2) / (0.01 * 1.25 + C2), C2 = 0.0009."""
    found = flat_tissue_ssim(np.array(0.01), np.array(0.1), 0.05, 1.0, c2=9e-4)
    assert found == pytest.approx((0.005 + 9e-4) / (0.0125 + 9e-4))


def test_flat_tissue_without_inserted_noise_is_unharmed() -> None:
    assert flat_tissue_ssim(np.array(0.01), np.array(0.1), 0.1, 1.0, c2=9e-4) == pytest.approx(1.0)


def test_the_wiener_filter_flattens_noise_and_keeps_an_edge() -> None:
    rng = np.random.default_rng(0)
    hu = np.where(np.arange(64) < 32, -100.0, 100.0) + rng.normal(0.0, 5.0, (64, 64))
    clean = local_wiener(hu.astype(np.float32), 5, 5.0)
    assert clean[:, 8:24].std() < 0.5 * 5.0
    # At the edge the local variance is about 100**2: the gain is 1 - 25 / 10,000.
    assert np.abs(clean[:, 30:34] - hu[:, 30:34]).max() < 2.0


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_beats_a_guess(name: str, known: list[Case], fitted: Fitted) -> None:
    """No worse than the constant on the cases it was fitted on, at both sizes."""

    def errors(which: str) -> tuple[float, float]:
        answers = [baseline(which, fitted, SPEC)(case) for case in known]
        native = [
            np.abs(a.native.quality - c.quality)[c.body].mean() for a, c in zip(answers, known, strict=True)
        ]
        reduced = [np.abs(a.reduced - (c.paper + 1) / 2).mean() for a, c in zip(answers, known, strict=True)]
        return float(np.mean(native)), float(np.mean(reduced))

    assert all(own <= guess * 1.02 for own, guess in zip(errors(name), errors("constant"), strict=True))


def test_noise_tells_the_dose(known: list[Case], fitted: Fitted) -> None:
    """One slice at five doses: its noise alone orders them."""
    predictions = [baseline("noise-level", fitted, SPEC)(case).native for case in known]
    doses = [float(p.probabilities @ np.log(SPEC.dose_levels)) for p in predictions]
    assert doses == sorted(doses)
    means = [float(p.quality[c.body].mean()) for p, c in zip(predictions, known, strict=True)]
    assert means == sorted(means)


def test_outside_the_body_nothing_is_harmed(known: list[Case], fitted: Fitted) -> None:
    reduced = baseline("constant", fitted, SPEC)(known[0]).reduced
    assert (reduced[:8] == 1.0).all()
