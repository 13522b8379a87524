from __future__ import annotations

import numpy as np
import pytest

from n2q_edge.quality.scores import (
    BoolArray,
    body_mask,
    dose_scores,
    expected_error,
    global_noise_level,
    model_noise,
    quality_scores,
    to_percent,
)
from n2q_edge.runtimes.base import FloatArray
from tests.helpers.fakes import AIR_HU, TISSUE_HU, disk

SPACING = (0.7, 0.7)


def image(size: int = 512) -> FloatArray:
    return np.full((size, size), AIR_HU, dtype=np.float32)


def dice(a: BoolArray, b: BoolArray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


@pytest.mark.parametrize("noise", [0, 30, 150])
def test_body_includes_lungs_and_excludes_the_table(noise: float) -> None:
    hu, truth = image(), disk(512, 150)
    hu[truth] = TISSUE_HU
    hu[disk(512, 80)] = -850  # a lung
    hu[430:434, 60:450] = 200  # the upper shell of a table, 3 mm thick
    hu[434:460, 60:450] = -900  # its foam
    hu += np.random.default_rng(1).normal(0, noise, hu.shape).astype(np.float32)
    mask = body_mask(hu, SPACING)
    assert dice(mask, truth) > 0.99
    assert not mask[425:].any()
    assert mask[256, 256]


def test_body_touching_a_thin_table_is_cut_off_from_it() -> None:
    hu, truth = image(), disk(512, 150)
    hu[404:408, 60:450] = 200
    hu[truth] = TISSUE_HU
    assert dice(body_mask(hu, SPACING), truth) > 0.99


@pytest.mark.parametrize("size", [64, 100, 257, 512, 1023])
def test_body_is_found_at_any_image_size(size: int) -> None:
    hu, truth = image(size), disk(size, 0.35 * size)
    hu[truth] = TISSUE_HU
    assert dice(body_mask(hu, (360 / size, 360 / size)), truth) > 0.97


def test_body_that_fills_the_image() -> None:
    assert body_mask(np.full((256, 256), 40, np.float32), SPACING).all()


def test_no_body_in_air_or_in_a_speck() -> None:
    assert not body_mask(image(), SPACING).any()
    speck = image()
    speck[disk(512, 20)] = TISSUE_HU  # pi * (20 * 0.7 mm)^2 = 616 mm^2, less than 1000
    assert not body_mask(speck, SPACING).any()


def test_body_without_a_pixel_spacing() -> None:
    hu, truth = image(), disk(512, 150)
    hu[truth] = TISSUE_HU
    assert dice(body_mask(hu, None), truth) > 0.99
    assert global_noise_level(hu, truth, None) is None


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


def test_model_noise_is_the_median_in_the_soft_tissue_of_the_body() -> None:
    """Blocks of 8x8 pixels: 1, 2, 30, 500 HU outside the body, 900 HU in bone."""
    noise = np.repeat(np.array([[1, 2, 30, 500, 900]], np.float32), 8, axis=1).repeat(8, axis=0)
    hu, body = np.full(noise.shape, TISSUE_HU, np.float32), np.ones(noise.shape, bool)
    body[:, 24:32] = False
    hu[:, 32:] = 700
    assert model_noise(noise, hu, body) == 2


def test_dose_is_the_most_probable_level_in_percent() -> None:
    dose = dose_scores(np.array([0.125, 0.5, 0.375], np.float32), (0.05, 0.1, 0.25))
    assert dose.level == 10
    assert dose.probabilities == (0.125, 0.5, 0.375)


def test_percent_has_no_rounding_error() -> None:
    """`fraction * 100` alone gets 7, 14, 28, 29, 55, 56, 57 and 58 wrong: 0.07 * 100 is 7.000000000000001."""
    assert [to_percent(percent / 100) for percent in range(101)] == list(range(101))


@pytest.mark.parametrize("sigma", [3, 10, 30, 100])
@pytest.mark.parametrize("spacing", [0.5, 0.7, 0.98])
def test_noise_level_of_white_noise_is_unbiased(sigma: float, spacing: float) -> None:
    hu, body = image(), disk(512, 180)
    hu[body] = TISSUE_HU
    hu += np.random.default_rng(7).normal(0, sigma, hu.shape).astype(np.float32)
    assert global_noise_level(hu, body, (spacing, spacing)) == pytest.approx(sigma, rel=0.03)


def test_noise_level_in_another_pixel_shape() -> None:
    hu, body = image(), disk(512, 180)
    hu[body] = TISSUE_HU
    hu += np.random.default_rng(7).normal(0, 20, hu.shape).astype(np.float32)
    assert global_noise_level(hu, body, (0.5, 1.5)) == pytest.approx(20, rel=0.03)


def test_noise_level_is_not_moved_by_anatomy() -> None:
    """Half of the soft tissue lies within 6 mm of an edge, as in a chest; fat is outside the HU range."""
    hu, body = image(), disk(512, 180)
    hu[body] = -100
    stripes = body & ((np.arange(512)[:, None] // 20 + np.arange(512)[None, :] // 90) % 2 == 0)
    hu[stripes] = TISSUE_HU
    hu += np.random.default_rng(7).normal(0, 12, hu.shape).astype(np.float32)
    assert global_noise_level(hu, body, SPACING) == pytest.approx(12, rel=0.05)


def test_noise_level_of_a_noiseless_image_is_zero() -> None:
    hu, body = image(), disk(512, 180)
    hu[body] = TISSUE_HU
    assert global_noise_level(hu, body, SPACING) == 0


def test_no_noise_level_without_enough_soft_tissue() -> None:
    hu, body = image(), disk(512, 180)
    hu[body] = -100  # fat only
    assert global_noise_level(hu, body, SPACING) is None
    hu[disk(512, 20)] = TISSUE_HU  # 616 mm^2
    assert global_noise_level(hu, body, SPACING) is None


def test_no_noise_level_in_an_image_smaller_than_a_patch() -> None:
    hu = np.full((1, 4000), TISSUE_HU, np.float32)
    assert global_noise_level(hu, np.ones(hu.shape, dtype=bool), SPACING) is None


def test_expected_error_is_the_root_mean_variance_in_the_body() -> None:
    """Variances 0.01 and 0.04 in half of the body each: sqrt(0.025)."""
    log_variance = np.full((64, 64), np.log(0.01), np.float32)
    log_variance[32:] = np.log(0.04)
    log_variance[:, 48:] = 5.0  # outside the body
    body = np.zeros((64, 64), bool)
    body[:, :48] = True
    assert expected_error(log_variance, body) == pytest.approx(np.sqrt(0.025), rel=1e-5)
    assert expected_error(log_variance, np.zeros((64, 64), bool)) is None
