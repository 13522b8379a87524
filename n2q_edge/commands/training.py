"""Commands about training and simulated doses: train, evaluate, simulate, phantom. No logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.console import note, results
from n2q_edge.errors import ExitCode


def train(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE", help="Recipes, e.g. export/n2q.toml or export/*.toml.")
    ],
    data: Annotated[
        list[Path] | None, typer.Option(help="A folder of CT series; give it as often as needed.")
    ] = None,
    pairs: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FULL LOW", help="Folders of the same scans at full and at low dose; see docs/pairs.md."
        ),
    ] = None,
    low_dose: Annotated[
        float, typer.Option("--low-dose", help="Dose of --pairs' LOW as a fraction of FULL's.")
    ] = 0.25,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder of checkpoints and metrics; the recipe's if not given."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the noise cache and the run's state.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option(help="Go on where the last run was interrupted.")] = True,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Training time of each system (processor time on a CPU), if not all steps."),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Begin with this checkpoint of a compact network, pruned or enlarged to fit."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Learn from this checkpoint's quality maps, too: for small compact networks."),
    ] = None,
    evaluation: Annotated[
        bool, typer.Option("--evaluation/--no-evaluation", help="Evaluate on the patients held out.")
    ] = True,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile the loss: faster steps, a minute of preparation.")
    ] = False,
    bf16: Annotated[
        bool,
        typer.Option("--bf16", help="Compact networks: layers in bfloat16, if the device has it."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Train systems on simulated or measured low doses of CT series, and evaluate them on other patients.

    Goes on where it was interrupted: finished systems are not trained again.
    """
    from n2q_edge.errors import require
    from n2q_edge.progress import gauge

    require("torch", "train")
    from n2q_edge.training.pairs import MeasuredPairs
    from n2q_edge.training.recipe import load_recipe
    from n2q_edge.training.train import train as run_training

    def on_slice(done: int, total: int, left_out: str | None) -> None:
        show(done / total, f"slice {done} of {total}")
        if left_out and not quiet:
            note(f"left out: {left_out}")

    for recipe in recipes:
        load_recipe(recipe)  # what is wrong with the last is said before the first is trained
    for recipe in recipes:
        with gauge(quiet=quiet) as show:
            result = run_training(
                recipe,
                data or [],
                pairs=MeasuredPairs(*pairs, low_dose) if pairs else None,
                out=out,
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


def evaluate(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE", help="Recipes with a checkpoint, e.g. export/*.toml.")
    ],
    data: Annotated[list[Path], typer.Option(help="A folder of CT series; give it as often as needed.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Folder of RESULTS.md, results.json and figures; the first recipe's if not given.",
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the noise cache and of stored scores.")] = Path(
        "runs"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    slices_per_patient: Annotated[
        int | None, typer.Option(min=1, help="At most so many test slices of a patient; all if not given.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Compare trained systems, model-free baselines and, on phantoms, the best possible one.

    Goes on where it was interrupted; a system whose checkpoint did not change is not evaluated again.
    """
    from n2q_edge.errors import require
    from n2q_edge.progress import gauge

    require("torch", "train")
    from n2q_edge.training.comparison import compare
    from n2q_edge.training.results import command_line, write_results
    from n2q_edge.training.results_page import headline

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


def simulate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="DICOM files and folders of a full-dose CT.")
    ],
    dose: Annotated[float, typer.Option(help="Percent of the dose of the input.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write to; new or empty.")],
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Write a CT series as it would look at a lower dose."""
    from n2q_edge.errors import require
    from n2q_edge.progress import ticks

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


def phantom(
    out: Annotated[Path, typer.Argument(help="The folder to write the series to; new or empty.")],
    slices: Annotated[int, typer.Option(help="How many, over 120 mm.")] = 24,
    dose: Annotated[float, typer.Option(help="Dose in percent of full dose.")] = 25,
    full_dose: Annotated[bool, typer.Option("--full-dose", help="Write the full-dose twin, too.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed is another patient and other noise.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Write a synthetic CT series whose dose is known."""
    from n2q_edge.progress import ticks
    from n2q_edge.simulation.series import write_phantom

    with ticks("simulating", slices, quiet=quiet) as tick:
        files = write_phantom(
            out, slices=slices, dose_percent=dose, full_dose=full_dose, seed=seed, on_slice=tick
        )
    with results():
        for folder in sorted({file.parent for file in files}):
            print(folder)
    return int(ExitCode.OK)
