"""`n2q-edge evaluate`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import note, results
from n2q_edge.errors import ExitCode


def evaluate(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE", help="Recipes with a checkpoint, e.g. export/*.toml.")
    ],
    data: Annotated[list[Path], typer.Option(help="A folder of CT series; may be repeated.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Folder for RESULTS.md, results.json and figures; that of the first recipe if not given.",
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder for the noise cache and the stored scores.")] = Path(
        "runs"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    slices_per_patient: Annotated[
        int | None, typer.Option(min=1, help="At most this many test slices per patient; all if not given.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Compare trained systems, model-free baselines and, on phantoms, the best possible one.

    Resumes where it was interrupted; a system whose checkpoint did not change is not evaluated again.
    """
    from n2q_edge.cli.progress import gauge
    from n2q_edge.errors import require

    require("torch", "train")
    from n2q_edge.evaluation.comparison import compare
    from n2q_edge.evaluation.results import command_line, write_results
    from n2q_edge.evaluation.results_page import headline

    with gauge(quiet=quiet) as show:
        comparison = compare(
            recipes,
            data,
            runs=runs,
            device=device,
            slices_per_patient=slices_per_patient,
            on_slice=lambda done, total, _: show(done / total, f"slice {done} of {total}"),
            on_fraction=show,
            on_stage=lambda stage: None if quiet else note(stage),
        )
    command = command_line(recipes, data, slices_per_patient)
    written = write_results(comparison, data, runs, out or recipes[0].parent, command)
    with results():
        print(headline(written.document))
        for path in written.files:
            print(path)
    return int(ExitCode.OK)
