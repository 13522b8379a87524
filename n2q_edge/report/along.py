"""The charts of a series along z: noise, predicted quality, tube current, on one horizontal axis."""

from __future__ import annotations

from dataclasses import dataclass

from n2q_edge.assessment.results import SeriesReport, SliceResult
from n2q_edge.quality.noise import NOISE_DISAGREEMENT
from n2q_edge.quality.reference import ReferenceNoise
from n2q_edge.report.charts import Axis, Chart, Plot, axis
from n2q_edge.report.text import number

NOISE_HEIGHT, QUALITY_HEIGHT, CURRENT_HEIGHT = 150, 190, 110
TICK_LABELS = 30  # user units more for the lowest chart, which has the labels of the axis all share


@dataclass(frozen=True)
class Along:
    """The slices of a series and where they are.

    Attributes:
        slices: in z order.
        where: of each, mm along z; its number if any slice has no position.
        x: the axis.
    """

    slices: list[SliceResult]
    where: list[float]
    x: Axis

    def known(self, values: list[float | None]) -> list[tuple[SliceResult, float, float]]:
        """Slice, place and value where there is a value."""
        rows = zip(self.slices, self.where, values, strict=True)
        return [(result, x, value) for result, x, value in rows if value is not None]


def charts_along(report: SeriesReport) -> list[Chart]:
    """Noise, predicted quality and, where it changes, tube current of every slice."""
    along = _along(report.slices)
    current = [result.ref.exposure.tube_current_ma for result in report.slices]
    changes = len({value for value in current if value is not None}) > 1
    charts = [_noise(along), _quality(along, report, lowest=not changes)]
    return [*charts, _current(along, current)] if changes else charts


def limits_below(report: SeriesReport) -> str:
    """In words, the policy's limits for slices that lie below the scale of the quality chart."""
    scale = _quality_scale(report.slices)
    below = [(value, label) for value, label in _limits(report) if 0 < value < scale.low]
    return " and ".join(f"{value:g} ({label})" for value, label in below)


def _along(slices: list[SliceResult]) -> Along:
    positions = [result.ref.position_mm for result in slices]
    placed = [float(position) for position in positions if position is not None]
    if len(placed) == len(slices) and len(set(placed)) > 1:
        where, title = placed, "position along z, mm"
    else:
        where, title = [float(result.number) for result in slices], "slice number"
    wide = axis(where, title, ticks=8)
    low, high = (min(where), max(where)) if len(set(where)) > 1 else (wide.low, wide.high)
    inside = tuple(tick for tick in wide.ticks if low <= tick[0] <= high)
    return Along(slices, where, Axis(low, high, inside, title))


def _noise(along: Along) -> Chart:
    measured = [result.noise_hu for result in along.slices]
    model = [result.model_noise_hu for result in along.slices]
    reference = [
        result.reference.noise_hu if isinstance(result.reference, ReferenceNoise) else None
        for result in along.slices
    ]
    scale = axis([*measured, *model, *reference], "noise, HU", zero=True, ticks=4)
    plot = Plot(along.x, scale, height=NOISE_HEIGHT, x_labels=False)
    plot.line(along.where, reference, "reference")
    plot.line(along.where, model, "second")
    plot.line(along.where, measured)
    known = along.known(measured)
    plot.dots((x, value, f"slice {one.number}: noise {value:.1f} HU") for one, x, value in known)
    flagged = [
        (x, value, f"slice {one.number}: the model's noise disagrees")
        for one, x, value in known
        if NOISE_DISAGREEMENT in one.flags
    ]
    plot.dots(flagged, "mark", 4)
    values = [value for _, _, value in known]
    said = f"{min(values):.1f} to {max(values):.1f} HU" if values else "not measured"
    return Chart(plot, f"Noise along z, model-free: {said}; {len(flagged)} slices disagree with the model")


def _quality(along: Along, report: SeriesReport, *, lowest: bool) -> Chart:
    means = [result.quality.mean if result.quality else None for result in along.slices]
    lows = [result.quality.p05 if result.quality else None for result in along.slices]
    errors = [result.expected_error for result in along.slices]
    plot = Plot(along.x, _quality_scale(along.slices), x_labels=lowest)
    plot.height = QUALITY_HEIGHT + (TICK_LABELS if lowest else 0)
    plot.band(
        along.where,
        [_shifted(mean, error, -1) for mean, error in zip(means, errors, strict=True)],
        [_shifted(mean, error, +1) for mean, error in zip(means, errors, strict=True)],
    )
    for value, label in _limits(report):
        plot.level(value, f"slice limit, {label}")
    plot.line(along.where, lows, "thin")
    plot.line(along.where, means)
    known = along.known(means)
    plot.dots((x, value, f"slice {one.number}: predicted SSIM {value:.3f}") for one, x, value in known)
    return Chart(plot, _mark_worst(plot, known, report))


def _mark_worst(plot: Plot, known: list[tuple[SliceResult, float, float]], report: SeriesReport) -> str:
    """Ring the worst slices, name the worst of them, and say in words what the chart shows."""
    summary = report.summary
    if not summary.quality:
        return "Predicted SSIM along z: no slice has a score"
    worst = [result.number for result in summary.worst]
    for one, x, value in known:
        if one.number in worst:
            plot.dots([(x, value, f"slice {one.number}")], "mark", 4)
        if worst and one.number == worst[0]:
            plot.label(x, value, f"slice {one.number}")
    at = f" at slice {worst[0]}" if worst else ""
    return (
        f"Predicted SSIM along z, {summary.slices} slices: mean {number(summary.quality.mean, 2)}, "
        f"lowest {number(summary.quality.min, 2)}{at}"
    )


def _current(along: Along, current: list[float | None]) -> Chart:
    plot = Plot(along.x, axis(current, "mA", zero=True, ticks=3), height=CURRENT_HEIGHT + TICK_LABELS)
    plot.line(along.where, current)
    known = along.known(current)
    plot.dots((x, value, f"slice {one.number}: {value:g} mA") for one, x, value in known)
    values = [value for _, _, value in known]
    return Chart(plot, f"Tube current along z: {min(values):g} to {max(values):g} mA")


def _quality_scale(slices: list[SliceResult]) -> Axis:
    """Round values around all that is drawn."""
    values: list[float | None] = []
    for result in slices:
        if result.quality:
            mean, error = result.quality.mean, result.expected_error
            values += [result.quality.p05, mean, _shifted(mean, error, -1), _shifted(mean, error, +1)]
    return axis(values, "predicted SSIM")


def _shifted(mean: float | None, error: float | None, side: int) -> float | None:
    """The mean less or plus its expected error, within 0 and 1; None unless both are known."""
    if mean is None or error is None:
        return None
    return min(1.0, max(0.0, mean + side * error))


def _limits(report: SeriesReport) -> list[tuple[float, str]]:
    """The policy's limits for the mean of a slice, with their names."""
    standards = report.summary.verdict.standards or {}
    names = {"meets": "meets the standard", "usable": "usable"}
    return [(standards[key].slice_mean, name) for key, name in names.items() if key in standards]
