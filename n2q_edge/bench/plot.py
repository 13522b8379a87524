"""A picture of a benchmark: where the time of every candidate lies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from n2q_edge.bench.table import machine_line
from n2q_edge.errors import UsageError, require
from n2q_edge.files import write_file

SUFFIXES = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """Whether a plot can be drawn: to be asked before anything is measured for it.

    Raises:
        UsageError: `path` is not the name of a picture.
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "bench")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"a plot must be named *{', *'.join(SUFFIXES)}, not {path}")


def write(document: dict[str, Any], path: Path) -> None:
    """Draw p50 as bars, from the fastest to the slowest sample as a line, idle as a mark.

    Raises:
        UsageError: `path` is not the name of a picture.
        MissingDependencyError: matplotlib is not installed.
        OutputError: it cannot be written.
    """
    check(path)
    from matplotlib.figure import Figure

    candidates = document["candidates"]
    figure = Figure(figsize=(8, 1.6 + 0.5 * len(candidates)), layout="constrained")
    axes = figure.add_subplot()
    for row, candidate in enumerate(candidates):
        total = candidate["latency_ms"]["saturated"]["total"]
        axes.barh(row, total["p50"], height=0.55, color="#4477aa")
        axes.plot([total["minimum"], total["maximum"]], [row, row], color="black", linewidth=1)
        idle = candidate["latency_ms"].get("idle")
        if idle:
            axes.plot(idle["total"]["p50"], row, marker="D", color="#ee6677", markersize=5)
        axes.annotate(
            f" {total['p50']:.3g} ms", (max(total["p50"], total["maximum"]), row), va="center", fontsize=8
        )
    axes.set_yticks(range(len(candidates)), [candidate["label"] for candidate in candidates])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    legend = "milliseconds a slice; bar: p50 saturated, line: fastest to slowest, diamond: p50 idle"
    axes.set_xlabel(legend, fontsize=8)
    axes.set_title(machine_line(document), fontsize=9)
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lower().lstrip("."), dpi=120)
    write_file(path, content.getvalue())
