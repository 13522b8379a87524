from __future__ import annotations

import numpy as np
import pytest

from n2q_edge.quality.noise import model_noise
from n2q_edge.quality.scores import dose_scores, expected_error, quality_scores, to_percent
from tests.helpers.fakes import TISSUE_HU

SPACING = (0.7, 0.7)


def test_quality_scores_count_only_the_mask() -> None:
    quality = np.zeros((10, 20), np.float32)
    mask = np.zeros(quality.shape, dtype=bool)
    mask[:5] = True  # 100 pixels
    quality[mask] = np.arange(100) / 100  # 0.00 to 0.99: mean 0.495; 50 are below 0.5; the 5th lowest is 0.04
    scores = quality_scores(quality, mask)
    assert scores is not None
    assert scores.mean == pytest.approx(0.495)
    assert scores.p05 == pytest.approx(0.04)
    assert scores.below_threshold == pytest.approx(0.5)


@pytest.mark.parametrize("pixels", [1, 2, 7, 1000, 1001])
def test_quality_scores_are_those_of_the_sorted_pixels(pixels: int) -> None:
    """Half of the pixels share a value, as air and saturated bone do."""
    quality = np.random.default_rng(pixels).uniform(0, 1, (1, pixels)).astype(np.float32)
    quality[:, ::2] = 1
    scores = quality_scores(quality, np.ones(quality.shape, dtype=bool))
    assert scores is not None
    ordered = np.sort(quality[0].astype(np.float64))
    assert scores.mean == pytest.approx(ordered.mean(), abs=1e-6)
    assert scores.p05 == ordered[int(0.05 * (pixels - 1))]
    assert tuple(scores.histogram) == tuple(np.histogram(ordered, bins=20, range=(0, 1))[0])


def test_no_scores_without_a_body() -> None:
    empty = np.zeros((8, 8), dtype=bool)
    assert quality_scores(np.ones((8, 8), np.float32), empty) is None
    tissue = np.full((8, 8), TISSUE_HU, np.float32)
    assert model_noise(np.ones((8, 8), np.float32), tissue, empty) is None
    assert model_noise(np.ones((8, 8), np.float32), tissue - 500, ~empty) is None


def test_dose_is_the_most_probable_level_in_percent() -> None:
    dose = dose_scores(np.array([0.125, 0.5, 0.375], np.float32), (0.05, 0.1, 0.25))
    assert dose.level == 10
    assert dose.probabilities == (0.125, 0.5, 0.375)


def test_percent_has_no_rounding_error() -> None:
    """`fraction * 100` alone gets 7, 14, 28, 29, 55, 56, 57 and 58 wrong: 0.07 * 100 is 7.000000000000001."""
    assert [to_percent(percent / 100) for percent in range(101)] == list(range(101))


def test_expected_error_is_the_root_mean_variance_in_the_body() -> None:
    """Variances 0.01 and 0.04 in half of the body each: sqrt(0.025)."""
    log_variance = np.full((64, 64), np.log(0.01), np.float32)
    log_variance[32:] = np.log(0.04)
    log_variance[:, 48:] = 5.0  # outside the body
    body = np.zeros((64, 64), bool)
    body[:, :48] = True
    assert expected_error(log_variance, body) == pytest.approx(np.sqrt(0.025), rel=1e-5)
    assert expected_error(log_variance, np.zeros((64, 64), bool)) is None
