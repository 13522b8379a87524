"""The short form of the DICOM results: the report and an overlay of each of the worst slices.

What a node at the scanner sends: maps and overlays of 400 slices are five times as large as the series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from n2q_edge.assessment.results import SeriesReport, SliceResult
from n2q_edge.dicom_out.ct_image import stable_uid, write_dataset
from n2q_edge.dicom_out.measurements import algorithm_of, report_groups, verdict_code
from n2q_edge.dicom_out.objects import FIRST_SERIES_NUMBER, NotWritten, WrittenObject
from n2q_edge.dicom_out.overlay import caption, overlay_picture, secondary_capture
from n2q_edge.dicom_out.source_header import NotWrittenError, SourceContext, checking_source, source_context
from n2q_edge.dicom_out.structured_report import structured_report
from n2q_edge.files import make_folder
from n2q_edge.spec import ModelSpec


@dataclass
class Brief:
    """What was and was not written."""

    written: list[WrittenObject] = field(default_factory=list)
    not_written: list[NotWritten] = field(default_factory=list)


@dataclass(frozen=True)
class BriefWriter:
    """Writes the short form of one series after the other.

    Attributes:
        folder: where to; made if it is not there.
        spec: of the model.
        runtime: what `Runtime.describe` says.
        revision: number of the result of this series, from 1.
        predecessor: SOP Instance UID of the report of the revision before.
    """

    folder: Path
    spec: ModelSpec
    runtime: Mapping[str, Any]
    revision: int = 1
    predecessor: str | None = None

    def write(self, report: SeriesReport) -> Brief:
        """Write the objects of a series.

        Args:
            report: with the pixels of its worst slices.

        Raises:
            MissingDependencyError: highdicom is not installed.
            OutputError: disk full, no permission, ...
        """
        brief = Brief()
        make_folder(self.folder)
        try:
            context = source_context([result.ref for result in report.slices], report.series)
        except NotWrittenError as error:
            brief.not_written.append(NotWritten("all", error.reason, str(error)))
            return brief
        for rank, result in enumerate((each for each in report.worst if each.images), start=1):
            self._attempt(brief, "overlay", self._overlay, report, context, result, rank)
        self._attempt(brief, "structured_report", self._report, report, context)
        return brief

    def _attempt(self, brief: Brief, kind: str, make: Any, report: SeriesReport, *arguments: Any) -> None:
        try:
            name, dataset = make(report, *arguments)
            path = self.folder / f"series{report.number:03d}_{name}.dcm"
            with checking_source():
                write_dataset(path, dataset)
        except NotWrittenError as error:
            brief.not_written.append(NotWritten(kind, error.reason, str(error)))
            return
        written = WrittenObject(kind, path, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
        brief.written.append(written)

    def _uid(self, report: SeriesReport, *parts: object) -> str:
        """The same for the same series, model and parts."""
        series = report.series
        identity = (series.series_instance_uid, series.stack, self.runtime.get("model_sha256"))
        return str(stable_uid("brief", *identity, *parts))

    def _overlay(
        self, report: SeriesReport, context: SourceContext, result: SliceResult, rank: int
    ) -> tuple[str, Dataset]:
        """Its UID is of its slice and of what it shows: where a revision changes nothing, nothing is new."""
        images = result.images
        assert images is not None
        item = next(each for each in context.slices if each.ref == result.ref)
        window = (self.spec.window_center, self.spec.window_width)
        lines = caption(result)
        picture = overlay_picture(images, window, lines)
        shown = (result.ref.sop_instance_uid, result.ref.frame, *lines)
        dataset = secondary_capture(
            context,
            item,
            picture,
            series_instance_uid=self._uid(report, "overlay"),
            sop_instance_uid=self._uid(report, "overlay", *shown),
            series_number=FIRST_SERIES_NUMBER + 10 * report.number + 4,
            instance_number=result.number,
        )
        return f"overlay_{rank:03d}", dataset

    def _report(self, report: SeriesReport, context: SourceContext) -> tuple[str, Dataset]:
        series_uid = self._uid(report, "report")
        before = None
        if self.predecessor:
            before = Dataset()
            before.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
            before.SOPInstanceUID = self._uid(report, "report", self.revision - 1)
            before.StudyInstanceUID, before.SeriesInstanceUID = context.study_instance_uid, series_uid
        dataset = structured_report(
            context,
            report_groups(report.summary, report.slices, context, {}),
            algorithm_of(self.spec, self.runtime),
            series_instance_uid=series_uid,
            sop_instance_uid=self._uid(report, "report", self.revision),
            series_number=FIRST_SERIES_NUMBER + 10 * report.number + 3,
            verdict=verdict_code(report.summary.verdict),
            predecessor=before,
        )
        return "report", dataset
