"""Noise-only insertion in the projection domain: what a slice would look like at a lower dose.

Per ray with line integral p, inserted noise has the variance (Yu et al., J Comput Assist Tomogr 36, 2012)

    (1 - D)/D * exp(p)/N0 * (1 + (1 + D)/D * Ne * exp(p)/N0)

with D the dose fraction, N0 the incident quanta of the ray at full dose (shaped by the bow-tie filter) and Ne
the electronic noise in quanta. It is reconstructed alone, with an apodisation that gives it the correlation
of the slice's own noise, and added in HU. N0 is calibrated on the slice, so that D means what it says: at
D = 1/2 the inserted noise equals the noise the slice already has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.simulation.projector import (
    DEFAULT_VIEWS,
    Geometry,
    filtered_back_projection,
    forward_project,
)

FloatArray = NDArray[np.float32]

WATER_ATTENUATION = 0.0195  # 1/mm, water near 68 keV, the effective energy of a 120 kVp body scan (NIST XCOM)
BOWTIE_RADIUS_MM = 150.0  # the water cylinder the bow-tie partly evens out
BOWTIE_STRENGTH = 0.5  # share of that cylinder's path that the bow-tie replaces towards the edge
DEFAULT_ELECTRONIC_QUANTA = 10.0

SOFT_TISSUE_HU = (-40.0, 140.0)  # muscle, organs, blood with contrast; fat and lung excluded
FLAT_WINDOW = 9  # pixels; local statistics
FLAT_PERCENTILE = 10.0
MIN_SOFT_PIXELS = 500
CUTOFFS = (0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.3, 1.8, 3.0)


class NoiseCalibrationError(ValueError):
    """The slice has too little soft tissue to measure its own noise."""


@dataclass(frozen=True)
class FlatNoise:
    """Noise of the flattest soft tissue: standard deviation in HU, neighbour correlation in [-1, 1]."""

    std_hu: float
    correlation: float


@dataclass(frozen=True)
class NoiseBasis:
    """Independent noise images of one slice, scaled to its own full dose.

    Attributes:
        quantum: float32 [Q,H,W], HU: quantum noise of one full-dose scan each.
        electronic: float32 [E,H,W], HU: the electronic term for `electronic_quanta`.
        electronic_quanta: Ne behind `electronic`.
        cutoff: apodisation used (see `filtered_back_projection`).
    """

    quantum: FloatArray
    electronic: FloatArray
    electronic_quanta: float
    cutoff: float


def soft_tissue(hu: FloatArray) -> NDArray[np.bool_]:
    """Pixels whose whole `FLAT_WINDOW` neighbourhood averages to soft tissue without gas or bone nearby."""
    smooth = ndimage.uniform_filter(hu, FLAT_WINDOW)
    inside = (smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1])
    return np.asarray(ndimage.binary_erosion(inside, iterations=2))


def local_std(image: FloatArray) -> FloatArray:
    """Standard deviation over the `FLAT_WINDOW` square around each pixel, same unit as the image."""
    # Variance by moments in float64: HU offsets of 1000 would cost float32 its digits.
    exact = image.astype(np.float64)
    mean = ndimage.uniform_filter(exact, FLAT_WINDOW)
    variance = ndimage.uniform_filter(exact * exact, FLAT_WINDOW) - mean * mean
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)), dtype=np.float32)


def flat_noise(image: FloatArray, mask: NDArray[np.bool_]) -> FlatNoise:
    """Measure the noise where the image is flattest.

    Args:
        image: float32 [H,W], HU (a slice, or noise alone).
        mask: bool [H,W], where to look.

    Raises:
        NoiseCalibrationError: fewer than `MIN_SOFT_PIXELS` pixels in the mask.
    """
    if int(mask.sum()) < MIN_SOFT_PIXELS:
        raise NoiseCalibrationError(f"only {int(mask.sum())} soft-tissue pixels, {MIN_SOFT_PIXELS} needed")
    std = local_std(image)
    level = float(np.percentile(std[mask], FLAT_PERCENTILE))
    flattest = mask & (std <= level)
    residual = image - ndimage.uniform_filter(image, FLAT_WINDOW)
    variance = float(np.mean(residual[flattest] ** 2))
    products = [
        float(np.mean((residual * np.roll(residual, shift, axis))[flattest]))
        for axis in (0, 1)
        for shift in (1, -1)
    ]
    return FlatNoise(level, float(np.mean(products)) / max(variance, 1e-12))


def match_cutoff(correlation: float) -> float:
    """The apodisation whose simulated noise, in a water cylinder, has this neighbour correlation."""
    correlations = _correlation_table()
    return float(np.exp(np.interp(-correlation, -correlations, np.log(CUTOFFS))))


@lru_cache(maxsize=1)
def _correlation_table() -> NDArray[np.float64]:
    """Neighbour correlation for each of `CUTOFFS`, falling, measured exactly as `flat_noise` measures it."""
    geometry = Geometry.for_image(256, 1.0, 360)
    disc = _disc(256, 100.0)
    rays = forward_project(np.where(disc, np.float32(WATER_ATTENUATION), np.float32(0)), geometry)
    noise = np.exp(rays / 2) * np.random.default_rng(0).standard_normal(rays.shape)
    inside = _disc(256, 80.0)
    found = [
        flat_noise(filtered_back_projection(noise[None].astype(np.float32), geometry, cutoff)[0], inside)
        for cutoff in CUTOFFS
    ]
    return np.minimum.accumulate([noise.correlation for noise in found])


def _disc(size: int, radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.asarray(x * x + y * y < radius * radius)


def relative_fluence(geometry: Geometry) -> NDArray[np.float64]:
    """Bow-tie: incident quanta of each ray over those of the central ray, [detectors]."""
    t = np.minimum(np.abs(geometry.ray_positions_mm), BOWTIE_RADIUS_MM)
    missing_path = 2.0 * (BOWTIE_RADIUS_MM - np.sqrt(BOWTIE_RADIUS_MM**2 - t**2))
    return np.exp(-BOWTIE_STRENGTH * WATER_ATTENUATION * missing_path)


def noise_images(
    hu: FloatArray,
    pixel_mm: float,
    cutoff: float,
    rng: np.random.Generator,
    *,
    quantum: int = 1,
    electronic: int = 1,
    views: int = DEFAULT_VIEWS,
) -> tuple[FloatArray, FloatArray]:
    """Reconstructed noise for one incident quantum (N0 = Ne = 1).

    Args:
        hu: float32 [H,H] (square), HU.
        pixel_mm: pixel spacing, mm.
        cutoff: apodisation.
        rng: source of the noise.
        quantum: how many independent quantum noise images.
        electronic: how many independent electronic noise images.
        views: projections over 180 degrees.

    Returns:
        quantum [Q,H,W] and electronic [E,H,W] noise in HU: the first scales with N0**-0.5, the second with
        Ne**0.5 / N0.

    Raises:
        ValueError: the slice is not square.
    """
    if hu.ndim != 2 or hu.shape[0] != hu.shape[1]:
        raise ValueError(f"the projector needs a square slice, this one is {hu.shape}")
    geometry = Geometry.for_image(hu.shape[0], pixel_mm, views)
    attenuation = WATER_ATTENUATION * (1.0 + np.clip(hu, -1000.0, 3071.0) / 1000.0)
    rays = forward_project(attenuation.astype(np.float32), geometry)
    per_quantum = np.exp(rays) / relative_fluence(geometry).astype(np.float32)
    draws = rng.standard_normal((quantum + electronic, *rays.shape), dtype=np.float32)
    draws[:quantum] *= np.sqrt(per_quantum)
    draws[quantum:] *= per_quantum
    images = filtered_back_projection(draws, geometry, cutoff)
    images *= np.float32(1000.0 / WATER_ATTENUATION)
    return images[:quantum], images[quantum:]


def noise_basis(
    hu: FloatArray,
    pixel_mm: float,
    rng: np.random.Generator,
    *,
    quantum: int = 1,
    electronic: int = 1,
    electronic_quanta: float = DEFAULT_ELECTRONIC_QUANTA,
    views: int = DEFAULT_VIEWS,
) -> NoiseBasis:
    """Noise images with the strength and the correlation of the slice's own noise.

    Args:
        hu: float32 [H,H] (square), the full-dose slice in HU.
        pixel_mm: pixel spacing, mm.
        rng: source of the noise.
        quantum: how many independent quantum noise images.
        electronic: how many independent electronic noise images.
        electronic_quanta: Ne, electronic noise in quanta.
        views: projections over 180 degrees.

    Raises:
        NoiseCalibrationError: too little soft tissue to measure the slice's noise.
        ValueError: the slice is not square.
    """
    mask = soft_tissue(hu)
    own = flat_noise(hu, mask)
    cutoff = match_cutoff(own.correlation)
    quantum_images, electronic_images = noise_images(
        hu, pixel_mm, cutoff, rng, quantum=quantum, electronic=electronic, views=views
    )
    unit = float(np.mean([flat_noise(image, mask).std_hu for image in quantum_images]))
    incident = (unit / own.std_hu) ** 2
    return NoiseBasis(
        quantum_images * np.float32(incident**-0.5),
        electronic_images * np.float32(electronic_quanta**0.5 / incident),
        electronic_quanta,
        cutoff,
    )


def inserted_noise(basis: NoiseBasis, dose: float, rng: np.random.Generator) -> FloatArray:
    """A fresh realisation of the noise that takes the slice from full dose to a lower one.

    A random unit combination of independent noise images of one covariance has that covariance too, so a few
    stored images give as many draws as training wants.

    Args:
        basis: the slice's noise images.
        dose: dose fraction in (0, 1].
        rng: source of the combination.

    Returns:
        float32 [H,W], HU, zero mean.

    Raises:
        ValueError: dose outside (0, 1].
    """
    quantum, electronic = dose_factors(dose)
    return np.asarray(
        np.float32(quantum) * _mix(basis.quantum, rng) + np.float32(electronic) * _mix(basis.electronic, rng)
    )


def dose_factors(dose: float) -> tuple[float, float]:
    """Factors of the quantum and the electronic noise image at a dose fraction in (0, 1].

    Raises:
        ValueError: dose outside (0, 1].
    """
    if not 0.0 < dose <= 1.0:
        raise ValueError(f"dose fraction {dose} is not in (0, 1]")
    quantum = (1.0 - dose) / dose
    return quantum**0.5, (quantum * (1.0 + dose) / dose) ** 0.5


def _mix(images: FloatArray, rng: np.random.Generator) -> FloatArray:
    weights = rng.standard_normal(images.shape[0])
    weights /= np.linalg.norm(weights)
    return np.asarray(np.tensordot(weights.astype(np.float32), images, axes=1))
