from __future__ import annotations

import numpy as np
import pytest

from n2q_edge.arrays import FloatArray
from n2q_edge.quality.noise import global_noise_level, model_noise
from tests.helpers.fakes import AIR_HU, TISSUE_HU, disk

SPACING = (0.7, 0.7)


def image(size: int = 512) -> FloatArray:
    return np.full((size, size), AIR_HU, dtype=np.float32)


def test_model_noise_is_the_median_in_the_soft_tissue_of_the_body() -> None:
    """Blocks of 8x8 pixels: 1, 2, 30, 500 HU outside the body, 900 HU in bone."""
    noise = np.repeat(np.array([[1, 2, 30, 500, 900]], np.float32), 8, axis=1).repeat(8, axis=0)
    hu, body = np.full(noise.shape, TISSUE_HU, np.float32), np.ones(noise.shape, bool)
    body[:, 24:32] = False
    hu[:, 32:] = 700
    assert model_noise(noise, hu, body) == 2


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
