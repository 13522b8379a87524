"""`n2q-edge assess`. Parse, call, render; no logic."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from n2q_edge.cli.console import note, results
from n2q_edge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from n2q_edge.assessment.results import Assessment
    from n2q_edge.dicom import Inventory
    from n2q_edge.dicom.segmentation import Segmentation
    from n2q_edge.dicom_out.objects import DicomWriter
    from n2q_edge.quality.policy import Policy
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
    as_csv: Annotated[bool, typer.Option("--csv", help="One CSV row a slice on stdout, no table.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(help="A model file, n2q-small or n2q-plus; n2q-small if not given."),
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
        bool, typer.Option("--with-phi", help="Keep UIDs and descriptions in the trend database.")
    ] = False,
    worst: Annotated[int, typer.Option(min=0, help="Worst slices to list and picture, a series.")] = 5,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes, no table.")] = False,
) -> int:
    """Assess every CT slice found under PATH: quality, dose level, noise, latency."""
    from n2q_edge.assessment.learn_reference import open_reference
    from n2q_edge.assessment.run import assess as assess_all
    from n2q_edge.assessment.slice_result import tissue_regions
    from n2q_edge.cli.progress import ticks
    from n2q_edge.dicom import scan
    from n2q_edge.files import make_folder
    from n2q_edge.malloc import give_back_freed_memory, keep_freed_memory
    from n2q_edge.quality.policy import load_policy
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
    known = open_reference(reference, reference_noise, reference_diameter)
    if out:
        make_folder(out)
    if db:
        from n2q_edge.trends.store import prepare

        prepare(db, with_phi=with_phi)
    keep_freed_memory()
    with open_model(model, runtime=runtime, threads=threads) as opened:
        if not quiet:
            note(_chosen_runtime(opened.describe()))
        with ticks("finding CT slices", None, quiet=quiet) as tick:
            inventory = scan(paths, on_file=tick)
        organs = _segmentation(seg, inventory) if seg else None
        slices = sum(len(series.slices) for series in inventory.series)
        objects = _dicom_writer(out, opened, organs) if dicom and out else None
        with ticks("assessing", slices, quiet=quiet) as tick, objects or nullcontext():
            assessment = assess_all(
                inventory,
                opened,
                batch=batch,
                policy=rules,
                worst=worst,
                keep_images=out is not None,
                on_outcome=tick,
                regions=organs.regions if organs else tissue_regions,
                reference=known,
                collector=objects,
            )
    give_back_freed_memory()  # with the model's
    built = document.build(
        assessment,
        fail_below=fail_below,
        segmentation=seg,
        dicom=objects.series if objects else None,
    )
    try:
        pictures = write_folder(assessment, built, out) if out else []
    finally:  # a full disk loses no result
        _print_results(assessment, built, as_json=as_json, as_csv=as_csv, quiet=quiet)
    if out and not quiet:
        note(f"report.html, report.json, slices.csv and {len(pictures)} pictures are in {out}")
    if db:
        _append(db, assessment, with_phi=with_phi, quiet=quiet)
    _notify(rules, built, quiet=quiet)
    if objects:
        _check_objects(objects, quiet=quiet)
    code = assessment.exit_code(fail_below)
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


def _dicom_writer(out: Path, runtime: Runtime, organs: Segmentation | None) -> DicomWriter:
    from n2q_edge.dicom_out.objects import DicomWriter

    segments = organs.segments if organs else ()
    return DicomWriter(out, runtime.spec, runtime.describe(), segments=segments)


def _check_objects(objects: DicomWriter, *, quiet: bool) -> None:
    if objects.error:
        raise objects.error
    if quiet:
        return
    for series in objects.series:
        for missing in series.not_written:
            note(f"series {series.number}: no DICOM {missing.kind}: {missing.detail} ({missing.reason})")
    written = sum(len(series.written) for series in objects.series)
    note(f"{written} DICOM objects are in {objects.folder}")


def _append(db: Path, assessment: Assessment, *, with_phi: bool, quiet: bool) -> None:
    from n2q_edge.trends.doses import add_skipped_reports, link_series
    from n2q_edge.trends.store import append

    stored = append(db, assessment, with_phi=with_phi)
    link_series(db, assessment, with_phi=with_phi)
    reports = add_skipped_reports(db, assessment, with_phi=with_phi)
    if not quiet:
        left_out = f", {stored.without_uid} without a UID left out" if stored.without_uid else ""
        dose_reports = f", {reports} dose reports" if reports else ""
        note(
            f"{stored.new} new slices in {db}, {stored.replaced} known ones replaced{left_out}{dose_reports}"
        )


def _notify(policy: Policy, built: dict[str, Any], *, quiet: bool) -> None:
    """Report to the policy's webhook; that nobody listens is a warning, not a failure."""
    from n2q_edge.report import webhook

    if policy.webhook is None or (content := webhook.message(built, policy.webhook.on)) is None:
        return
    trouble = webhook.post(policy.webhook, content)
    if trouble:
        note(f"warning: the webhook of the policy was not reached: {trouble}")
    elif not quiet:
        note(f"reported {len(content['series'])} series to the webhook of the policy")


def _chosen_runtime(facts: dict[str, Any]) -> str:
    why = f", chosen by {facts['chosen_by']}: {facts['chosen_because']}" if "chosen_by" in facts else ""
    return f"runtime {facts.get('name')} {facts.get('version')} on {facts.get('device')}{why}"


def _print_results(
    assessment: Assessment,
    built: dict[str, Any],
    *,
    as_json: bool,
    as_csv: bool,
    quiet: bool,
) -> None:
    with results():
        if as_json:
            from n2q_edge.report.document import json_pieces

            sys.stdout.writelines(json_pieces(built))
        elif as_csv:
            from n2q_edge.report.slices_csv import to_csv

            sys.stdout.write(to_csv(assessment))
        elif not quiet:
            from rich.console import Console

            from n2q_edge.report.table import render

            render(assessment, Console(highlight=False))
