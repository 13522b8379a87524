"""`n2q-edge doctor`: parse, call, render; no logic."""

from __future__ import annotations

from typing import Annotated

import typer

from n2q_edge.cli.console import results, table_console
from n2q_edge.errors import ExitCode


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Show what this machine can run: Python, runtimes, GPU and driver, the released models."""
    from n2q_edge.doctor import examine, render

    findings = examine()
    with results():
        if as_json:
            import json

            print(json.dumps(findings, indent=1, allow_nan=False))
        else:
            render(findings, table_console())
    return int(ExitCode.OK)
