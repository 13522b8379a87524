"""From one slice's quality map and body mask to numbers: scores, dose level, expected error.

Nothing is invented: without a body the number is None.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from n2q_edge.arrays import BoolArray, FloatArray
from n2q_edge.quality.noise import CELL_CENTERS, at_cell_centers

NO_HISTOGRAM = array("I")  # one for all: empty ones take memory, too

QUALITY_THRESHOLD = 0.5
"""`Quality.below_threshold` is the fraction of body pixels whose predicted SSIM is lower than this."""
HISTOGRAM_BINS = 20  # of `Quality.histogram`


@dataclass(frozen=True, slots=True)
class Quality:
    """Predicted SSIM over the body mask of one slice.

    Attributes:
        mean: mean SSIM.
        p05: 5th percentile.
        below_threshold: fraction of body pixels below `QUALITY_THRESHOLD`.
        histogram: body pixels in `HISTOGRAM_BINS` equal bins from 0 to 1, so that other thresholds can be
            asked later; empty where it was not wanted. An array: 20 objects would be a quarter of what a
            slice leaves in memory.
    """

    mean: float
    p05: float
    below_threshold: float
    histogram: array[int]


@dataclass(frozen=True, slots=True)
class Dose:
    """The dose a slice looks like.

    Attributes:
        level: most probable level, percent of full dose.
        probabilities: of every level of the model, in its order; they sum to 1.
    """

    level: float
    probabilities: tuple[float, ...]


def quality_scores(quality_map: FloatArray, mask: BoolArray, *, histogram: bool = True) -> Quality | None:
    """Scores of a quality map [H,W] within a mask [H,W]; None where the mask is empty."""
    values = quality_map[mask]
    if values.size == 0:
        return None
    fifth = int(0.05 * (values.size - 1))  # of the sorted values
    counts = NO_HISTOGRAM
    if histogram:
        bins = _bins(values)
        found = _counts(bins)
        counts = array("I", found.tolist())
        up_to = found.cumsum()
        at = int(up_to.searchsorted(fifth, side="right"))  # the bin it is in: only that is sorted
        low, fifth = values[bins == at], fifth - int(up_to[at] - found[at])
    else:
        low = values
    return Quality(
        mean=float(values.sum() / values.size),  # numpy sums pairwise: exact to 1e-7
        p05=float(np.partition(low, fifth)[fifth]),
        below_threshold=float(np.count_nonzero(values < QUALITY_THRESHOLD) / values.size),
        histogram=counts,
    )


def _bins(values: FloatArray) -> NDArray[np.uint8]:
    """The bin of every value; what lies outside is in the first or the last."""
    places = values * np.float32(HISTOGRAM_BINS)
    np.clip(places, 0, HISTOGRAM_BINS - 1, out=places)
    bins: NDArray[np.uint8] = places.astype(np.uint8)
    return bins


def _counts(bins: NDArray[np.uint8]) -> NDArray[np.intp]:
    """How often every bin occurs. Two pixels are counted at a time, at half the price."""
    pairs = bins[: bins.size // 2 * 2].view(np.uint16)
    table = np.bincount(pairs, minlength=HISTOGRAM_BINS << 8).reshape(HISTOGRAM_BINS, 256)
    counts: NDArray[np.intp] = table.sum(axis=1) + table.sum(axis=0)[:HISTOGRAM_BINS]
    if bins.size % 2:
        counts[bins[-1]] += 1
    return counts


def dose_scores(probabilities: FloatArray, dose_levels: tuple[float, ...]) -> Dose:
    """The dose from class probabilities [K] and the levels [K] as fractions of full dose."""
    return Dose(
        level=to_percent(dose_levels[int(probabilities.argmax())]),
        probabilities=tuple(float(p) for p in probabilities),
    )


def expected_error(log_variance: FloatArray, mask: BoolArray, cell: int = 1) -> float | None:
    """Root mean square error, in SSIM units, that a model expects of its quality map within a mask.

    Args:
        log_variance: [H/cell,W/cell], log of the variance of the map's error.
        mask: [H,W].
        cell: `ModelSpec.map_cell`.
    """
    inside = at_cell_centers(log_variance, mask, cell)[mask[CELL_CENTERS]]
    return float(np.sqrt(np.exp(inside, dtype=np.float64).mean())) if inside.size else None


def to_percent(fraction: float) -> float:
    """A fraction in percent, without the last bits' rounding (0.07 -> 7.0, not 7.000000000000001)."""
    return round(fraction * 100, 6)
