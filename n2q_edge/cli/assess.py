"""`n2q-edge assess`. Parse, call, render; no logic."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from n2q_edge.cli import signals
from n2q_edge.cli.archive import assess_archive
from n2q_edge.cli.console import note
from n2q_edge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from n2q_edge.dicom import Inventory
    from n2q_edge.dicom.segmentation import Segmentation
    from n2q_edge.dicom_out.objects import DicomWriter
    from n2q_edge.report.folder import OutputFolder
    from n2q_edge.runtimes.base import Runtime


def assess(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="DICOM files, folders, zip archives or DICOMDIRs.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Write report.html, report.json, slices.csv and pictures here."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, no table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="One CSV row per slice, no table.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(help="A model file, n2q-small or n2q-plus; n2q-small if not given."),
    ] = None,
    runtime: Annotated[str, typer.Option(help="What runs the model; 'n2q-edge doctor' lists them.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of the runtime; one per physical core if not given."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Slices per inference (batch size).")] = 1,
    fail_below: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 10 if a series' mean quality is lower.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="TOML: what is usable, and what to do; the default policy if not given."),
    ] = None,
    dicom: Annotated[
        bool, typer.Option("--dicom", help="With -o: also write DICOM maps, report and overlays.")
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(help="Full-dose noise: a file of 'n2q-edge reference', or a full-dose series."),
    ] = None,
    reference_noise: Annotated[
        float | None, typer.Option(metavar="HU", help="Full-dose noise, measured as 'noise' is.")
    ] = None,
    reference_diameter: Annotated[
        float | None,
        typer.Option(metavar="MM", help="Water-equivalent diameter that --reference-noise holds for."),
    ] = None,
    seg: Annotated[
        Path | None, typer.Option(help="DICOM Segmentation: score its segments, not the tissue classes.")
    ] = None,
    db: Annotated[Path | None, typer.Option(help="Append the scores to this trend database.")] = None,
    with_phi: Annotated[
        bool,
        typer.Option(
            "--with-phi", help="Keep descriptions and whole paths in reports, UIDs in the trend database."
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="An archive: rows per slice go here, and what is there is kept."),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="With --resume: only this part of the series.")
    ] = "1/1",
    worst: Annotated[int, typer.Option(min=0, help="Worst slices per series to list and draw.")] = 5,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes, no table.")] = False,
) -> int:
    """Assess every CT slice found under PATH: quality, dose level, noise, latency."""
    if resume:
        refused = (out, as_json, as_csv, policy, dicom, reference, seg, db)
        numbers = (reference_noise, reference_diameter, fail_below)
        if any(refused) or any(number is not None for number in numbers):
            raise UsageError("--resume OUT writes rows for 'merge OUT': no other output, policy or reference")
        return assess_archive(
            paths,
            resume,
            shard,
            model=model,
            runtime=runtime,
            threads=threads,
            batch=batch,
            with_phi=with_phi,
            quiet=quiet,
        )
    if shard != "1/1":
        raise UsageError("--shard needs --resume OUT: name the folder that all shards write into")
    from n2q_edge.assessment.learn_reference import open_reference
    from n2q_edge.assessment.run import assess as assess_all
    from n2q_edge.assessment.slice_result import tissue_regions
    from n2q_edge.cli.delivery import Delivery, Wanted
    from n2q_edge.cli.outputs import Collectors, Outputs
    from n2q_edge.cli.progress import ticks
    from n2q_edge.dicom import scan
    from n2q_edge.malloc import give_back_freed_memory, keep_freed_memory
    from n2q_edge.quality.policy import load_policy
    from n2q_edge.report.drawing import Drawing
    from n2q_edge.report.folder import OutputFolder
    from n2q_edge.runtimes import open_model

    if as_json and as_csv:
        raise UsageError("--json and --csv both want stdout: choose one, -o OUT writes both")
    if dicom and not out:
        raise UsageError("--dicom writes into the folder of -o OUT: name one")
    rules, outputs = load_policy(policy), Outputs()
    known = open_reference(reference, reference_noise, reference_diameter)
    with ExitStack() as stack:
        folder = stack.enter_context(OutputFolder(out)) if out else None
        if db:
            from n2q_edge.trends.store import prepare

            prepare(db, with_phi=with_phi)
        keep_freed_memory()
        opened = stack.enter_context(open_model(model, runtime=runtime, threads=threads))
        if not quiet:
            note(_chosen_runtime(opened.describe()))
        with ticks("finding CT slices", None, quiet=quiet) as tick:
            inventory = scan(paths, on_file=tick)
        organs = _segmentation(seg, inventory) if seg else None
        if folder:
            folder.clear()
        stack.enter_context(signals.held())  # from here on there is something to keep
        drawing = Drawing(opened.spec, len(inventory.series), folder.write) if folder else None
        objects = stack.enter_context(_dicom_writer(folder, opened, organs)) if dicom and folder else None
        slices = sum(len(series.slices) for series in inventory.series)
        with ticks("assessing", slices, quiet=quiet) as tick:
            assessment = assess_all(
                inventory,
                opened,
                batch=batch,
                policy=rules,
                worst=worst,
                keep_images=folder is not None,
                on_outcome=tick,
                regions=organs.regions if organs else tissue_regions,
                reference=known,
                collector=Collectors(outputs, [each for each in (drawing, objects) if each]),
                interruptible=signals.raised,
            )
        opened.close()
        give_back_freed_memory()  # with the model's
        wanted = Wanted(paths, db, seg, as_json, as_csv, with_phi, quiet, fail_below)
        Delivery(assessment, wanted, outputs, folder, drawing, objects).deliver()
        code = ExitCode.INTERRUPTED if signals.interrupted() else assessment.exit_code(fail_below)
    if outputs.code is not ExitCode.OK:
        return int(outputs.code)
    if code is not ExitCode.OK and not quiet:
        note(_EXIT_NOTES[code])
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


def _dicom_writer(folder: OutputFolder, runtime: Runtime, organs: Segmentation | None) -> DicomWriter:
    from n2q_edge.dicom_out.objects import DicomWriter

    segments = organs.segments if organs else ()
    return DicomWriter(
        folder.path, runtime.spec, runtime.describe(), segments=segments, on_folder=folder.record
    )


def _chosen_runtime(facts: dict[str, Any]) -> str:
    why = f", chosen by {facts['chosen_by']}: {facts['chosen_because']}" if "chosen_by" in facts else ""
    return f"runtime {facts.get('name')} {facts.get('version')} on {facts.get('device')}{why}"
