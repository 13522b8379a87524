"""`n2q-edge doctor`: parse, call, render; no logic."""

from __future__ import annotations

from typing import Annotated

import typer

from n2q_edge.cli.console import results
from n2q_edge.errors import ExitCode


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Say what this machine can run: Python, runtimes, GPU and driver, the released model."""
    from n2q_edge.doctor import examine, render

    findings = examine()
    with results():
        if as_json:
            import json

            print(json.dumps(findings, indent=1, allow_nan=False))
        else:
            from rich.console import Console

            render(findings, Console(highlight=False))
    return int(ExitCode.OK)
