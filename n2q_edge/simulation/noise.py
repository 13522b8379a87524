"""Noise-only insertion in the projection domain: what a slice would look like at a lower dose.

Per ray with line integral p, inserted noise has the variance (Yu et al., J Comput Assist Tomogr 36, 2012)

    (1 - D)/D * exp(p)/N0 * (1 + (1 + D)/D * Ne * exp(p)/N0)

with D the dose fraction, N0 the incident quanta of the ray at full dose (shaped by the bow-tie filter) and Ne
the electronic noise in quanta. It is reconstructed alone and added in HU. N0 and the reconstruction kernel
are those of the slice's own noise (see `simulation.calibration`), so that D means what it says: at D = 1/2
the inserted noise equals the noise the slice already has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from n2q_edge.arrays import FloatArray
from n2q_edge.simulation.calibration import Kernel, calibrate
from n2q_edge.simulation.continuation import continued
from n2q_edge.simulation.patches import solid_tissue
from n2q_edge.simulation.projector import DEFAULT_VIEWS, Geometry, filtered_back_projection, forward_project

WATER_ATTENUATION = 0.0195  # 1/mm, water near 68 keV, the effective energy of a 120 kVp body scan (NIST XCOM)
BOWTIE_RADIUS_MM = 150.0  # the water cylinder the bow-tie partly evens out
BOWTIE_STRENGTH = 0.5  # share of that cylinder's path that the bow-tie replaces towards the edge
DEFAULT_ELECTRONIC_QUANTA = 10.0

REDUCED_SIDE = 256  # pixels: line integrals of larger slices are taken on a grid of half the resolution

Normals = Callable[[tuple[int, ...]], FloatArray]
"""Independent standard normal numbers of a shape."""


@dataclass(frozen=True)
class NoiseBasis:
    """Independent noise images of one slice, scaled to its own full dose.

    Attributes:
        quantum: float32 [Q,H,W], HU: quantum noise of one full-dose scan each.
        electronic: float32 [E,H,W], HU: the electronic term for `electronic_quanta`.
        electronic_quanta: Ne behind `electronic`.
    """

    quantum: FloatArray
    electronic: FloatArray
    electronic_quanta: float


def relative_fluence(geometry: Geometry) -> NDArray[np.float64]:
    """Bow-tie: incident quanta of each ray over those of the central ray, [detectors]."""
    t = np.minimum(np.abs(geometry.ray_positions_mm), BOWTIE_RADIUS_MM)
    missing_path = 2.0 * (BOWTIE_RADIUS_MM - np.sqrt(BOWTIE_RADIUS_MM**2 - t**2))
    return np.exp(-BOWTIE_STRENGTH * WATER_ATTENUATION * missing_path)


def line_integrals(hu: FloatArray, geometry: Geometry) -> FloatArray:
    """Line integrals of a slice [H,H] in HU; float32 [views, detectors].

    A body cut off by the field of view is continued first. Variances need no fine rays: large slices are
    projected at half their resolution.
    """
    reduce = hu.shape[0] >= REDUCED_SIDE and hu.shape[0] % 2 == 0
    if reduce:
        hu = hu.reshape(hu.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    grid = Geometry.for_image(hu.shape[0], geometry.pixel_mm * (2 if reduce else 1), geometry.views)
    attenuation = WATER_ATTENUATION * (1.0 + np.clip(continued(hu), -1000.0, 3071.0) / 1000.0)
    rays = forward_project(attenuation.astype(np.float32), grid)
    if not reduce:
        return rays
    place = geometry.ray_positions_mm / grid.pixel_mm + (grid.detectors - 1) / 2
    low = np.clip(np.floor(place).astype(int), 0, grid.detectors - 2)
    share = (place - low).astype(np.float32)
    return np.asarray(rays[:, low] * (1 - share) + rays[:, low + 1] * share)


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
        cutoff: apodization (see `filtered_back_projection`); infinite for the bare ramp.
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
    return _unit_noise(hu, pixel_mm, cutoff, normals(rng), quantum, electronic, views)


def normals(rng: np.random.Generator) -> Normals:
    """Fresh numbers from a generator."""
    return lambda shape: rng.standard_normal(shape, dtype=np.float32)


def _unit_noise(
    hu: FloatArray, pixel_mm: float, cutoff: float, draw: Normals, quantum: int, electronic: int, views: int
) -> tuple[FloatArray, FloatArray]:
    if hu.ndim != 2 or hu.shape[0] != hu.shape[1]:
        raise ValueError(f"the projector needs a square slice, this one is {hu.shape}")
    geometry = Geometry.for_image(hu.shape[0], pixel_mm, views)
    rays = line_integrals(hu, geometry)
    per_quantum = np.exp(rays) / relative_fluence(geometry).astype(np.float32)
    draws = draw((quantum + electronic, *rays.shape))
    draws[:quantum] *= np.sqrt(per_quantum)
    draws[quantum:] *= per_quantum
    images = filtered_back_projection(draws, geometry, cutoff)
    images *= np.float32(1000.0 / WATER_ATTENUATION)
    return images[:quantum], images[quantum:]


def noise_basis(
    hu: FloatArray,
    pixel_mm: float,
    draw: Normals,
    *,
    quantum: int = 1,
    electronic: int = 1,
    electronic_quanta: float = DEFAULT_ELECTRONIC_QUANTA,
    views: int = DEFAULT_VIEWS,
) -> NoiseBasis:
    """Noise images with the strength and the texture of the slice's own noise.

    Args:
        hu: float32 [H,H] (square), the full-dose slice in HU.
        pixel_mm: pixel spacing, mm.
        draw: source of the noise (see `normals`).
        quantum: how many independent quantum noise images.
        electronic: how many independent electronic noise images.
        electronic_quanta: Ne, electronic noise in quanta.
        views: projections over 180 degrees.

    Raises:
        NoiseCalibrationError: too little soft tissue to measure the slice's noise.
        ValueError: the slice is not square.
    """
    quanta, circuit = _unit_noise(hu, pixel_mm, np.inf, draw, quantum, electronic, views)
    own = calibrate(hu, quanta, pixel_mm)
    strength = _quantum_share(own.kernel, quanta, circuit, electronic_quanta, solid_tissue(hu))
    scale = strength * own.kernel.strength * electronic_quanta**0.5
    return NoiseBasis(
        own.apply(quanta, pixel_mm) * np.float32(strength),
        own.apply(circuit, pixel_mm) * np.float32(strength * scale),
        electronic_quanta,
    )


def _quantum_share(
    kernel: Kernel,
    quantum: FloatArray,
    electronic: FloatArray,
    electronic_quanta: float,
    mask: NDArray[np.bool_],
) -> float:
    """Factor on the kernel's strength s that makes room for the electronic noise of the full dose itself.

    The kernel takes all noise for quantum noise: of x s instead, x^2 + x^4 s^2 Ne q = 1, with q the variance
    of electronic over that of quantum noise for one quantum.
    """
    ratio = float(electronic[:, mask].var() / quantum[:, mask].var())
    share = kernel.strength**2 * electronic_quanta * ratio
    return float(np.sqrt(2.0 / (1.0 + np.sqrt(1.0 + 4.0 * share))))


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


def drawn_noise(basis: NoiseBasis, dose: float) -> FloatArray:
    """The noise [H,W] in HU of the first quantum and the first electronic image, as they were drawn."""
    quantum, electronic = dose_factors(dose)
    return np.asarray(np.float32(quantum) * basis.quantum[0] + np.float32(electronic) * basis.electronic[0])


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
