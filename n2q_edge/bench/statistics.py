"""Figures of many samples, and of two candidates that took turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from n2q_edge.assessment.timing import percentiles


@dataclass(frozen=True)
class Summary:
    """Samples of one quantity, in the samples' unit.

    Attributes:
        n: how many.
        mean: arithmetic mean.
        minimum: the smallest.
        p50: median, nearest rank.
        p90: nearest rank.
        p99: None under `timing.MIN_SAMPLES_P99` samples.
        maximum: the largest.
        cv: coefficient of variation, population standard deviation over mean; trtexec's measure of how stable
            a run is. None where the mean is 0.
    """

    n: int
    mean: float
    minimum: float
    p50: float
    p90: float
    p99: float | None
    maximum: float
    cv: float | None


@dataclass(frozen=True)
class Ratio:
    """A candidate over the baseline: of times, over 1 is slower; of rates, faster.

    Attributes:
        median: over the rounds.
        low: the lowest of a round.
        high: the highest of a round.
        rounds: how many.
    """

    median: float
    low: float
    high: float
    rounds: int


def summarise(samples: Sequence[float]) -> Summary:
    """Figures of at least one sample."""
    ranks, mean = percentiles(samples), statistics.fmean(samples)
    return Summary(
        n=len(samples),
        mean=mean,
        minimum=min(samples),
        p50=ranks.p50,
        p90=ranks.p90,
        p99=ranks.p99,
        maximum=max(samples),
        cv=statistics.pstdev(samples) / mean if mean else None,
    )


def ratio(candidate: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> Ratio:
    """Compare two candidates round by round.

    Both ran in every round, one right after the other: what slowed the machine in a round slowed both.

    Args:
        candidate: the samples of every round.
        baseline: the samples of the same rounds.
    """
    ratios = [
        statistics.median(mine) / statistics.median(other)
        for mine, other in zip(candidate, baseline, strict=True)
    ]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))
