"""Where the time of a slice goes, and the percentiles of many."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

MIN_SAMPLES_P99 = 662
"""Below this a p99 says little: with 662 samples the interval from their smallest to their largest covers
99 % of all slices with 99 % confidence (Wilks 1941, two-sided: 1 - n 0.99^(n-1) + (n-1) 0.99^n >= 0.99)."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Milliseconds a slice spent in every stage.

    Attributes:
        read: from the medium into memory.
        decode: decompression and conversion to HU.
        wait: in the look-ahead queue and beside the other slices of its batch.
        infer: in the model; the time of a batch divided by its slices.
        h2d: part of `infer` that moved data to the device; None on a CPU.
        compute: part of `infer` on the device.
        d2h: part of `infer` that moved results back; None on a CPU.
        score: mask, scores and noise level.
        total: from the start of reading to the result, by the clock. It is what a user waits for one slice;
            stages of neighbouring slices overlap, so totals do not add up to the time of the series.
    """

    read: float
    decode: float
    wait: float
    infer: float
    h2d: float | None
    compute: float | None
    d2h: float | None
    score: float
    total: float


@dataclass(frozen=True)
class Percentiles:
    """Nearest-rank percentiles in milliseconds; `p99` is None under `MIN_SAMPLES_P99` samples."""

    p50: float
    p90: float
    p99: float | None


def now_ms() -> float:
    """Milliseconds of the monotonic clock."""
    return time.perf_counter_ns() / 1e6


def overlap_ms(interval: tuple[float, float], others: Iterable[tuple[float, float]]) -> float:
    """How much of `interval` lies in `others`, which do not overlap one another."""
    start, end = interval
    return sum(max(0.0, min(end, stop) - max(start, begin)) for begin, stop in others)


def percentiles(samples: Sequence[float]) -> Percentiles:
    """Percentiles of at least one sample."""
    ordered = sorted(samples)

    def rank(percent: int) -> float:
        return ordered[-(-percent * len(ordered) // 100) - 1]  # integers: no rounding at a rank's edge

    return Percentiles(rank(50), rank(90), rank(99) if len(ordered) >= MIN_SAMPLES_P99 else None)


def summarise(times: Sequence[StageTimes]) -> dict[str, Percentiles]:
    """Percentiles of every stage that was measured, in the order of `StageTimes`."""
    summary: dict[str, Percentiles] = {}
    for stage in fields(StageTimes):
        samples = [value for slice_times in times if (value := getattr(slice_times, stage.name)) is not None]
        if samples:
            summary[stage.name] = percentiles(samples)
    return summary
