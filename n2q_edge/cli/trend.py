"""`n2q-edge trend`. Parse, call, render; no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import note, results, table_console
from n2q_edge.errors import ExitCode


def trend(
    db: Annotated[Path, typer.Option(help="The trend database that 'assess --db' fills.")],
    by: Annotated[
        str, typer.Option(help="Group by any of scanner, protocol, kernel, body_part.")
    ] = "scanner,protocol,kernel",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write a page of charts here.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="One CSV row per series, no table.")] = False,
    dose: Annotated[
        bool, typer.Option("--dose", help="Noise and quality against the dose reports instead.")
    ] = False,
    policy: Annotated[
        Path | None,
        typer.Option(help="Policy (TOML) to judge the stored scores by; else the default policy."),
    ] = None,
) -> int:
    """Show quality over time, with control limits and outliers, from a trend database."""
    from n2q_edge.files import write_text
    from n2q_edge.quality.policy import load_policy
    from n2q_edge.trends import groups
    from n2q_edge.trends.store import read

    if dose:
        return _show_doses(db)
    keys, rules = groups.parse_by(by), load_policy(policy)
    found = groups.group(read(db), keys, rules)
    with results():
        if as_csv:
            sys.stdout.write(groups.to_csv(found, keys))
        else:
            from n2q_edge.trends.table import render

            render(found, table_console())
    if out:
        from n2q_edge.trends.page import to_html

        write_text(out, to_html(found, keys, rules, db))
        note(f"the page is {out}")
    return int(ExitCode.OK)


def _show_doses(db: Path) -> int:
    from rich.console import Console

    from n2q_edge.trends.dose_table import render
    from n2q_edge.trends.doses import dose_groups, read_doses

    with results():
        render(dose_groups(read_doses(db)), Console(highlight=False))
    return int(ExitCode.OK)
