"""Pictures: a slice beside its quality map, and the quality along a series."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from n2q_edge.assessment.results import SeriesReport, SliceResult
from n2q_edge.quality.scores import to_percent
from n2q_edge.report.text import number, percent
from n2q_edge.spec import ModelSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "viridis"  # perceptually uniform, safe for colour-blind readers
OUTSIDE = "#d9d9d9"  # of the map outside the body: a grey that viridis does not have
LINE, BAND, MARK = "#21518c", "#a9c1de", "#b5332e"
DPI = 110


def slice_picture(result: SliceResult, spec: ModelSpec, title: str) -> bytes:
    """PNG of a slice in the model's window, and of its quality map inside the body, 0 to 1 SSIM.

    Args:
        result: with its images.
        spec: of the model, for the window.
        title: what to call the slice.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    assert result.images is not None
    images = result.images
    figure = Figure(figsize=(10.6, 5.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    low, high = spec.window_center - spec.window_width / 2, spec.window_center + spec.window_width / 2
    left.imshow(images.hu, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    left.set_title(f"CT, {low:.0f} to {high:.0f} HU", fontsize=10)
    colours = colormaps[COLOURS].with_extremes(bad=OUTSIDE)
    inside = np.ma.masked_array(images.quality_map, ~images.mask)
    shown = right.imshow(inside, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    right.set_title("predicted quality inside the body", fontsize=10)
    for axes in (left, right):
        axes.set_axis_off()
    bar = figure.colorbar(shown, ax=right, fraction=0.046, pad=0.02)
    bar.set_label("SSIM against the unseen full-dose slice (1 = equal)")
    figure.suptitle(f"{title}\n{_scores(result)}", fontsize=11)
    return _png(figure)


def series_picture(report: SeriesReport, spec: ModelSpec, title: str) -> bytes:
    """PNG of quality, noise and, if the model tells, dose level along z, with the worst slices marked.

    Args:
        report: of the series.
        spec: of the model, for the dose levels.
        title: what to call the series.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.6, 6.6), layout="constrained")
    levels = [to_percent(level) for level in spec.predicted_doses]
    heights = (3, 1.2, 1.2) if levels else (3, 1.2)
    quality, noise, *dose = panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    where, label = _along(report.slices)
    _plot_quality(quality, report, where)
    noise.plot(
        where, [_nan(result.noise_hu) for result in report.slices], color=LINE, marker=".", markersize=3
    )
    noise.set_ylim(bottom=0)
    noise.set_ylabel("noise, HU")
    for axes in dose:
        _plot_dose(axes, report, where, levels)
    panels[-1].set_xlabel(label)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    return _png(figure)


def _plot_quality(axes: Axes, report: SeriesReport, where: list[float]) -> None:
    means = [_nan(result.quality.mean if result.quality else None) for result in report.slices]
    lows = [_nan(result.quality.p05 if result.quality else None) for result in report.slices]
    axes.fill_between(where, lows, means, color=BAND, linewidth=0, label="down to the 5th percentile")
    axes.plot(where, means, color=LINE, marker=".", markersize=4, label="mean inside the body")
    place = {result.number: x for result, x in zip(report.slices, where, strict=True)}
    for rank, result in enumerate(report.worst):
        assert result.quality is not None
        point = (place[result.number], result.quality.mean)
        axes.plot(*point, "o", color=MARK, fillstyle="none", label="worst slices" if rank == 0 else None)
    if report.worst:
        worst = report.worst[0]
        assert worst.quality is not None
        axes.annotate(
            f"slice {worst.number}",
            (place[worst.number], worst.quality.mean),
            textcoords="offset points",
            xytext=(6, 8),
            color=MARK,
            fontsize=9,
        )
    axes.set_ylim(0, 1)
    axes.set_ylabel("quality, SSIM")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)


def _plot_dose(axes: Axes, report: SeriesReport, where: list[float], levels: list[float]) -> None:
    found = [_nan(result.dose.level if result.dose else None) for result in report.slices]
    axes.plot(where, found, color=LINE, linestyle="none", marker="_", markersize=6, markeredgewidth=2)
    axes.set_yscale("log")  # doses about double from level to level
    axes.set_ylim(levels[0] / 1.4, levels[-1] * 1.4)
    axes.set_yticks(levels, [percent(level) for level in levels])
    axes.set_yticks([], minor=True)
    axes.set_ylabel("looks like\ndose")


def _along(slices: list[SliceResult]) -> tuple[list[float], str]:
    """The x axis: z in mm if every slice has a position, else the slice number."""
    positions = [result.ref.position_mm for result in slices]
    if all(position is not None for position in positions):
        return [float(position) for position in positions if position is not None], "position along z, mm"
    return [float(result.number) for result in slices], "slice number"


def _scores(result: SliceResult) -> str:
    quality, dose = result.quality, result.dose
    parts = [f"mean {quality.mean:.2f}, 5th percentile {quality.p05:.2f}"] if quality else ["no body found"]
    if result.noise_hu is not None:
        parts.append(f"noise {number(result.noise_hu, 1)} HU")
    if dose:
        parts.append(f"looks like {percent(dose.level)} dose")
    return "  ·  ".join(parts)


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
