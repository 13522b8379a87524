"""Noise insertion against the laws it is meant to follow."""

import numpy as np
import pytest

pytest.importorskip("numba")

from n2q_edge.simulation import noise
from n2q_edge.simulation.patches import NoiseCalibrationError

SIZE, PIXEL_MM = 320, 0.9
Y, X = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) * PIXEL_MM
RADIUS = np.hypot(X, Y)


@pytest.fixture(scope="module")
def water() -> np.ndarray:
    """A water cylinder of 240 mm in air that already carries noise of about 10 HU."""
    rng = np.random.default_rng(3)
    hu = np.where(RADIUS < 120.0, 40.0, -1000.0).astype(np.float32)
    own, _ = noise.noise_images(hu, PIXEL_MM, 0.8, rng, views=320)
    own = own[0] * (10.0 / own[0][RADIUS < 100].std())
    return hu + own


@pytest.fixture(scope="module")
def basis(water: np.ndarray) -> noise.NoiseBasis:
    return noise.noise_basis(
        water,
        PIXEL_MM,
        noise.normals(np.random.default_rng(4)),
        quantum=4,
        electronic=2,
        electronic_quanta=0.0,
        views=320,
    )


@pytest.mark.parametrize("dose", [0.05, 0.1, 0.25, 0.5, 0.75])
def test_total_noise_follows_the_square_root_law(
    water: np.ndarray, basis: noise.NoiseBasis, dose: float
) -> None:
    """Without electronic noise a scan at dose D has 1/sqrt(D) times the full-dose noise."""
    inside = RADIUS < 100.0
    draws = [
        (water + noise.inserted_noise(basis, dose, np.random.default_rng(seed)))[inside].std()
        for seed in range(6)
    ]
    assert np.sqrt(np.mean(np.square(draws))) == pytest.approx(water[inside].std() / np.sqrt(dose), rel=0.05)


def test_inserted_noise_is_unbiased(water: np.ndarray, basis: noise.NoiseBasis) -> None:
    inside = RADIUS < 100.0
    inserted = noise.inserted_noise(basis, 0.1, np.random.default_rng(0))
    # Reconstructed noise has hardly any low frequencies, so its mean is far below std / sqrt(pixels).
    assert abs(inserted[inside].mean()) < inserted[inside].std() / np.sqrt(inside.sum())


def test_noise_has_the_correlation_of_the_slice(water: np.ndarray, basis: noise.NoiseBasis) -> None:
    def correlation(image: np.ndarray) -> float:
        residual = image - 40.0 * (image is water)
        inside = RADIUS < 90.0
        products = [(residual * np.roll(residual, 1, axis))[inside].mean() for axis in (0, 1)]
        return float(np.mean(products) / residual[inside].var())

    found = np.mean([correlation(image) for image in basis.quantum])
    assert found == pytest.approx(correlation(water), abs=0.05)


def test_noise_falls_from_the_centre_to_the_edge(basis: noise.NoiseBasis) -> None:
    """Rays through the middle of a cylinder are the weakest."""
    centre = basis.quantum[:, RADIUS < 25.0].std()
    edge = basis.quantum[:, (RADIUS > 100.0) & (RADIUS < 115.0)].std()
    assert 1.2 < centre / edge < 3.0


def test_electronic_noise_grows_faster_than_quantum_noise() -> None:
    """Variances: quantum (1-D)/D, electronic (1-D)(1+D)/D^2 (Yu et al. 2012)."""
    quantum, electronic = noise.dose_factors(0.25)
    assert quantum**2 == pytest.approx(0.75 / 0.25)
    assert electronic**2 == pytest.approx(0.75 / 0.25 * 1.25 / 0.25)


def test_full_dose_inserts_nothing(basis: noise.NoiseBasis) -> None:
    assert not noise.inserted_noise(basis, 1.0, np.random.default_rng(0)).any()


@pytest.mark.parametrize("dose", [0.0, -0.1, 1.01, float("nan")])
def test_dose_outside_its_range_is_refused(dose: float) -> None:
    with pytest.raises(ValueError, match="dose fraction"):
        noise.dose_factors(dose)


def test_a_slice_without_soft_tissue_is_refused() -> None:
    air = np.full((SIZE, SIZE), -1000.0, np.float32)
    with pytest.raises(NoiseCalibrationError, match="soft-tissue"):
        noise.noise_basis(air, PIXEL_MM, noise.normals(np.random.default_rng(0)), views=90)


def test_a_slice_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        noise.noise_images(np.zeros((8, 16), np.float32), 1.0, 1.0, np.random.default_rng(0))
