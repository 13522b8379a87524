"""`n2q-edge simulate`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import note, results
from n2q_edge.errors import ExitCode


def simulate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="DICOM files and folders of a full-dose CT.")
    ],
    dose: Annotated[float, typer.Option(help="Dose to simulate, in percent of the input's dose.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write to; new or empty.")],
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Write a CT series as it would look at a lower dose."""
    from n2q_edge.cli.progress import ticks
    from n2q_edge.errors import require

    require("numba", "sim")
    from n2q_edge.simulation.lower_dose import simulate_lower_dose

    with ticks("simulating", None, quiet=quiet) as tick:
        result = simulate_lower_dose(paths, out, dose_percent=dose, seed=seed, on_slice=tick)
    for source, reason in result.left_out:
        note(f"left out: {source}: {reason}")
    with results():
        for folder in sorted({file.parent for file in result.files}):
            print(folder)
    return int(ExitCode.PARTIAL if result.left_out else ExitCode.OK)
