"""`n2q-edge assess`. Parse, call, render; no logic."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from n2q_edge.cli import signals
from n2q_edge.cli.console import note, results, table_console
from n2q_edge.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from n2q_edge.assessment.results import Assessment
    from n2q_edge.cli.outputs import Outputs
    from n2q_edge.dicom import Inventory
    from n2q_edge.dicom.segmentation import Segmentation
    from n2q_edge.dicom_out.objects import DicomWriter
    from n2q_edge.report.drawing import Drawing
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
    worst: Annotated[int, typer.Option(min=0, help="Worst slices per series to list and draw.")] = 5,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes, no table.")] = False,
) -> int:
    """Assess every CT slice found under PATH: quality, dose level, noise, latency."""
    from n2q_edge.assessment.learn_reference import open_reference
    from n2q_edge.assessment.run import assess as assess_all
    from n2q_edge.assessment.slice_result import tissue_regions
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
        wanted = _Wanted(paths, db, seg, as_json, as_csv, with_phi, quiet, fail_below)
        _Delivery(assessment, wanted, outputs, folder, drawing, objects).deliver()
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


@dataclass(frozen=True)
class _Wanted:
    """What the command line asks for, as far as the outputs are concerned."""

    paths: list[Path]
    db: Path | None
    seg: Path | None
    as_json: bool
    as_csv: bool
    with_phi: bool
    quiet: bool
    fail_below: float | None


@dataclass
class _Delivery:
    """The outputs of a run that is over, each written on its own."""

    assessment: Assessment
    wanted: _Wanted
    outputs: Outputs
    folder: OutputFolder | None
    drawing: Drawing | None
    objects: DicomWriter | None

    def deliver(self) -> None:
        """Write them: what is soonest safe first, what another machine must take last."""
        if self.wanted.db:
            with self.outputs.attempt("the trend database"):
                self._append(self.wanted.db)
        if self.drawing and self.assessment.series:
            with self.outputs.attempt("the pictures"):
                self.drawing.draw(self.assessment.series[-1])  # no series has ended after it was interrupted
        if not self.wanted.with_phi:
            self._leave_out_identity()
        built = self._write_reports()
        if signals.interrupted() and self.assessment.complete:
            self.assessment.complete = False
            built = self._write_reports()  # they must say so
        with self.outputs.attempt("stdout"):
            self._print(built)
        if self.objects:
            with self.outputs.attempt("the DICOM objects"):
                self._check_objects(self.objects)
        if built:
            with self.outputs.attempt("the webhook"):
                self._notify(built)

    def _append(self, db: Path) -> None:
        from n2q_edge.trends.doses import add_skipped_reports, link_series
        from n2q_edge.trends.store import append

        with_phi = self.wanted.with_phi
        stored = append(db, self.assessment, with_phi=with_phi)
        link_series(db, self.assessment, with_phi=with_phi)
        reports = add_skipped_reports(db, self.assessment, with_phi=with_phi)
        if not self.wanted.quiet:
            left_out = f", {stored.without_uid} without a UID left out" if stored.without_uid else ""
            doses = f", {reports} dose reports" if reports else ""
            note(f"{stored.new} new slices in {db}, {stored.replaced} known ones replaced{left_out}{doses}")

    def _leave_out_identity(self) -> None:
        from n2q_edge.report.privacy import leave_out_identity

        leave_out_identity(self.assessment, self.wanted.paths)

    def _write_reports(self) -> dict[str, Any] | None:
        """Write the reports into the folder, if any; the JSON document, None if it could not be made."""
        from n2q_edge.report import document
        from n2q_edge.report.folder import report_files

        seg = self.wanted.seg
        built: dict[str, Any] | None = None
        with self.outputs.attempt("the JSON document"):
            built = document.build(
                self.assessment,
                fail_below=self.wanted.fail_below,
                segmentation=seg if seg is None or self.wanted.with_phi else Path(seg.name),
                dicom=self.objects.series if self.objects else None,
            )
        if built is None or self.folder is None or self.drawing is None:
            return built
        failed_before = self.outputs.failures
        for name, content in report_files(self.assessment, built, self.drawing).items():
            with self.outputs.attempt(name):
                self.folder.write(name, content())
        if not self.wanted.quiet and self.outputs.failures == failed_before:
            pictures = len(self.drawing.written)
            note(f"report.html, report.json, slices.csv and {pictures} pictures are in {self.folder.path}")
        return built

    def _print(self, built: dict[str, Any] | None) -> None:
        with results():
            if self.wanted.as_json and built:
                from n2q_edge.report.document import json_pieces

                sys.stdout.writelines(json_pieces(built))
            elif self.wanted.as_csv:
                from n2q_edge.report.slices_csv import to_csv

                sys.stdout.write(to_csv(self.assessment))
            elif not self.wanted.quiet and not self.wanted.as_json:
                from n2q_edge.report.table import render

                render(self.assessment, table_console())

    def _check_objects(self, objects: DicomWriter) -> None:
        if objects.error:
            raise objects.error
        if self.wanted.quiet:
            return
        for series in objects.series:
            for missing in series.not_written:
                note(f"series {series.number}: no DICOM {missing.kind}: {missing.detail} ({missing.reason})")
        written = sum(len(series.written) for series in objects.series)
        note(f"{written} DICOM objects are in {objects.folder}")

    def _notify(self, built: dict[str, Any]) -> None:
        """Report to the policy's webhook; that nobody listens is a warning, not a failure."""
        from n2q_edge.report import webhook

        hook = self.assessment.policy.webhook
        if hook is None or (content := webhook.message(built, hook.on)) is None:
            return
        trouble = webhook.post(hook, content)
        if trouble:
            note(f"warning: the webhook of the policy was not reached: {trouble}")
        elif not self.wanted.quiet:
            note(f"reported {len(content['series'])} series to the webhook of the policy")
