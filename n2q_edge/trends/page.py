"""The page of `n2q-edge trend -o`: one offline file with control charts, quality against dose, outliers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from markupsafe import Markup

import n2q_edge
from n2q_edge.quality.policy import Policy
from n2q_edge.report.charts import Axis, Plot, axis
from n2q_edge.report.page import render
from n2q_edge.trends.control import MIN_VALUES, moving_ranges, rank_correlation
from n2q_edge.trends.groups import Group, Point

MAX_CHARTS = 12  # groups with charts; the table has all
MAX_POINTS = 200  # the latest of a group; limits are from all


def to_html(groups: Sequence[Group], by: Sequence[str], policy: Policy, database: Path) -> str:
    """The page.

    Args:
        groups: of `groups.group`.
        by: the keys they are grouped by.
        policy: what judged them.
        database: where they come from.
    """
    charted = [one for one in groups if len(one.points) > 1][:MAX_CHARTS]
    return render(
        "trend.html.j2",
        {
            "groups": [_row(one) for one in groups],
            "charted": [_charts(one) for one in charted],
            "outliers": [(one, point) for one in groups for point in one.outliers],
            "by": by,
            "policy": policy,
            "database": database.name,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "version": n2q_edge.__version__,
            "min_values": MIN_VALUES,
            "max_points": MAX_POINTS,
        },
    )


def _row(one: Group) -> dict[str, Any]:
    return {
        "group": one,
        "verdicts": one.verdicts(),
        "noise": one.median_noise_hu,
        "ctdivol": one.median_ctdivol,
    }


def _charts(one: Group) -> dict[str, Any]:
    points = one.points[-MAX_POINTS:]
    doses = [(point.ctdivol, point.quality) for point in points if point.ctdivol is not None]
    return {
        "group": one,
        "individuals": _individuals(one, points),
        "ranges": _ranges(one, points),
        "dose": _dose(one, points) if len({dose for dose, _ in doses}) > 1 else None,
        "rho": rank_correlation([dose for dose, _ in doses], [quality for _, quality in doses]),
        "shown": len(points),
    }


def _individuals(one: Group, points: Sequence[Point]) -> Markup:
    qualities = [point.quality for point in points]
    limits = one.limits
    around = [*qualities, *((limits.low, limits.high) if limits else ())]
    plot = Plot(_order(points), axis(around, "quality, SSIM"), height=210, x_labels=False)
    if limits:
        plot.level(limits.centre, f"median {limits.centre:.3f}", "centre")
        plot.level(limits.low, f"lower limit {limits.low:.3f}", "control")
        plot.level(limits.high, f"upper limit {limits.high:.3f}", "control")
    where = _where(points)
    plot.line(where, qualities)
    plot.dots(zip(where, qualities, map(_tooltip, points), strict=True), radius=2.6)
    outliers = [(x, point) for x, point in zip(where, points, strict=True) if point.outlier]
    plot.dots(((x, point.quality, _tooltip(point)) for x, point in outliers), "mark", 5)
    return plot.svg(
        f"Quality of {len(points)} series in the order they were assessed, median {one.median_quality:.3f}; "
        f"{len(outliers)} outliers"
    )


def _ranges(one: Group, points: Sequence[Point]) -> Markup:
    ranges = moving_ranges([point.quality for point in points])
    limit = [one.limits.moving_range] if one.limits else []
    plot = Plot(_order(points), axis([*ranges, *limit], "moving range", zero=True, ticks=3), height=130)
    if one.limits:
        plot.level(one.limits.moving_range, f"limit {one.limits.moving_range:.3f}", "control")
    where = _where(points)[1:]
    plot.line(where, list(ranges))
    plot.dots(((x, value, f"{value:.3f}") for x, value in zip(where, ranges, strict=True)), radius=2.2)
    return plot.svg(f"Change of quality from series to series, at most {max(ranges):.3f}")


def _dose(one: Group, points: Sequence[Point]) -> Markup:
    known = [(point.ctdivol, point) for point in points if point.ctdivol is not None]
    plot = Plot(
        axis([dose for dose, _ in known], "CTDIvol, mGy", zero=True),
        axis([point.quality for _, point in known], "quality, SSIM"),
        width=420,
        height=260,
    )
    plot.dots(((dose, point.quality, _tooltip(point)) for dose, point in known), radius=3)
    plot.dots(((dose, point.quality, _tooltip(point)) for dose, point in known if point.outlier), "mark", 5.5)
    return plot.svg(f"Quality against CTDIvol of {len(known)} series")


def _order(points: Sequence[Point]) -> Axis:
    """The order of assessment; dates at both ends and where there is room."""
    last = len(points) - 1
    marks = sorted({round(last * part / 4) for part in range(5)})
    ticks = tuple((float(index), points[index].series.assessed[:10]) for index in marks)
    return Axis(-0.02 * last, last * 1.02, ticks, "series in the order they were assessed")


def _where(points: Sequence[Point]) -> list[float]:
    return [float(index) for index in range(len(points))]


def _tooltip(point: Point) -> str:
    dose = f", {point.ctdivol:g} mGy" if point.ctdivol is not None else ""
    return (
        f"{point.series.assessed}: {point.quality:.3f}{dose}{': ' + point.outlier if point.outlier else ''}"
    )
