"""`n2q-edge train`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import note, results
from n2q_edge.errors import ExitCode


def train(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE", help="Recipes, e.g. export/n2q.toml or export/*.toml.")
    ],
    data: Annotated[
        list[Path] | None, typer.Option(help="A folder of CT series; may be given several times.")
    ] = None,
    pairs: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FULL LOW", help="Folders of the same scans at full and low dose: docs/how-to/pairs.md."
        ),
    ] = None,
    low_dose: Annotated[
        float, typer.Option("--low-dose", help="Dose of LOW in --pairs, as a fraction of FULL.")
    ] = 0.25,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for checkpoints and metrics; that of --runs if not given."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder for the noise cache and the state of the run.")] = Path(
        "runs"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option(help="Go on where the last run was interrupted.")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace checkpoints and metrics that exist.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Limit the training time of each system (processor time on a CPU)."),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Start from this checkpoint of a compact network, pruned or enlarged to fit."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Also learn from the quality maps of this checkpoint, for small compact networks."),
    ] = None,
    evaluation: Annotated[
        bool, typer.Option("--evaluation/--no-evaluation", help="Evaluate on the held-out patients.")
    ] = True,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="torch.compile the loss: faster steps after a minute of compilation."),
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Compact networks: layers in bfloat16, if the device has it.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Train systems on simulated or measured low doses of CT series, and evaluate them on other patients.

    Resumes where it was interrupted: finished systems are not trained again.
    """
    from n2q_edge.cli.progress import gauge
    from n2q_edge.errors import require
    from n2q_edge.files import refuse_existing

    require("torch", "train")
    from n2q_edge.dataset.pairs import MeasuredPairs
    from n2q_edge.model.recipe import load_recipe
    from n2q_edge.training.train import train as run_training

    def on_slice(done: int, total: int, left_out: str | None) -> None:
        show(done / total, f"slice {done} of {total}")
        if left_out and not quiet:
            note(f"left out: {left_out}")

    folder = out or runs
    for recipe in recipes:  # what is wrong with the last is said before the first is trained
        made = folder / load_recipe(recipe).checkpoint.name
        refuse_existing([made, made.with_suffix(".metrics.json")], overwrite)
    for recipe in recipes:
        with gauge(quiet=quiet) as show:
            result = run_training(
                recipe,
                data or [],
                pairs=MeasuredPairs(*pairs, low_dose) if pairs else None,
                out=folder,
                runs=runs,
                device=device,
                minutes=minutes,
                start_from=start_from,
                teacher=teacher,
                evaluation=evaluation,
                compiled=compiled,
                bf16=bf16,
                resume=resume,
                on_slice=on_slice,
                on_step=lambda progress: show(progress.fraction, f"step {progress.step}"),
                on_stage=lambda stage: None if quiet else note(stage),
            )
        with results():
            print(result.checkpoint)
            print(result.metrics_file)
    return int(ExitCode.OK)
