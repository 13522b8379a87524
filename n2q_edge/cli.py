"""The command line: parse, call, render. No logic.

The modules a command needs are imported inside it: `n2q-edge --help` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from n2q_edge import __version__
from n2q_edge.errors import ExitCode, N2QError, OutputError, UsageError

if TYPE_CHECKING:
    from n2q_edge.assess import Assessment
    from n2q_edge.dicom import Inventory
    from n2q_edge.dicom.segmentation import Segmentation
    from n2q_edge.policy import Policy
    from n2q_edge.report.dicom_objects import DicomWriter
    from n2q_edge.runtimes.base import Runtime

app = typer.Typer(
    name="n2q-edge",
    help="No-reference CT image quality at the scanner: quality map, dose level and latency for every slice.",
    epilog="Exit codes: 0 ok, 1 a bug, 2 usage, 3 some inputs rejected, 4 nothing assessed, 5 model problem, "
    "6 missing package, 7 output not written, 10 quality below --fail-below or the policy, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Typer's UsageError, base of BadParameter: older versions take it from click, newer ones bring their own.
PARSER_ERROR: Any = typer.BadParameter.__mro__[1]


def entry() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a file name may hold anything
    sys.exit(main())


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments
    try:
        code = app(
            args=[argument for argument in arguments if argument != "--debug"],
            prog_name="n2q-edge",
            standalone_mode=False,
        )
        return int(code or ExitCode.OK)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", ExitCode.INTERRUPTED, debug)
    except N2QError as error:
        return _fail(str(error), error.exit_code, debug)
    except Exception as error:
        if isinstance(error, PARSER_ERROR):
            return _fail(
                f"{str(error.format_message()).rstrip('.')}; see 'n2q-edge --help'", ExitCode.USAGE, debug
            )
        message = f"unexpected {type(error).__name__}: {error} (a bug; --debug shows where)"
        return _fail(message, ExitCode.BUG, debug)


def _fail(message: str, code: ExitCode, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _note(" ".join(message.split()))
    return int(code)


def _note(message: str) -> None:
    print(f"n2q-edge: {message}", file=sys.stderr)


@contextmanager
def _stdout() -> Iterator[None]:
    """Results go to stdout; a full disk or a closed pipe there is an `OutputError`."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python's last flush fails again
        raise OutputError(f"cannot write to stdout: {error.strerror}") from None


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"n2q-edge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks. Anywhere in the line.")] = False,
) -> None:
    pass


@app.command()
def assess(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="DICOM files, folders, zip archives or DICOMDIRs.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write report.html, report.json, slices.csv and pictures here."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, no table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One CSV row a slice on stdout, no table.")] = False,
    model: Annotated[
        Path | None, typer.Option(help="A model file; the released one if not given.", show_default=False)
    ] = None,
    runtime: Annotated[str, typer.Option(help="What runs the model; 'n2q-edge doctor' lists them.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the runtime; its cores if not given.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Slices an inference.")] = 1,
    fail_below: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 10 if a series' mean quality is lower.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="TOML: what is usable, and what to do; the default policy if not given."),
    ] = None,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="With -o: write DICOM maps, report and overlays there, too.")
    ] = False,
    seg: Annotated[
        Path | None, typer.Option(help="DICOM Segmentation: score its segments, not the tissue classes.")
    ] = None,
    db: Annotated[Path | None, typer.Option(help="Append the scores to this trend database.")] = None,
    with_phi: Annotated[
        bool, typer.Option("--with-phi", help="Keep UIDs and descriptions in the trend database.")
    ] = False,
    worst: Annotated[int, typer.Option(min=0, help="Worst slices to list and picture, a series.")] = 5,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes, no table.")] = False,
) -> int:
    """Assess every CT slice found under PATH: quality, dose level, noise, latency."""
    from n2q_edge.assess import assess as assess_all
    from n2q_edge.assess import tissue_regions
    from n2q_edge.atomic import make_folder
    from n2q_edge.dicom import scan
    from n2q_edge.heap import give_back_freed_memory
    from n2q_edge.policy import load_policy
    from n2q_edge.progress import ticks
    from n2q_edge.report import document
    from n2q_edge.report.folder import write_folder
    from n2q_edge.runtimes import open_model

    if as_json and as_csv:
        raise UsageError("--json and --csv both want stdout: choose one, -o OUT writes both")
    if with_phi and not db:
        raise UsageError("--with-phi is about the trend database: name it with --db")
    if dicom and not out:
        raise UsageError("--dicom writes into the folder of -o OUT: name one")
    rules = load_policy(policy)
    if out:
        make_folder(out)
    if db:
        from n2q_edge.trends.store import prepare

        prepare(db, with_phi=with_phi)
    with open_model(model, runtime=runtime, threads=threads) as opened:
        if not quiet:
            _note(_chosen_runtime(opened.describe()))
        with ticks("finding CT slices", None, quiet=quiet) as tick:
            inventory = scan(paths, on_file=tick)
        organs = _segmentation(seg, inventory) if seg else None
        slices = sum(len(series.slices) for series in inventory.series)
        objects = _dicom_writer(out, opened, worst, organs, rules) if dicom and out else None
        with ticks("assessing", slices, quiet=quiet) as tick, objects or nullcontext():
            assessment = assess_all(
                inventory,
                opened,
                batch=batch,
                keep_worst=worst if out else 0,
                on_outcome=tick,
                regions=organs.regions if organs else tissue_regions,
                collector=objects,
            )
    give_back_freed_memory()  # with the model's
    built = document.build(
        assessment,
        worst=worst,
        fail_below=fail_below,
        policy=rules,
        segmentation=seg,
        dicom=objects.series if objects else None,
    )
    try:
        pictures = write_folder(assessment, built, out) if out else []
    finally:  # a full disk loses no result
        _print_results(assessment, built, worst, rules, as_json=as_json, as_csv=as_csv, quiet=quiet)
    if out and not quiet:
        _note(f"report.html, report.json, slices.csv and {len(pictures)} pictures are in {out}")
    if db:
        _append(db, assessment, with_phi=with_phi, quiet=quiet)
    _notify(rules, built, quiet=quiet)
    if objects:
        _check_objects(objects, quiet=quiet)
    code = assessment.exit_code(fail_below, rules)
    if code is not ExitCode.OK and not quiet:
        _note(_EXIT_NOTES[code])
    return int(code)


_EXIT_NOTES = {
    ExitCode.PARTIAL: "some inputs were rejected (exit code 3)",
    ExitCode.NOTHING_ASSESSED: "nothing could be assessed (exit code 4)",
    ExitCode.BELOW_THRESHOLD: "a series is below --fail-below or judged as the policy says (exit code 10)",
    ExitCode.INTERRUPTED: "interrupted: the results are of the slices done so far (exit code 130)",
}


def _segmentation(path: Path, inventory: Inventory) -> Segmentation:
    from n2q_edge.dicom.segmentation import open_for

    return open_for(path, inventory)


def _dicom_writer(
    out: Path, runtime: Runtime, worst: int, organs: Segmentation | None, policy: Policy
) -> DicomWriter:
    from n2q_edge.report.dicom_objects import DicomWriter

    segments = organs.segments if organs else ()
    return DicomWriter(out, runtime.spec, runtime.describe(), worst=worst, segments=segments, policy=policy)


def _check_objects(objects: DicomWriter, *, quiet: bool) -> None:
    if objects.error:
        raise objects.error
    if quiet:
        return
    for series in objects.series:
        for missing in series.not_written:
            _note(f"series {series.number}: no DICOM {missing.kind}: {missing.detail} ({missing.reason})")
    written = sum(len(series.written) for series in objects.series)
    _note(f"{written} DICOM objects are in {objects.folder}")


def _append(db: Path, assessment: Assessment, *, with_phi: bool, quiet: bool) -> None:
    from n2q_edge.trends.store import append

    stored = append(db, assessment, with_phi=with_phi)
    if not quiet:
        left_out = f", {stored.without_uid} without a UID left out" if stored.without_uid else ""
        _note(f"{stored.new} new slices in {db}, {stored.replaced} known ones replaced{left_out}")


def _notify(policy: Policy, built: dict[str, Any], *, quiet: bool) -> None:
    """Report to the policy's webhook; that nobody listens is a warning, not a failure."""
    from n2q_edge import webhook

    if policy.webhook is None or (content := webhook.message(built, policy.webhook.on)) is None:
        return
    trouble = webhook.post(policy.webhook, content)
    if trouble:
        _note(f"warning: the webhook of the policy was not reached: {trouble}")
    elif not quiet:
        _note(f"reported {len(content['series'])} series to the webhook of the policy")


def _chosen_runtime(facts: dict[str, Any]) -> str:
    why = f", chosen by {facts['chosen_by']}: {facts['chosen_because']}" if "chosen_by" in facts else ""
    return f"runtime {facts.get('name')} {facts.get('version')} on {facts.get('device')}{why}"


def _print_results(
    assessment: Assessment,
    built: dict[str, Any],
    worst: int,
    policy: Policy,
    *,
    as_json: bool,
    as_csv: bool,
    quiet: bool,
) -> None:
    with _stdout():
        if as_json:
            from n2q_edge.report.document import json_pieces

            sys.stdout.writelines(json_pieces(built))
        elif as_csv:
            from n2q_edge.report.slices_csv import to_csv

            sys.stdout.write(to_csv(assessment))
        elif not quiet:
            from rich.console import Console

            from n2q_edge.report.table import render

            render(assessment, Console(highlight=False), worst=worst, policy=policy)


@app.command()
def trend(
    db: Annotated[Path, typer.Option(help="The trend database that 'assess --db' fills.")],
    by: Annotated[
        str, typer.Option(help="Group by any of scanner, protocol, kernel, body_part.")
    ] = "scanner,protocol,kernel",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write a page of charts here.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="One CSV row a series on stdout, no table.")] = False,
    policy: Annotated[
        Path | None,
        typer.Option(help="TOML: judge the stored scores by it; the default policy if not given."),
    ] = None,
) -> int:
    """Show quality over time, with control limits and outliers, from a trend database."""
    from n2q_edge.atomic import write_text
    from n2q_edge.policy import load_policy
    from n2q_edge.trends import groups
    from n2q_edge.trends.store import read

    keys, rules = groups.parse_by(by), load_policy(policy)
    found = groups.group(read(db), keys, rules)
    with _stdout():
        if as_csv:
            sys.stdout.write(groups.to_csv(found, keys))
        else:
            from rich.console import Console

            from n2q_edge.trends.table import render

            render(found, Console(highlight=False))
    if out:
        from n2q_edge.trends.page import to_html

        write_text(out, to_html(found, keys, rules, db))
        _note(f"the page is {out}")
    return int(ExitCode.OK)


@app.command()
def export(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE|CHECKPOINT]", help="The released checkpoint if not given."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The ONNX file to write.")] = Path("model.onnx"),
    precision: Annotated[str, typer.Option(help="fp32, fp16, fp16-norm32 or int8.")] = "fp32",
    calibrate: Annotated[
        list[Path] | None, typer.Option(help="For int8: a CT series; give it as often as needed.")
    ] = None,
) -> int:
    """Export a checkpoint to ONNX and prove that it computes the same."""
    from n2q_edge.export import export_model

    report = export_model(source, out, precision=precision, calibrate=calibrate or ())
    with _stdout():
        print(f"{report.path}  {report.size_bytes / 1e6:.1f} MB  sha256 {report.sha256}")
        for batch in report.parity:
            print(
                f"  {list(batch.shape)} against PyTorch: quality map max {batch.max_difference:.1e}, "
                f"mean {batch.mean_difference:.1e} SSIM; same dose level"
            )
    return int(ExitCode.OK)


@app.command()
def build(
    onnx: Annotated[
        Path,
        typer.Argument(metavar="MODEL.onnx", help="From 'n2q-edge export --precision fp16-norm32'."),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A GPU to build for: a name of 'n2q-edge targets' or a .toml file. May be given several "
            "times, for one engine that runs on all of them. Default: the GPU in this machine."
        ),
    ] = None,
    flavor: Annotated[
        str | None,
        typer.Option(
            help="The library: tensorrt-rtx (builds on any machine) or tensorrt (builds only on the GPU "
            "itself). Default: what the target recommends."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Height x width of the slices in pixels. Default: the target's, 512x512."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Slices an inference. Default: the target's, 1.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="The engine to write. Default: MODEL.TARGET.engine beside MODEL.onnx."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Build a TensorRT engine from an ONNX file, for this GPU or another.

    The precision is that of the ONNX file. 'n2q-edge targets' lists the GPUs, docs/gpu.md tells the rest.
    """
    from n2q_edge.engine.build import advice
    from n2q_edge.engine.build import build as build_engine
    from n2q_edge.engine.targets import find_target, parse_size
    from n2q_edge.progress import gauge

    wanted = [find_target(name) for name in target or ()]
    with gauge(quiet=quiet) as show:
        report = build_engine(
            onnx,
            out,
            targets=wanted,
            flavor=flavor,
            size=parse_size(size) if size else None,
            batch=batch,
            on_progress=show,
        )
    sidecar = report.sidecar
    with _stdout():
        print(f"{report.path}  {sidecar.engine_bytes / 1e6:.1f} MB  sha256 {sidecar.engine_sha256}")
        print(
            f"  {sidecar.spec.name} {sidecar.spec.precision}, {sidecar.flavor} {sidecar.version}, compute "
            f"capability {', '.join(sidecar.capabilities)}, {sidecar.build_seconds:.1f} s"
        )
    better = advice(report, wanted)
    if better and not quiet:
        _note(better)
    return int(ExitCode.OK)


@app.command()
def targets(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """List the GPUs 'n2q-edge build --target' knows."""
    from n2q_edge.engine.targets import profiles, render

    with _stdout():
        if as_json:
            import json
            from dataclasses import asdict

            print(json.dumps([asdict(profile) for profile in profiles()], indent=1))
        else:
            from rich.console import Console

            render(profiles(), Console(highlight=False))
    return int(ExitCode.OK)


@app.command()
def inspect(
    model: Annotated[
        Path, typer.Argument(metavar="FILE", help="An .onnx, .engine, .safetensors or .pth file.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Say what a model file is, without a GPU; exit code 5 if it would be refused."""
    from n2q_edge.explain import explain, lines

    found = explain(model)
    with _stdout():
        if as_json:
            import json

            print(json.dumps(found, indent=1))
        else:
            print("\n".join(lines(found)))
    return int(ExitCode.MODEL if found["problems"] else ExitCode.OK)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe, e.g. export/n2q.toml.")],
    data: Annotated[list[Path], typer.Option(help="A folder of CT series; give it as often as needed.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder of checkpoint and metrics; the recipe's if not given."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the noise cache and the run's state.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option(help="Go on where the last run was interrupted.")] = True,
    minutes: Annotated[float | None, typer.Option(min=0, help="End the schedule after this long.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Train a system on simulated doses of full-dose CT series, and evaluate it on other patients."""
    from n2q_edge.errors import require
    from n2q_edge.progress import gauge

    require("torch", "train")
    from n2q_edge.training.train import train as run_training

    with gauge(quiet=quiet) as show:
        result = run_training(
            recipe,
            data,
            out=out,
            runs=runs,
            device=device,
            minutes=minutes,
            resume=resume,
            on_slice=lambda done, total, _: show(done / total, f"slice {done} of {total}"),
            on_step=lambda progress: show(progress.fraction, f"step {progress.step}"),
            on_stage=lambda stage: None if quiet else _note(stage),
        )
    with _stdout():
        print(result.checkpoint)
        print(result.metrics_file)
    return int(ExitCode.OK)


@app.command()
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
        _note(f"left out: {source}: {reason}")
    with _stdout():
        for folder in sorted({file.parent for file in result.files}):
            print(folder)
    return int(ExitCode.PARTIAL if result.left_out else ExitCode.OK)


@app.command()
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
    with _stdout():
        for folder in sorted({file.parent for file in files}):
            print(folder)
    return int(ExitCode.OK)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Say what this machine can run: Python, runtimes, GPU and driver, the released model."""
    from n2q_edge.doctor import examine, render

    findings = examine()
    with _stdout():
        if as_json:
            import json

            print(json.dumps(findings, indent=1, allow_nan=False))
        else:
            from rich.console import Console

            render(findings, Console(highlight=False))
    return int(ExitCode.OK)


@app.command()
def bench(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL", help="Model files; the released one if not given."),
    ] = None,
    runtimes: Annotated[
        list[str] | None,
        typer.Option("--runtime", help="As often as needed; the first is what the others are compared to."),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="latency, throughput or stream, as often as needed; latency if not given."),
    ] = None,
    series: Annotated[
        Path | None, typer.Option(help="CT series for stream, and for the slice; else one is made up.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the runtime; its cores if not given.")
    ] = None,
    slices: Annotated[int, typer.Option(min=1, help="Slices a candidate; 662 give a p99.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every candidate.")] = 5,
    size: Annotated[int, typer.Option(min=16, help="Side of the made-up slice in pixels.")] = 512,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the JSON document here.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a .png, .svg or .pdf here.")] = None,
    loadgen: Annotated[
        str | None, typer.Option(help="Also let MLPerf's LoadGen drive: SingleStream or Offline.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", help="Compare two JSON documents; measures nothing."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table.")] = False,
) -> int:
    """Measure how fast models are on this machine, or compare two such measurements."""
    from rich.console import Console

    from n2q_edge.bench import document

    if compare:
        from n2q_edge.bench.compare import render as render_comparison

        first, second = document.read(compare[0]), document.read(compare[1])
        with _stdout():
            render_comparison(first, second, Console(highlight=False))
        return int(ExitCode.OK)
    from n2q_edge.bench.measure import Candidate, Plan, measure
    from n2q_edge.bench.table import render
    from n2q_edge.progress import gauge

    plan = Plan(tuple(mode or ["latency"]), slices, rounds, series=series, size=size)
    files: list[Path | None] = [*models] if models else [None]
    candidates = [Candidate(file, runtime, threads) for file in files for runtime in runtimes or ["auto"]]
    if plot:
        from n2q_edge.bench.plot import check_name

        check_name(plot)
    with gauge(quiet=quiet) as show:
        measured = document.build(measure(candidates, plan, loadgen=loadgen, on_step=show))
    if json_out:
        document.write(measured, json_out)
    if plot:
        from n2q_edge.bench.plot import write

        write(measured, plot)
    if not quiet:
        with _stdout():
            render(measured, Console(highlight=False))
    return int(ExitCode.OK)
