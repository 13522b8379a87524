"""`n2q-edge targets`: parse, call, render; no logic."""

from __future__ import annotations

from typing import Annotated

import typer

from n2q_edge.cli.console import results, table_console
from n2q_edge.errors import ExitCode


def targets(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """List the GPUs 'n2q-edge build --target' knows."""
    from n2q_edge.model.engine.targets import profiles, render

    with results():
        if as_json:
            import json
            from dataclasses import asdict

            print(json.dumps([asdict(profile) for profile in profiles()], indent=1))
        else:
            render(profiles(), table_console())
    return int(ExitCode.OK)
