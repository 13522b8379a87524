"""A slice's own noise told from its anatomy, on phantoms whose noise is known."""

from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("numba")

from n2q_edge.simulation.calibration import Kernel, calibrate, high_band_correlation
from n2q_edge.simulation.noise import noise_basis, noise_images, normals
from n2q_edge.simulation.patches import NoiseCalibrationError, solid_tissue
from n2q_edge.simulation.phantom import Phantom

PIXEL_MM = 0.7
NYQUIST = 0.5 / PIXEL_MM
KERNELS = {  # log power over (f / Nyquist)^2, from a soft kernel to one that boosts
    "soft": Kernel((0.0, -6.0), NYQUIST),
    "standard": Kernel((0.0, 0.0, -2.5), NYQUIST),
    "sharp": Kernel((0.0, 8.0, -8.0), NYQUIST),
    "modulated": Kernel((0.0, -2.0), NYQUIST, direction=0.8),
}
NOISE_HU = 12.0
Image = NDArray[np.float32]
Case = tuple[Image, Image, NDArray[np.bool_]]


@lru_cache(maxsize=1)
def anatomy() -> tuple[Image, Image]:
    """A textured abdomen, and noise of its rays under the bare ramp [2,H,W]."""
    hu = Phantom(1).slice_hu(20.0, 512, PIXEL_MM)
    unit, _ = noise_images(hu, PIXEL_MM, np.inf, np.random.default_rng(5), quantum=2)
    return hu, unit


@pytest.fixture(scope="module", params=KERNELS)
def case(request: pytest.FixtureRequest) -> Case:
    """A scan of the phantom, its noise, and where its soft tissue is."""
    hu, unit = anatomy()
    soft = solid_tissue(hu)
    noise = KERNELS[request.param].apply(unit[:1], PIXEL_MM)[0]
    noise *= np.float32(NOISE_HU / noise[soft].std())
    return np.rint(hu + noise), noise, soft


@pytest.fixture(scope="module")
def inserted(case: Case) -> Image:
    return noise_basis(case[0], PIXEL_MM, normals(np.random.default_rng(9)), quantum=3).quantum


def neighbors(image: Image, mask: NDArray[np.bool_], axis: int) -> float:
    """Correlation with the next pixel inside a mask."""
    return float((image * np.roll(image, 1, axis))[mask].mean() / image[mask].var())


def test_the_strength_is_that_of_the_noise_without_the_anatomy(case: Case, inserted: Image) -> None:
    _, noise, soft = case
    assert inserted[:, soft].std() == pytest.approx(noise[soft].std(), rel=0.08)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_texture_is_that_of_the_noise_along_rows_and_columns(
    case: Case, inserted: Image, axis: int
) -> None:
    _, noise, soft = case
    found = np.mean([neighbors(image, soft, axis) for image in inserted])
    assert found == pytest.approx(neighbors(noise, soft, axis), abs=0.06)


def test_inserted_noise_does_not_move_the_mean(case: Case, inserted: Image) -> None:
    _, _, soft = case
    means = inserted[:, soft].mean(axis=1)
    assert np.all(np.abs(means) < 0.03 * NOISE_HU)


def test_a_kernel_keeps_the_mean_and_boosts_what_it_says() -> None:
    """A wave of 0.4/mm along the rows, c1 = 2: amplitude times exp(2 (0.4 / 0.8)^2 / 2) = exp(0.25)."""
    kernel = Kernel((0.0, 2.0), 0.8)
    x = np.arange(100)
    wave = np.tile(np.cos(2 * np.pi * 0.4 * 0.5 * x), (100, 1)).astype(np.float32)
    found = kernel.apply(3.0 + wave[None], 0.5)[0]
    np.testing.assert_allclose(found, 3.0 + np.exp(0.25) * wave, atol=1e-4)


def test_too_little_soft_tissue_is_an_error() -> None:
    air = np.full((256, 256), -1000.0, np.float32)
    with pytest.raises(NoiseCalibrationError, match="soft-tissue"):
        calibrate(air, air[None], PIXEL_MM)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_shared_noise_of_two_slices_is_measured(rho: float) -> None:
    """Same anatomy, noise of which rho is shared."""
    hu, unit = anatomy()
    noise = KERNELS["standard"].apply(unit, PIXEL_MM)
    noise *= np.float32(NOISE_HU / noise[:, solid_tissue(hu)].std())
    second = np.float32(rho) * noise[0] + np.float32((1 - rho**2) ** 0.5) * noise[1]
    assert high_band_correlation(hu + noise[0], hu + second, PIXEL_MM) == pytest.approx(rho, abs=0.06)
