"""`n2q-edge phantom`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import results
from n2q_edge.errors import ExitCode


def phantom(
    out: Annotated[Path, typer.Argument(help="The folder to write the series to; new or empty.")],
    slices: Annotated[int, typer.Option(help="Number of slices, over 120 mm.")] = 24,
    dose: Annotated[float, typer.Option(help="Dose in percent of full dose.")] = 25,
    full_dose: Annotated[bool, typer.Option("--full-dose", help="Also write the full-dose twin.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the patient and of the noise.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Write a synthetic CT series whose dose is known."""
    from n2q_edge.cli.progress import ticks
    from n2q_edge.simulation.series import write_phantom

    with ticks("simulating", slices, quiet=quiet) as tick:
        files = write_phantom(
            out, slices=slices, dose_percent=dose, full_dose=full_dose, seed=seed, on_slice=tick
        )
    with results():
        for folder in sorted({file.parent for file in files}):
            print(folder)
    return int(ExitCode.OK)
