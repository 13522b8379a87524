"""The table of `n2q-edge trend` on stdout."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from n2q_edge.report.text import number, printable
from n2q_edge.trends.groups import Group


def render(groups: Sequence[Group], console: Console) -> None:
    """Print a line a group, then the outliers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("group", overflow="fold")
    for heading in ("series", "quality", "limits", "noise HU", "mGy", "below", "outliers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in groups:
        verdicts = one.verdicts()
        below = verdicts["usable_does_not_meet"] + verdicts["unusable"]
        limits = f"{one.limits.low:.3f}-{one.limits.high:.3f}" if one.limits else number(None, 0)
        table.add_row(
            Text(printable(one.name)),
            str(len(one.points)),
            f"{one.median_quality:.3f}",
            limits,
            number(one.median_noise_hu, 1),
            number(one.median_ctdivol, 1),
            str(below),
            str(len(one.outliers)),
        )
    console.print(table)
    for one in groups:
        for point in one.outliers:
            what = f"{printable(one.name)}: quality {point.quality:.3f}, {point.outlier}"
            line = f"{point.series.assessed}  {what}  [{point.series.series_uid}]"
            console.print(Text(line), soft_wrap=True)
