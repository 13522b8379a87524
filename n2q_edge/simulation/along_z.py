"""Noise that neighboring slices share: measured on a series, and drawn.

A helix interpolates between turns and slices are reconstructed closer than they are thick, so noise goes on
from slice to slice. It is measured where anatomy does not: in the high band of the spectrum, in flat patches.
It is drawn as an autoregressive process of first order: of correlation rho with the neighbor, rho^2 with the
next but one.
"""

from __future__ import annotations

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.simulation.calibration import high_band_correlation
from n2q_edge.simulation.noise import Normals
from n2q_edge.simulation.patches import NoiseCalibrationError

DEFAULT_RHO = 0.3  # of neighbors that cannot be measured; a GE phantom at 5 mm has .31
LARGEST_RHO = 0.95


def measured_rho(pairs: list[tuple[FloatArray, FloatArray]], pixel_mm: float) -> float:
    """Correlation of the noise of neighbors, median over pairs [H,W] in HU; `DEFAULT_RHO` of none."""
    found = []
    for first, second in pairs:
        try:
            found.append(high_band_correlation(first, second, pixel_mm))
        except NoiseCalibrationError:
            continue
    return float(np.clip(np.median(found), 0.0, LARGEST_RHO)) if found else DEFAULT_RHO


class AlongZ:
    """Normal numbers for one slice after another, correlated with those of the slice before."""

    def __init__(self, rho: float) -> None:
        self.rho = rho
        self._last: FloatArray | None = None

    def slice(self, rng: np.random.Generator, *, neighbor: bool) -> Normals:
        """Numbers for the next slice, which follows on the last one or stands alone."""

        def draw(shape: tuple[int, ...]) -> FloatArray:
            numbers = rng.standard_normal(shape, dtype=np.float32)
            if neighbor and self._last is not None and self._last.shape == shape:
                numbers *= np.float32((1 - self.rho**2) ** 0.5)
                numbers += np.float32(self.rho) * self._last
            self._last = numbers.copy()
            return numbers

        return draw
