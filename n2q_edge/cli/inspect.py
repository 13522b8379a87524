"""`n2q-edge inspect`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import results
from n2q_edge.errors import ExitCode


def inspect(
    model: Annotated[
        Path, typer.Argument(metavar="FILE", help="An .onnx, .engine, .safetensors or .pth file.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Describe a model file, without a GPU; exit code 5 if it would be refused."""
    from n2q_edge.model.inspect import explain, lines

    found = explain(model)
    with results():
        if as_json:
            import json

            print(json.dumps(found, indent=1))
        else:
            print("\n".join(lines(found)))
    return int(ExitCode.MODEL if found["problems"] else ExitCode.OK)
