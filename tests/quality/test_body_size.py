"""Expected values: geometry, and AAPM Reports 204, 220 and 293."""

from __future__ import annotations

import numpy as np
import pytest

from n2q_edge.quality.body_size import body_size, size_specific_dose

Y, X = np.mgrid[:400, :400] - 199.5


def disk(radius: float) -> np.ndarray:
    return np.hypot(X, Y) < radius


@pytest.mark.parametrize(
    ("hu", "share"),
    [
        (0.0, 1.0),  # water: its own diameter
        (-500.0, 0.5),  # half the attenuation: half the area of water
        (1000.0, 2.0),
        (-1000.0, 0.0),
        (-1024.0, 0.0),  # padding is no less than air
    ],
)
def test_water_equivalent_diameter_of_a_cylinder(hu: float, share: float) -> None:
    mask = disk(150)
    size = body_size(np.where(mask, hu, -1000).astype(np.float32), mask, (0.8, 0.8))
    assert size is not None
    assert size.water_equivalent_diameter_mm == pytest.approx(240.0 * share**0.5, rel=2e-3)
    assert not size.truncated


def test_what_lies_outside_the_mask_does_not_count() -> None:
    mask = disk(100)
    size = body_size(np.where(mask, 0, 3000).astype(np.float32), mask, (1.0, 1.0))
    assert size is not None
    assert size.water_equivalent_diameter_mm == pytest.approx(200.0, rel=2e-3)


def test_pixels_need_not_be_square() -> None:
    mask = disk(100)
    size = body_size(np.zeros((400, 400), np.float32), mask, (2.0, 0.5))
    assert size is not None
    assert size.water_equivalent_diameter_mm == pytest.approx(200.0, rel=2e-3)  # same area


def test_a_body_cut_by_the_field_of_view_is_told() -> None:
    mask = np.hypot(X, Y) < 230
    size = body_size(np.zeros((400, 400), np.float32), mask, (1.0, 1.0))
    assert size is not None
    assert size.truncated


def test_nothing_without_a_body_or_a_spacing() -> None:
    hu = np.zeros((400, 400), np.float32)
    assert body_size(hu, np.zeros((400, 400), bool), (1.0, 1.0)) is None
    assert body_size(hu, disk(100), None) is None


@pytest.mark.parametrize(
    ("diameter_cm", "phantom_cm", "head", "factor"),
    [
        (30, 32, False, 1.23),  # AAPM Report 204, table 1D: effective diameter 30 cm, 32 cm phantom
        (20, 32, False, 1.78),
        (16, 16, False, 1.01),  # table 2D: 16 cm phantom
        (18, 16, True, 0.828),  # 1.9852 * exp(-0.0486 * 18), AAPM Report 293
    ],
)
def test_conversion_factors_of_the_reports(
    diameter_cm: float, phantom_cm: int, head: bool, factor: float
) -> None:
    dose = size_specific_dose(10.0, diameter_cm * 10.0, phantom_cm=phantom_cm, head=head)
    assert dose == pytest.approx(10.0 * factor, abs=0.06)


@pytest.mark.parametrize(("diameter_mm", "phantom_cm"), [(60.0, 32), (460.0, 32), (300.0, 10)])
def test_outside_the_tables_there_is_no_estimate(diameter_mm: float, phantom_cm: int) -> None:
    assert size_specific_dose(10.0, diameter_mm, phantom_cm=phantom_cm) is None
