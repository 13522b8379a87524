"""Noise and quality against dose, for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from n2q_edge.trends.doses import DoseGroup

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = (
    "series",
    "CTDIvol, mGy",
    "noise, HU",
    "noise x sqrt(CTDIvol)",
    "limits",
    "outside",
    "quality ~ dose",
)


def render(groups: Sequence[DoseGroup], console: Console) -> None:
    """One line a scanner, protocol and phantom; medians."""
    from rich.table import Table

    if not groups:
        console.print(
            "no series is joined to a dose report: the scanner must send them, or they lie in a folder"
        )
        return
    table = Table("scanner", "protocol", "phantom, cm", *COLUMNS)
    for group in groups:
        scanner, protocol, phantom = group.name
        table.add_row(scanner, protocol, "?" if phantom is None else str(phantom), *_cells(group))
    console.print(table)


def _cells(group: DoseGroup) -> tuple[str, ...]:
    noise = [each.noise_hu for each in group.series if each.noise_hu is not None]
    limits = group.limits
    return (
        str(len(group.series)),
        f"{statistics.median(each.ctdivol_mgy for each in group.series):.1f}",
        f"{statistics.median(noise):.1f}" if noise else "-",
        f"{statistics.median(group.figures):.1f}" if group.figures else "-",
        f"{limits.low:.1f} to {limits.high:.1f}" if limits else "too few",
        str(len(group.outside)) if limits else "-",
        "-" if group.quality_follows_dose is None else f"{group.quality_follows_dose:+.2f}",
    )
