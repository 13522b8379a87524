"""Correlated random texture in three dimensions, one axial plane at a time."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

from n2q_edge.arrays import FloatArray

LATTICE = 512  # points a side
PITCH_MM = 0.75  # the lattice's spacing; it repeats every LATTICE * PITCH_MM = 384 mm, a body's width


class Texture:
    """A stationary Gaussian field of unit variance whose correlation falls as a Gaussian of the distance.

    Each in-plane Fourier mode turns its phase along z at a rate drawn from the same spectrum, so the field is
    continuous and equally correlated in z, and any plane costs one FFT.

    Args:
        correlation_mm: standard deviation of the Gaussian correlation function, mm; at least 1.
        rng: source of the field.
    """

    def __init__(self, correlation_mm: float, rng: np.random.Generator) -> None:
        kx = 2 * np.pi * fft.rfftfreq(LATTICE, PITCH_MM)
        ky = 2 * np.pi * fft.fftfreq(LATTICE, PITCH_MM)[:, None]
        amplitude = np.exp(-(kx**2 + ky**2) * correlation_mm**2 / 4)
        amplitude[0, 0] = 0.0
        modes = rng.standard_normal(amplitude.shape) + 1j * rng.standard_normal(amplitude.shape)
        # Parseval: a half spectrum of variance 2|a|^2 stands for its mirror image too.
        total = 2 * (2 * np.sum(amplitude**2) - np.sum(amplitude[:, [0, -1]] ** 2))
        self._spectrum = (modes * amplitude * (LATTICE**2 / np.sqrt(total))).astype(np.complex64)
        self._turn = (rng.standard_normal(amplitude.shape) / correlation_mm).astype(np.float32)

    def at(self, x: FloatArray, y: FloatArray, z: float) -> FloatArray:
        """The field, float32 [H,W], on the grid x [1,W], y [H,1] in mm, at height z in mm."""
        lattice = fft.irfft2(self._spectrum * np.exp(1j * self._turn * np.float32(z)), s=(LATTICE, LATTICE))
        where = np.broadcast_arrays(y / np.float32(PITCH_MM), x / np.float32(PITCH_MM))
        return np.asarray(
            ndimage.map_coordinates(lattice, where, order=1, mode="grid-wrap", output=np.float32)
        )
