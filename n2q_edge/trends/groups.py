"""Stored series by group, judged and with control limits: what the table, the CSV and the page show."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from n2q_edge.errors import UsageError
from n2q_edge.quality.policy import Judgement, Policy
from n2q_edge.report.text import cell, printable
from n2q_edge.trends.control import Limits, control_limits
from n2q_edge.trends.store import StoredSeries

KEYS: dict[str, Callable[[dict[str, Any]], str]] = {
    "protocol": lambda protocol: protocol["protocol_name"] or "",
    "scanner": lambda protocol: " ".join(
        filter(None, (protocol["manufacturer"], protocol["model"], protocol["station"]))
    ),
    "kernel": lambda protocol: protocol["kernel"] or "",
    "body_part": lambda protocol: protocol["body_part"] or "",
}
"""What `--by` can name. Scores of different models are never mixed: the model is always a key."""


@dataclass(frozen=True)
class Point:
    """One series in a group.

    Attributes:
        series: as stored.
        quality: mean of its slices' means.
        judgement: by the policy in use now.
        outlier: why it stands out; None if it does not.
    """

    series: StoredSeries
    quality: float
    judgement: Judgement
    outlier: str | None

    @property
    def noise_hu(self) -> float | None:
        """Median model-free noise."""
        return statistics.median(self.series.noises_hu) if self.series.noises_hu else None

    @property
    def ctdivol(self) -> float | None:
        """CTDIvol in mGy, if the scan says."""
        dose = self.series.protocol["ctdivol"]
        return float(dose) if dose else None


@dataclass(frozen=True)
class Group:
    """Series of one model that share the keys.

    Attributes:
        keys: what they share, in the order of `--by`; "" where the headers say nothing.
        ai_model: the model.
        points: in the order they were assessed.
        limits: of their quality; None with too few.
    """

    keys: tuple[str, ...]
    ai_model: str
    points: tuple[Point, ...]
    limits: Limits | None

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(key or "(not given)" for key in self.keys)

    @property
    def median_quality(self) -> float:
        """Median over series."""
        return statistics.median(point.quality for point in self.points)

    @property
    def median_noise_hu(self) -> float | None:
        """Median over series of their median noise."""
        return _median(point.noise_hu for point in self.points)

    @property
    def median_ctdivol(self) -> float | None:
        """Median over series, mGy."""
        return _median(point.ctdivol for point in self.points)

    @property
    def outliers(self) -> list[Point]:
        """The points that stand out, in time order."""
        return [point for point in self.points if point.outlier]

    def verdicts(self) -> Counter[str | None]:
        """How many series have each verdict."""
        return Counter(
            point.judgement.verdict.value if point.judgement.verdict else None for point in self.points
        )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def parse_by(text: str) -> tuple[str, ...]:
    """The keys of `--by protocol,scanner,kernel`.

    Raises:
        UsageError: a key is unknown or named twice.
    """
    keys = tuple(key.strip() for key in text.split(","))
    if unknown := [key for key in keys if key not in KEYS]:
        raise UsageError(f"--by: {unknown[0]!r} is unknown; choose among {', '.join(KEYS)}")
    if len(set(keys)) < len(keys):
        raise UsageError(f"--by: {text!r} names a key twice")
    return keys


def group(stored: Sequence[StoredSeries], by: Sequence[str], policy: Policy) -> list[Group]:
    """Group series that have a score; the group with the most series first."""
    found: dict[tuple[tuple[str, ...], str], list[StoredSeries]] = defaultdict(list)
    for series in stored:
        if series.qualities:
            keys = tuple(KEYS[key](series.protocol) for key in by)
            found[keys, series.ai_model].append(series)
    groups = [_group(keys, model, series, policy) for (keys, model), series in found.items()]
    return sorted(groups, key=lambda one: (-len(one.points), one.keys, one.ai_model))


def _group(keys: tuple[str, ...], ai_model: str, members: list[StoredSeries], policy: Policy) -> Group:
    qualities = [statistics.fmean(series.qualities) for series in members]
    limits = control_limits(qualities)
    points = tuple(
        Point(
            series,
            quality,
            policy.judge(series.protocol, series.qualities, series.doubted),
            f"outside {limits.low:.3f} to {limits.high:.3f}" if limits and limits.outside(quality) else None,
        )
        for series, quality in zip(members, qualities, strict=True)
    )
    return Group(keys, ai_model, points, limits)


def to_csv(groups: Sequence[Group], by: Sequence[str]) -> str:
    """One row a series, with a header row; an absent number is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = (
        "assessed",
        "series_uid",
        "stack",
        "slices_scored",
        "quality_mean",
        "quality_min",
        "noise_hu_median",
    )
    more = ("ctdivol", "verdict", "centre", "limit_low", "limit_high", "outlier")
    writer.writerow([*by, "ai_model", *names, *more])
    for one in groups:
        limits = (one.limits.centre, one.limits.low, one.limits.high) if one.limits else (None,) * 3
        for point in one.points:
            series, verdict = point.series, point.judgement.verdict
            row: list[object] = [
                *map(printable, one.keys),
                one.ai_model,
                series.assessed,
                series.series_uid,
                series.stack,
                len(series.qualities),
                f"{point.quality:.6f}",
                f"{min(series.qualities):.6f}",
                _cell(point.noise_hu, 3),
                _cell(point.ctdivol, 3),
                verdict.value if verdict else "",
                *(_cell(limit, 6) for limit in limits),
                point.outlier or "",
            ]
            writer.writerow(map(cell, row))
    return buffer.getvalue()


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
