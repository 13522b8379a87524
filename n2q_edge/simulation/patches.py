"""Patches of soft tissue and the bands of their spectra: where noise can be told from anatomy."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from n2q_edge.arrays import FloatArray

Curve: TypeAlias = NDArray[np.float64]

SOFT_TISSUE_HU = (-40.0, 140.0)  # muscle, organs, blood with contrast; fat and lung excluded
SMOOTHING = 9  # pixels; a pixel is tissue if the mean around it is
MIN_SOFT_PIXELS = 500

PATCH_MM = 14.0
LEAST_PATCHES, MOST_PATCHES = 12, 600
ANATOMY_PER_MM = 0.2  # anatomy below, noise above
BANDS = 12


class NoiseCalibrationError(ValueError):
    """The slice has too little soft tissue to measure its own noise."""


def solid_tissue(hu: FloatArray) -> NDArray[np.bool_]:
    """Pixels whose whole neighborhood averages to soft tissue without gas or bone nearby."""
    smooth = ndimage.uniform_filter(hu, SMOOTHING)
    inside = (smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1])
    return np.asarray(ndimage.binary_erosion(inside, iterations=2))


def patch_side(pixel_mm: float) -> int:
    """Pixels of a patch."""
    return max(8, 2 * round(PATCH_MM / pixel_mm / 2))


def patch_corners(soft: NDArray[np.bool_], side: int) -> NDArray[np.intp]:
    """Upper left corners [N,2] of the patches that are soft tissue all over, a quarter of a side apart."""
    if int(soft.sum()) < MIN_SOFT_PIXELS:
        raise NoiseCalibrationError(f"only {int(soft.sum())} soft-tissue pixels, {MIN_SOFT_PIXELS} needed")
    step = side // 4
    share = ndimage.uniform_filter(soft.astype(np.float32), side, origin=-(side // 2))
    inside = share[:-side:step, :-side:step]
    for least in (0.999, 0.95, 0.9):
        corners = np.argwhere(inside >= least) * step
        if len(corners) >= LEAST_PATCHES:
            return corners[:: 1 + len(corners) // MOST_PATCHES]
    raise NoiseCalibrationError(f"only {len(corners)} patches of soft tissue, {LEAST_PATCHES} needed")


def mean_of_near(level: Curve, corners: NDArray[np.intp], side: int) -> Curve:
    """Means over neighboring patches."""
    distance = np.abs(corners[:, None] - corners[None]).max(axis=-1)
    near = distance <= 2 * side
    return np.asarray(near @ level / near.sum(axis=1))


def cos_twice(y: Curve, x: Curve) -> Curve:
    """cos(2 phi) of the frequency (x, y)."""
    square = x * x + y * y
    return np.asarray((x * x - y * y) / np.maximum(square, 1e-12))


class Bands:
    """Rings of a patch's spectrum; the first is below `ANATOMY_PER_MM`, the others lie above.

    Attributes:
        side: of a patch, pixels.
        count: frequencies of each band.
        frequency: mean frequency of each band, 1/mm.
        radius: frequency [side,side/2+1], 1/mm.
        lowest: of the bands above anatomy, 1/mm.
        cos_twice: cos(2 phi) of each frequency [side,side/2+1].
    """

    def __init__(self, side: int, pixel_mm: float, least: float = 0.25) -> None:
        lowest = max(min(ANATOMY_PER_MM, 0.25 / pixel_mm), least * 0.5 / pixel_mm)
        self.side = side
        axis = fft.fftfreq(side, pixel_mm)
        y, x = axis[:, None], axis[: side // 2 + 1]
        frequency = np.hypot(y, x)
        self.cos_twice = cos_twice(y, x)
        self.radius, self.lowest = frequency, lowest
        edges = np.linspace(lowest, 0.5 / pixel_mm, BANDS + 1)
        place = np.searchsorted(edges, frequency.ravel(), side="right")
        place[frequency.ravel() < 1.5 / (side * pixel_mm)] = BANDS + 1
        member = np.stack([place == band for band in range(BANDS + 1)], axis=1).astype(np.float64)
        kept = member.sum(axis=0) > 0
        self.count = member.sum(axis=0)[kept]
        self._mean = member[:, kept] / self.count
        self.frequency = frequency.ravel() @ self._mean
        window = np.hanning(side + 2)[1:-1]
        self._window = np.outer(window, window)
        self._window /= np.sqrt((self._window**2).sum())
        y, x = (np.mgrid[:side, :side] - (side - 1) / 2) / side
        terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
        self._trend, _ = np.linalg.qr(terms)

    def spectra(self, images: FloatArray, corners: NDArray[np.intp]) -> NDArray[np.complex128]:
        """Windowed spectra [K,N,side,side/2+1] of the patches of each image [K,H,W], without their trend."""
        views = np.lib.stride_tricks.sliding_window_view(images, (self.side, self.side), axis=(-2, -1))
        patches = views[:, corners[:, 0], corners[:, 1]].astype(np.float64)
        flat = patches.reshape(*patches.shape[:2], -1)
        flat = flat - (flat @ self._trend) @ self._trend.T
        return np.asarray(fft.rfft2(flat.reshape(patches.shape) * self._window))

    def power(self, images: FloatArray, corners: NDArray[np.intp]) -> Curve:
        """Power [K,N,side,side/2+1] in HU^2 of the patches of each image [K,H,W]."""
        return np.asarray(np.abs(self.spectra(images, corners)) ** 2)

    def means(self, power: Curve) -> Curve:
        """Means [K,N,B] over each band of quantities [K,N,side,side/2+1]."""
        return np.asarray(power.reshape(*power.shape[:2], -1) @ self._mean)
