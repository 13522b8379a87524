"""The synthetic patient: the right organs, on the right side, at the right CT numbers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from n2q_edge.simulation import organs
from n2q_edge.simulation.phantom import Phantom, slice_hu

SIZE, PIXEL_MM = 256, 380 / 256
HEIGHTS = (2.5, 32.5, 62.5, 92.5, 117.5)


@pytest.fixture(scope="module")
def slices() -> dict[float, NDArray[np.float32]]:
    phantom = Phantom(0)
    return {z: phantom.slice_hu(z, SIZE, PIXEL_MM) for z in HEIGHTS}


def _mask(hu: NDArray[np.float32], low: float, high: float) -> NDArray[np.bool_]:
    return (hu > low) & (hu < high)


def test_a_slice_is_float32_hounsfield_units(slices: dict[float, NDArray[np.float32]]) -> None:
    for hu in slices.values():
        assert hu.dtype == np.float32
        assert hu.shape == (SIZE, SIZE)
        assert np.all(np.isfinite(hu))
        assert -1050 < hu.min() < -950  # air and its absence of texture
        assert 500 < hu.max() < 1500  # cortical bone
        assert hu[:10, :10] == pytest.approx(-1000, abs=1)


def test_the_body_is_as_large_as_a_body(slices: dict[float, NDArray[np.float32]]) -> None:
    for z, hu in slices.items():
        inside = hu[: SIZE // 2] > -200  # the front half: the table is behind
        width_mm = np.ptp(np.flatnonzero(inside.any(axis=0))) * PIXEL_MM
        assert 280 < width_mm < 375, z


def test_lungs_are_above_and_kidneys_below(slices: dict[float, NDArray[np.float32]]) -> None:
    lung = [int(_mask(hu, -950, -750)[40:190, 40:216].sum()) for hu in slices.values()]
    assert lung[-1] > 20 * max(lung[0], 1)
    assert lung[-1] * PIXEL_MM**2 > 20_000  # mm2: two lungs
    kidney = [int(_mask(hu, 176, 200)[110:190].sum()) for hu in slices.values()]
    assert kidney[0] > 200
    assert kidney[-1] < kidney[0] / 4


def test_the_liver_is_on_the_patients_right_and_the_table_behind(
    slices: dict[float, NDArray[np.float32]],
) -> None:
    hu = slices[62.5]
    liver = _mask(hu, 98, 118)
    assert liver[:, : SIZE // 2].sum() > 4 * liver[:, SIZE // 2 :].sum()  # column 0 is the patient's right
    assert np.any(hu[SIZE * 3 // 4 :, SIZE // 2] > -600)
    assert np.all(hu[: SIZE // 8, SIZE // 2] < -950)


def test_liver_and_air_have_their_documented_values(slices: dict[float, NDArray[np.float32]]) -> None:
    liver = _mask(slices[62.5], 95, 121)[:, : SIZE // 2]
    assert slices[62.5][:, : SIZE // 2][liver].mean() == pytest.approx(organs.LIVER.hu, abs=2.5)


def test_every_slice_has_structure_inside_the_display_window(
    slices: dict[float, NDArray[np.float32]],
) -> None:
    for z, hu in slices.items():
        shown = _mask(hu, -110, 190)
        gradient = np.hypot(*np.gradient(hu))
        assert shown.sum() * PIXEL_MM**2 > 12_000, z
        assert np.median(gradient[shown]) > 1.0, z  # HU per pixel: nowhere flat


def test_the_anatomy_is_continuous_along_z() -> None:
    phantom = Phantom(3)
    base = phantom.slice_hu(50.0, 128, 380 / 128)
    steps = [
        float(np.abs(phantom.slice_hu(50.0 + dz, 128, 380 / 128) - base).mean()) for dz in (0.1, 1.0, 10.0)
    ]
    assert steps[0] < 0.15 * steps[1]  # a tenth of the way changes about a tenth as much: no jumps
    assert steps[1] < 0.6 * steps[2]


def test_another_matrix_shows_the_same_patient() -> None:
    phantom = Phantom(1)
    fine = phantom.slice_hu(40.0, 256, 380 / 256)
    coarse = phantom.slice_hu(40.0, 128, 380 / 128)
    binned = fine.reshape(128, 2, 128, 2).mean(axis=(1, 3))
    assert np.corrcoef(binned.ravel(), coarse.ravel())[0, 1] > 0.995


def test_the_seed_is_the_patient() -> None:
    first = slice_hu(30.0, 128, 3.0, seed=5)
    assert np.array_equal(first, Phantom(5).slice_hu(30.0, 128, 3.0))
    assert np.abs(first - slice_hu(30.0, 128, 3.0, seed=6)).mean() > 20


@pytest.mark.parametrize("seed", range(4))
def test_lesions_are_in_the_liver_apart_and_of_the_documented_contrast(seed: int) -> None:
    lesions = Phantom(seed).lesions
    contrasts = [lesion.tissue.hu - organs.LIVER.hu for lesion in lesions]
    assert contrasts == [-45, -35, -25, -18, -12, organs.CYST.hu - organs.LIVER.hu]
    for index, lesion in enumerate(lesions):
        assert lesion.centre[0] < 0  # the right lobe
        for other in lesions[:index]:
            assert np.linalg.norm(np.subtract(lesion.centre, other.centre)) > lesion.radius + other.radius


def test_tissues_lie_in_the_usual_clinical_ranges() -> None:
    """120 kVp, portal venous phase."""
    ranges = {
        "FAT": (-120, -80),
        "LUNG": (-900, -750),
        "MUSCLE": (45, 70),
        "LIVER": (90, 130),
        "SPLEEN": (100, 140),
        "ARTERY": (130, 200),
        "RENAL_CORTEX": (150, 230),
        "BILE": (0, 20),
        "TRABECULAR_BONE": (100, 300),
        "CORTICAL_BONE": (500, 1500),
    }
    for name, (low, high) in ranges.items():
        assert low < getattr(organs, name).hu < high, name
