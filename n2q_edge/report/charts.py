"""Small SVG charts, for pages and as files of their own.

In a page they take their colors from its style sheet: they follow light, dark and print, and their text is
the page's text. A `Plot` collects marks in data coordinates; `svg` draws them, `stacked` makes files of them.
Every text is escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

from markupsafe import Markup

LEFT, RIGHT, TOP = 58, 12, 10
TICK_LENGTH = 4


@dataclass(frozen=True)
class Axis:
    """A scale with its ticks.

    Attributes:
        low: value at the start.
        high: value at the end, greater than `low`.
        ticks: values with their labels.
        title: quantity and unit.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    title: str = ""

    def place(self, value: float) -> float:
        """Where `value` lies, 0 at the start and 1 at the end; what is outside is put on the edge."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def axis(values: Iterable[float | None], title: str, *, zero: bool = False, ticks: int = 5) -> Axis:
    """An axis with round ticks around the finite values; from 0 if `zero`."""
    finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0]
    low, high = (0.0 if zero else min(finite)), max(finite)
    if high - low <= 1e-9 * max(1.0, abs(high)):
        low, high = (low, low + 1.0) if zero else (low - 0.5, high + 0.5)
    step = _round_step((high - low) / ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = tuple((index * step, f"{index * step:.{digits}f}") for index in range(first, last + 1))
    return Axis(marks[0][0], marks[-1][0], marks, title)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


@dataclass
class Plot:
    """A chart in the making.

    Attributes:
        x: horizontal axis.
        y: vertical axis.
        width: in user units; the page scales it.
        height: in user units.
        x_labels: whether the horizontal axis has labels; charts that share one need them once.
    """

    x: Axis
    y: Axis
    width: int = 720
    height: int = 200
    x_labels: bool = True
    marks: list[str] = field(default_factory=list)

    def line(self, xs: Sequence[float], ys: Sequence[float | None], style: str = "line") -> None:
        """A line through the points, broken where a value is missing; a lone point becomes a dot."""
        for run in _runs(xs, ys):
            if len(run) == 1:
                self._dot(*run[0], 2.0, f"{style}-dot")
            else:
                points = " ".join(f"{self._across(x):.1f},{self._down(y):.1f}" for x, y in run)
                self.marks.append(f'<polyline class="{style}" points="{points}"/>')

    def band(self, xs: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None]) -> None:
        """The area between two lines."""
        both = [
            (low, high) if low is not None and high is not None else None
            for low, high in zip(lows, highs, strict=True)
        ]
        for run in _runs(xs, both):
            edge = [(x, high) for x, (_, high) in run] + [(x, low) for x, (low, _) in reversed(run)]
            points = " ".join(f"{self._across(x):.1f},{self._down(y):.1f}" for x, y in edge)
            self.marks.append(f'<polygon class="band" points="{points}"/>')

    def dots(
        self, points: Iterable[tuple[float, float, str]], style: str = "dot", radius: float = 1.9
    ) -> None:
        """Dots with a tooltip each."""
        for x, y, tooltip in points:
            self._dot(x, y, radius, style, tooltip)

    def level(self, y: float, label: str, style: str = "limit") -> None:
        """A horizontal line across the chart with a label at its right end, unless it is off the scale."""
        if not self.y.low <= y <= self.y.high:
            return
        down = self._down(y)
        self.marks.append(
            f'<line class="{style}" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>'
            f'<text class="note" text-anchor="end" x="{self.width - RIGHT - 2}" y="{down - 3:.1f}">'
            f"{escape(label)}</text>"
        )

    def bars(self, edges: Sequence[float], heights: Sequence[float], tooltips: Sequence[str]) -> None:
        """Bars from 0 between neighbouring edges."""
        for left, right, height, tooltip in zip(edges, edges[1:], heights, tooltips, strict=False):
            start, end, top = self._across(left) + 0.75, self._across(right) - 0.75, self._down(height)
            self.marks.append(
                f'<rect class="bar" x="{start:.1f}" y="{top:.1f}" width="{max(0.5, end - start):.1f}" '
                f'height="{max(0.0, self._down(0) - top):.1f}"><title>{escape(tooltip)}</title></rect>'
            )

    def label(self, x: float, y: float, text: str) -> None:
        """A word below a point, on the side where there is room."""
        across, down = self._across(x), self._down(y)
        left = across > self.width - 120
        below = down < self._bottom - 20
        self.marks.append(
            f'<text class="mark-text" text-anchor="{"end" if left else "start"}" '
            f'x="{across + (-7 if left else 7):.1f}" y="{down + (15 if below else -6):.1f}">'
            f"{escape(text)}</text>"
        )

    def svg(self, description: str, top: int | None = None) -> Markup:
        """The chart as inline SVG.

        Args:
            description: what it says, for those who do not see it.
            top: where it is in the picture it is part of; None in a page, which places and scales it.
        """
        place = "" if top is None else f'y="{top}" width="{self.width}" height="{self.height}" '
        return Markup(
            f'<svg class="chart" {place}viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(description)}">{self._grid()}{"".join(self.marks)}</svg>'
        )

    @property
    def _bottom(self) -> int:
        return self.height - (36 if self.x_labels and self.x.title else 20 if self.x_labels else 6)

    def _across(self, value: float) -> float:
        return LEFT + self.x.place(value) * (self.width - LEFT - RIGHT)

    def _down(self, value: float) -> float:
        return self._bottom - self.y.place(value) * (self._bottom - TOP)

    def _dot(self, x: float, y: float, radius: float, style: str, tooltip: str = "") -> None:
        title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
        self.marks.append(
            f'<circle class="{style}" cx="{self._across(x):.1f}" cy="{self._down(y):.1f}" r="{radius}">'
            f"{title}</circle>"
        )

    def _grid(self) -> str:
        right, bottom, middle = self.width - RIGHT, self._bottom, (TOP + self._bottom) / 2
        parts = []
        for value, label in self.y.ticks:
            down = self._down(value)
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{down:.1f}" y2="{down:.1f}"/>'
                f'<text text-anchor="end" x="{LEFT - 6}" y="{down + 4:.1f}">{escape(label)}</text>'
            )
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        for value, label in self.x.ticks:
            across = self._across(value)
            parts.append(
                f'<line class="axis" x1="{across:.1f}" x2="{across:.1f}" '
                f'y1="{bottom}" y2="{bottom + TICK_LENGTH}"/>'
            )
            if self.x_labels:
                parts.append(
                    f'<text text-anchor="middle" x="{across:.1f}" y="{bottom + 16}">{escape(label)}</text>'
                )
        if self.x_labels and self.x.title:
            parts.append(
                f'<text class="title" text-anchor="middle" x="{(LEFT + right) / 2}" y="{self.height - 4}">'
                f"{escape(self.x.title)}</text>"
            )
        parts.append(
            f'<text class="title" text-anchor="middle" transform="translate(12 {middle:.1f}) rotate(-90)">'
            f"{escape(self.y.title)}</text>"
        )
        return "".join(parts)


@dataclass(frozen=True)
class Chart:
    """A finished plot with what it says in words."""

    plot: Plot
    description: str

    def svg(self) -> Markup:
        """For a page."""
        return self.plot.svg(self.description)


def stacked(charts: Sequence[Chart], title: str) -> str:
    """An SVG file of charts of one width, one below the other, on white."""
    parts, top = [], 30
    for chart in charts:
        parts.append(chart.plot.svg(chart.description, top))
        top += chart.plot.height + 6
    width = max(chart.plot.width for chart in charts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}" '
        f'font-family="sans-serif" font-size="12"><style>{_style()}</style>'
        f'<rect width="{width}" height="{top}" fill="#fff"/>'
        f'<text x="{LEFT}" y="19" font-size="13" font-weight="600">{escape(title)}</text>'
        f"{''.join(parts)}</svg>\n"
    )


def _style() -> str:
    """The rules of charts with the colors of the light theme put in: few viewers know CSS variables."""
    templates = files("n2q_edge.report").joinpath("templates")
    light = templates.joinpath("style.css").read_text("utf-8").partition("}")[0]
    colors = dict(re.findall(r"--([\w-]+): (#\w+)", light))
    rules = templates.joinpath("chart.css").read_text("utf-8")
    return re.sub(r"var\(--([\w-]+)\)", lambda found: colors[found[1]], rules)


def _runs(xs: Sequence[float], ys: Sequence[object]) -> list[list[tuple[float, Any]]]:
    """Stretches of points that have a value."""
    runs: list[list[tuple[float, Any]]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]
