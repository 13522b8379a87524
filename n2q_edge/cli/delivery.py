"""What `n2q-edge assess` hands over when a run is over: each output on its own, the soonest safe first."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n2q_edge.cli import signals
from n2q_edge.cli.console import note, results, table_console

if TYPE_CHECKING:
    from n2q_edge.assessment.results import RunReport
    from n2q_edge.cli.outputs import Outputs
    from n2q_edge.dicom_out.objects import DicomWriter
    from n2q_edge.report.drawing import Drawing
    from n2q_edge.report.folder import OutputFolder


@dataclass(frozen=True)
class Wanted:
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
class Delivery:
    """The outputs of a run that is over, each written on its own."""

    assessment: RunReport
    wanted: Wanted
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
