"""Pictures of a comparison: maps side by side, slice means, errors by dose."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.errors import require
from n2q_edge.evaluation.baselines import NAMES as BASELINES
from n2q_edge.evaluation.cases import Case
from n2q_edge.evaluation.comparison import Comparison, Row
from n2q_edge.evaluation.oracle import phantom_slices
from n2q_edge.evaluation.scores import summary
from n2q_edge.evaluation.systems import BASELINE, NETWORK
from n2q_edge.files import make_folder, write_file
from n2q_edge.quality.scores import to_percent
from n2q_edge.report.text import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICTURED = 1  # of the phantoms: middle noise
PICTURED_DOSE = 0.25
MAP_COLUMNS = 5
MEANS_COLUMNS = 4
MAPS, MEANS, DOSES = "maps.png", "means.png", "doses.png"
OUTSIDE = "#d9d9d9"
BASELINE_DASHES = (":", "-.", "--", (0, (7, 2)))
DPI = 100


def write_figures(comparison: Comparison, phantoms: Path, folder: Path) -> list[Path]:
    """Draw all figures.

    Args:
        comparison: all systems on the same cases.
        phantoms: folder of the phantoms' noise images.
        folder: where to write.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OutputError: they cannot be written.
    """
    require("matplotlib", "train")
    make_folder(folder)
    pictures = {
        MAPS: _maps(comparison, phantoms),
        MEANS: _means([row for row in comparison.rows if row.test]),
        DOSES: _doses([row for row in comparison.rows if row.test], comparison.spec.dose_levels),
    }
    for name, figure in pictures.items():
        write_file(folder / name, _png(figure))
    return [folder / name for name in pictures]


def _maps(comparison: Comparison, phantoms: Path) -> Figure:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    spec = comparison.spec
    case = _pictured(comparison, phantoms)
    shown: list[tuple[str, FloatArray]] = [("truth", case.quality)]
    ordered = sorted(comparison.rows, key=lambda row: row.system.kind in (NETWORK, BASELINE))  # oracle first
    shown += [
        (row.system.name, row.system.answer(case).native.quality)
        for row in ordered
        if row.system.name != "constant"
    ]
    lines = -(-(len(shown) + 1) // MAP_COLUMNS)
    figure = Figure(figsize=(2.1 * MAP_COLUMNS, 1.6 * lines + 0.3), layout="constrained")
    axes = figure.subplots(lines, MAP_COLUMNS, squeeze=False).ravel()
    for each in axes:
        each.set_axis_off()
    low, high = spec.window_hu
    rows, columns = case.scan.wanted
    axes[0].imshow(case.scan.hu[rows, columns], cmap="gray", vmin=low, vmax=high)
    axes[0].set_title(f"slice at {percent(to_percent(case.dose))}", fontsize=9)
    colours = colormaps["viridis"].with_extremes(bad=OUTSIDE)
    for each, (name, quality) in zip(axes[1:], shown, strict=False):
        inside = np.ma.masked_array(quality, ~case.body)[rows, columns]
        image = each.imshow(inside, cmap=colours, vmin=0, vmax=1)
        error = np.abs(quality - case.quality)[case.body].mean()
        each.set_title(name if name == "truth" else f"{name}: off by {error:.3f}", fontsize=9)
    bar = figure.colorbar(image, ax=list(axes), fraction=0.02, pad=0.01)
    bar.set_label("SSIM against the full dose", fontsize=9)
    return figure


def _pictured(comparison: Comparison, phantoms: Path) -> Case:
    cases = phantom_slices()[PICTURED].cases(comparison.spec, phantoms)
    return min(cases, key=lambda case: abs(case.dose - PICTURED_DOSE))


def _means(rows: Sequence[Row]) -> Figure:
    from matplotlib.figure import Figure

    columns = min(MEANS_COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(2.5 * columns + 0.6, 2.4 * lines + 0.3), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for each in axes[len(rows) :]:
        each.set_axis_off()
    for each, row in zip(axes, rows, strict=False):
        doses = np.log([one.dose for one in row.test])
        each.plot((0, 1), (0, 1), color="#999999", linewidth=0.8)
        points = each.scatter(
            [one.true_mean for one in row.test], [one.mean for one in row.test], c=doses, s=7, cmap="plasma_r"
        )
        plcc = summary(row.test)["slice"]["plcc"]
        each.set_title(f"{row.system.name}: PLCC {plcc:.3f}", fontsize=9)
        _tidy(each)
        each.set_xlim(0, 1)
        each.set_ylim(0, 1)
        each.set_aspect("equal")
    levels = sorted({one.dose for one in rows[0].test})
    bar = figure.colorbar(points, ax=list(axes), fraction=0.03, pad=0.01, ticks=np.log(levels))
    bar.ax.set_yticklabels([percent(to_percent(dose)) for dose in levels], fontsize=8)
    figure.supxlabel("true mean quality in the body", fontsize=9)
    figure.supylabel("predicted", fontsize=9)
    return figure


def _doses(rows: Sequence[Row], levels: Sequence[float]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for each, (title, part, name) in zip(
        axes,
        (
            ("body MAE", "body", "mae"),
            ("window MAE", "window", "mae"),
            ("slice MAE", "slice", "mae"),
        ),
        strict=True,
    ):
        for index, row in enumerate(rows):
            values = [_at(row, dose, part, name) for dose in levels]
            style = {"color": f"C{index}", "marker": "o", "linewidth": 1.6}
            if row.system.kind == BASELINE:
                dashes = BASELINE_DASHES[BASELINES.index(row.system.name)]
                style = {"color": "#555555", "linewidth": 1.2, "linestyle": dashes}
            each.plot(levels, values, markersize=3, label=row.system.name, **style)
        each.set_xscale("log")
        each.set_xticks(levels, [percent(to_percent(dose)) for dose in levels], fontsize=8)
        each.minorticks_off()
        each.set_ylim(bottom=0)
        each.set_title(title, fontsize=10)
        _tidy(each)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    figure.supxlabel("dose", fontsize=9)
    return figure


def _at(row: Row, dose: float, part: str, name: str) -> float:
    return float(summary([one for one in row.test if one.dose == dose])[part][name])


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.tick_params(labelsize=8)


def _png(figure: Figure) -> bytes:
    """PNG of at most 256 colours: less than half the size, and hardly a difference to the eye."""
    from PIL import Image

    drawn, content = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(content, format="png", optimize=True)
    return content.getvalue()
