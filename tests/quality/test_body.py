from __future__ import annotations

import numpy as np
import pytest

from n2q_edge.arrays import BoolArray, FloatArray
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level
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
