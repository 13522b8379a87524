"""Parallel-beam forward projection and filtered back-projection, compiled with numba.

Conventions: the image is square, its centre is the rotation centre; lengths are millimetres; a view at angle
theta integrates along the direction (-sin theta, cos theta) at the signed distance t from the centre.
Sources: Joseph, IEEE TMI 1 (1982) for the projector; Kak & Slaney, Principles of Computerized Tomographic
Imaging (1988), eq. 61 for the band-limited ramp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy import fft

from n2q_edge.arrays import FloatArray

DEFAULT_VIEWS = 576


@dataclass(frozen=True)
class Geometry:
    """A parallel-beam scan of a square image.

    Attributes:
        size: image rows and columns.
        pixel_mm: pixel and detector spacing, mm.
        views: projections over 180 degrees.
        detectors: rays a view; they cover the image's diagonal.
    """

    size: int
    pixel_mm: float
    views: int
    detectors: int

    @classmethod
    def for_image(cls, size: int, pixel_mm: float, views: int = DEFAULT_VIEWS) -> Geometry:
        """The scan that covers a `size` x `size` image to its corners."""
        return cls(size, float(pixel_mm), views, int(np.ceil(size * np.sqrt(2.0))) + 3)

    @property
    def angles(self) -> NDArray[np.float64]:
        """View angles in radians, [views]."""
        return np.arange(self.views, dtype=np.float64) * (np.pi / self.views)

    @property
    def ray_positions_mm(self) -> NDArray[np.float64]:
        """Signed distance of each ray from the centre, mm, [detectors]."""
        return (np.arange(self.detectors, dtype=np.float64) - (self.detectors - 1) / 2) * self.pixel_mm


def forward_project(attenuation: FloatArray, geometry: Geometry) -> FloatArray:
    """Line integrals of an attenuation image.

    Args:
        attenuation: float32 [size, size], linear attenuation in 1/mm.
        geometry: the scan.

    Returns:
        float32 [views, detectors], dimensionless.
    """
    image = np.ascontiguousarray(attenuation, dtype=np.float32)
    rays = np.empty((geometry.views, geometry.detectors), dtype=np.float32)
    _project(image, np.ascontiguousarray(image.T), geometry.angles, rays)
    rays *= np.float32(geometry.pixel_mm)
    return rays


def filtered_back_projection(sinograms: FloatArray, geometry: Geometry, cutoff: float = 1.0) -> FloatArray:
    """Reconstruct images from their line integrals.

    Args:
        sinograms: float32 [K, views, detectors].
        geometry: the scan.
        cutoff: where the Hann apodisation reaches zero, in units of the detector's Nyquist frequency. Above 1
            it is cut off at Nyquist before it reaches zero (a sharper kernel).

    Returns:
        float32 [K, size, size], 1/mm.
    """
    response = _ramp_response(geometry.detectors, geometry.pixel_mm, cutoff)
    padded = 2 * (response.size - 1)
    spectrum = fft.rfft(sinograms, n=padded, axis=-1)
    filtered = fft.irfft(spectrum * response, n=padded, axis=-1)[..., : geometry.detectors]
    # The images of one scan share every interpolation weight: keep them next to each other in memory.
    interleaved = np.ascontiguousarray(np.moveaxis(filtered, 0, -1), dtype=np.float32)
    images = np.zeros((geometry.size, geometry.size, sinograms.shape[0]), dtype=np.float32)
    _back_project(interleaved, geometry.angles, images)
    images *= np.float32(np.pi / geometry.views)
    return np.ascontiguousarray(np.moveaxis(images, -1, 0))


@lru_cache(maxsize=64)
def _ramp_response(detectors: int, spacing_mm: float, cutoff: float) -> FloatArray:
    """Ramp times Hann on the rfft grid of a signal padded to at least twice its length, 1/mm."""
    padded = 1 << int(np.ceil(np.log2(2 * detectors)))
    lag = np.minimum(np.arange(padded), padded - np.arange(padded))
    kernel = np.zeros(padded)
    kernel[0] = 0.25
    odd = lag % 2 == 1
    kernel[odd] = -1.0 / (np.pi * lag[odd]) ** 2
    ramp = fft.rfft(kernel).real / spacing_mm
    relative = np.linspace(0.0, 1.0, ramp.size)  # of the Nyquist frequency
    hann = np.where(relative < cutoff, 0.5 * (1.0 + np.cos(np.pi * np.minimum(relative / cutoff, 1.0))), 0.0)
    return np.asarray(ramp * hann, dtype=np.float32)


@njit(parallel=True, fastmath=True, cache=True)
def _project(image, transposed, angles, rays):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Joseph: step along the axis nearest to the ray, interpolate across it; unit: pixels."""
    size = image.shape[0]
    detectors = rays.shape[1]
    centre = (size - 1) / 2
    for view in prange(angles.size):
        cos, sin = np.cos(angles[view]), np.sin(angles[view])
        along_rows = abs(cos) >= abs(sin)
        # x = t cos - s sin, y = t sin + s cos: solve for the coordinate across the stepping axis.
        if along_rows:
            source, slope, per_t, step = image, -sin / cos, 1.0 / cos, 1.0 / abs(cos)
        else:
            source, slope, per_t, step = transposed, -cos / sin, 1.0 / sin, 1.0 / abs(sin)
        for detector in range(detectors):
            t = detector - (detectors - 1) / 2
            position = centre + t * per_t - slope * centre
            total = 0.0
            for row in range(size):
                low = int(np.floor(position))
                weight = position - low
                if 0 <= low < size - 1:
                    total += source[row, low] * (1.0 - weight) + source[row, low + 1] * weight
                elif low == -1:
                    total += source[row, 0] * weight
                elif low == size - 1:
                    total += source[row, low] * (1.0 - weight)
                position += slope
            rays[view, detector] = total * step


@njit(parallel=True, fastmath=True, cache=True)
def _back_project(filtered, angles, images):  # type: ignore[no-untyped-def] # pragma: no cover - compiled
    """Pixel-driven, linear interpolation; `filtered` is [views, detectors, K], `images` [size, size, K]."""
    size = images.shape[0]
    count = images.shape[2]
    detectors = filtered.shape[1]
    centre = (size - 1) / 2
    for row in prange(size):
        y = row - centre
        for view in range(angles.size):
            cos, sin = np.float32(np.cos(angles[view])), np.float32(np.sin(angles[view]))
            position = np.float32(y * sin - centre * cos + (detectors - 1) / 2)
            for column in range(size):
                low = int(position)
                weight = position - np.float32(low)
                if 0 <= low < detectors - 1:
                    for k in range(count):
                        below = filtered[view, low, k]
                        images[row, column, k] += below + weight * (filtered[view, low + 1, k] - below)
                position += cos
