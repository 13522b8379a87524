"""Control limits for individual values (I-MR chart), and how quality follows dose.

Limits: centre line at the median, limits 3 sigma away, sigma estimated as the median moving range over 0.954
(the median of the range of two normal values: d4 of Wheeler, "Advanced Topics in Statistical Process
Control", 1995; so the limits lie at 3.145 median moving ranges). Medians, because a few bad scans must not
widen the limits that are to find them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

MIN_VALUES = 12
"""With fewer the limits are no better than a guess, so none are given."""

D4 = 0.954
MOVING_RANGE_LIMIT = 3.865  # of the moving range, in median moving ranges (Wheeler)


@dataclass(frozen=True)
class Limits:
    """Of an I-MR chart.

    Attributes:
        centre: median.
        low: centre - 3 sigma.
        high: centre + 3 sigma.
        moving_range: upper limit of the moving range.
    """

    centre: float
    low: float
    high: float
    moving_range: float

    def outside(self, value: float) -> bool:
        """Whether `value` is an outlier."""
        return not self.low <= value <= self.high


def control_limits(values: Sequence[float]) -> Limits | None:
    """Limits from values in time order; None with fewer than `MIN_VALUES`."""
    if len(values) < MIN_VALUES:
        return None
    centre = statistics.median(values)
    moving = statistics.median(moving_ranges(values))
    reach = 3 * moving / D4
    return Limits(centre, centre - reach, centre + reach, MOVING_RANGE_LIMIT * moving)


def moving_ranges(values: Sequence[float]) -> list[float]:
    """Distances between neighbours."""
    return [abs(after - before) for before, after in pairwise(values)]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rho; None with fewer than 5 pairs or where one side is constant."""
    if len(x) < 5 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    from scipy.stats import spearmanr

    rho = float(spearmanr(x, y).statistic)
    return rho if math.isfinite(rho) else None
