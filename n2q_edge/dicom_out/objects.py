"""The DICOM objects of `assess --dicom`: maps, structured report, colour overlay, in `OUT/dicom/seriesNNN`.

The pixels of a series wait in files beside the objects-to-be, so memory does not grow with the slices.
All objects of a series are written into a hidden folder that gets its name in one step when all of them are
whole: after an interruption or with a full disk there is no folder, never half of one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from n2q_edge import __version__
from n2q_edge.assessment.results import SeriesReport, SliceResult
from n2q_edge.dicom.segmentation import Segment
from n2q_edge.dicom_out.collected import Collected, output
from n2q_edge.dicom_out.ct_image import stable_uid, write_dataset
from n2q_edge.dicom_out.measurements import algorithm_of, report_groups, verdict_code
from n2q_edge.dicom_out.overlay import secondary_capture
from n2q_edge.dicom_out.parametric_map import (
    NOISE,
    QUALITY,
    MapKind,
    parametric_map,
    volumes,
    write_parametric_map,
)
from n2q_edge.dicom_out.source_header import NotWrittenError, SourceContext, checking_source, source_context
from n2q_edge.dicom_out.structured_report import Algorithm, Group, structured_report
from n2q_edge.errors import OutputError, require
from n2q_edge.files import make_folder
from n2q_edge.quality.overlay import Rgb
from n2q_edge.spec import ModelSpec

OWN_FOLDER = re.compile(r"\.?series\d{3,}(\.part)?")
FIRST_SERIES_NUMBER = 9000  # far from a scanner's own; then 10 for each source series


@dataclass(frozen=True)
class WrittenObject:
    """An object that is there.

    Attributes:
        kind: `quality_map`, `noise_map`, `structured_report` or `overlay`.
        path: its file.
        sop_class_uid: what it is.
        sop_instance_uid: which it is.
    """

    kind: str
    path: Path
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class NotWritten:
    """An object that could not be made, and why.

    Attributes:
        kind: as in `WrittenObject`, or `all`.
        reason: of `dicom.context.NOT_WRITTEN_REASONS`.
        detail: for people.
    """

    kind: str
    reason: str
    detail: str


@dataclass
class SeriesObjects:
    """What came of one series."""

    number: int
    written: list[WrittenObject] = field(default_factory=list)
    not_written: list[NotWritten] = field(default_factory=list)

    def leave_out(self, reason: str, detail: str) -> None:
        """No object of the series can be made."""
        self.not_written = [NotWritten("all", reason, detail)]


@dataclass(frozen=True)
class ResultUids:
    """UIDs of the results of a series: the same whenever the same slices meet the same model and policy.

    So doing a thing twice gives an archive one result, not two.
    """

    source: tuple[object, ...]

    @classmethod
    def of(cls, context: SourceContext, *decisive: object) -> ResultUids:
        """Those of one series; `decisive` is what else decides the result."""
        slices = sorted(f"{item.ref.sop_instance_uid} {item.ref.frame}" for item in context.slices)
        return cls((context.series_instance_uid, stable_uid(*slices), *decisive, __version__))

    def __call__(self, kind: str, number: int | None = None) -> UID:
        """Of the series of one kind of object, or of its object `number`."""
        return stable_uid("result", *self.source, kind, number)


class DicomWriter:
    """Collects the slices of a series and writes its objects when it ends. A context manager.

    A full disk does not stop the assessment: nothing more is collected, and `error` says so at the end.

    Attributes:
        folder: where the objects are.
        series: what was and was not written, by series.
        error: the first trouble in writing, or None.
    """

    def __init__(
        self,
        out: Path,
        spec: ModelSpec,
        runtime: Mapping[str, Any],
        *,
        segments: Sequence[Segment] = (),
        on_folder: Callable[[Path], None] = lambda folder: None,
        maps_only: bool = False,
    ) -> None:
        """Make the folder, and remove the objects of an earlier run, which would pass for this one's.

        Args:
            out: the folder of the run; the objects go to `out/dicom`.
            spec: of the model.
            runtime: what `Runtime.describe` says.
            segments: of the segmentation the regions are from; none for tissue classes.
            on_folder: called with the folder of a series before it gets its name.
            maps_only: neither overlays nor a report.

        Raises:
            MissingDependencyError: highdicom is not installed.
            OutputError: the folder cannot be written to.
        """
        require("highdicom", "dicom")
        self.series: list[SeriesObjects] = []
        self.error: OutputError | None = None
        self.folder = out / "dicom"
        self._spec, self._on_folder = spec, on_folder
        self._algorithm = algorithm_of(spec, runtime)
        self._maps_only = maps_only
        self._model = str(runtime.get("model_sha256"))
        self._segments = {segment.name: segment for segment in segments}
        self._current: Collected | None = None
        make_folder(self.folder)
        for path in self.folder.iterdir():
            if OWN_FOLDER.fullmatch(path.name) and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)

    def add(self, report: SeriesReport, result: SliceResult) -> None:
        """Take a slice with its images; slices of a series come one after the other."""
        if self.error:
            return
        try:
            if self._current is None:
                self._current = Collected(
                    self.folder / f".series{report.number:03d}.part", pictures=not self._maps_only
                )
            self._current.add(result, (self._spec.window_center, self._spec.window_width))
        except OutputError as error:
            self._fail(error)

    def finish(self, report: SeriesReport) -> None:
        """Write the objects of the series whose slices came."""
        objects = SeriesObjects(report.number)
        if self._current is not None:
            try:
                self._write(report, self._current, objects)
                self._current = None
            except OutputError as error:
                self._fail(error)
        elif not self.error:
            objects.leave_out("nothing_scored", "no slice of the series has a result")
        if self.error:
            objects.written.clear()
            objects.leave_out("output_failed", str(self.error))
        self.series.append(objects)

    def close(self) -> None:
        """Remove what an interrupted series has left."""
        if self._current is not None:
            self._current.remove()
            self._current = None

    def __enter__(self) -> DicomWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fail(self, error: OutputError) -> None:
        self.error = error
        self.close()

    def _write(self, report: SeriesReport, collected: Collected, objects: SeriesObjects) -> None:
        """Write into the hidden folder, then give it its name."""
        staged = self._stage(report, collected, objects)
        folder = self.folder / f"series{report.number:03d}"
        with output(folder):
            if staged:
                self._on_folder(folder)
                collected.folder.rename(folder)
            else:
                collected.folder.rmdir()
        objects.written += [
            WrittenObject(kind, folder / name, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
            for kind, name, dataset in staged
        ]

    def _stage(
        self, report: SeriesReport, collected: Collected, objects: SeriesObjects
    ) -> list[tuple[str, str, Dataset]]:
        """Write into the hidden folder; kind, file name and data set of every object."""
        collected.end()
        try:
            refs = [result.ref for result in collected.results]
            context = source_context(refs, report.series)
        except NotWrittenError as error:
            objects.leave_out(error.reason, str(error))
            collected.remove_pixels()
            return []
        uids = ResultUids.of(context, self._model, report.policy.sha256, sorted(self._segments))
        job = _Job(context, collected, self._algorithm, FIRST_SERIES_NUMBER + 10 * report.number, uids)
        staged: list[tuple[str, str, Dataset]] = []
        writers: list[tuple[str, Callable[[], Iterator[tuple[str, Dataset]]]]] = [
            ("quality_map", lambda: job.maps(QUALITY, "quality_map", 1)),
            ("overlay", lambda: job.overlays(4)),
            (
                "structured_report",
                lambda: job.report(
                    report_groups(report.summary, report.slices, context, self._segments),
                    verdict_code(report.summary.verdict),
                    staged,
                ),
            ),
        ]
        if self._maps_only:
            del writers[1:]
        if collected.has_noise:
            writers.insert(1, ("noise_map", lambda: job.maps(NOISE, "noise_map", 2)))
        for kind, write in writers:
            try:
                for name, dataset in write():
                    staged.append((kind, name, _reference(dataset)))
            except NotWrittenError as error:
                objects.not_written.append(NotWritten(kind, error.reason, str(error)))
        collected.remove_pixels()
        return staged


def _reference(dataset: Dataset) -> Dataset:
    """What it takes to name a written object; the rest need not stay in memory."""
    reference = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(reference, keyword, dataset[keyword].value)
    return reference


@dataclass
class _Job:
    """The objects of one series, written one by one into its hidden folder."""

    context: SourceContext
    collected: Collected
    algorithm: Algorithm
    first_number: int
    uids: ResultUids

    def __post_init__(self) -> None:
        self._index = {id(item): index for index, item in enumerate(self.context.slices)}

    def maps(self, kind: MapKind, name: str, offset: int) -> Iterator[tuple[str, Dataset]]:
        spool = "quality" if kind is QUALITY else "noise"
        for number, volume in enumerate(volumes(self.context.slices), start=1):
            dataset = parametric_map(
                self.context,
                volume,
                kind,
                series_instance_uid=self.uids(name),
                sop_instance_uid=self.uids(name, number),
                series_number=self.first_number + offset,
                instance_number=number,
                algorithm=f"{self.algorithm.name} {self.algorithm.version}",
            )
            file = f"{name}_{number:03d}.dcm"
            size = dataset.Rows * dataset.Columns * 4
            frames = (self.collected.read(spool, self._index[id(item)], size) for item in volume)
            write_parametric_map(self.collected.folder / file, dataset, frames)
            yield file, dataset

    def overlays(self, offset: int) -> Iterator[tuple[str, Dataset]]:
        placed = [item for item in self.context.slices if item.ref.position_mm is not None]
        if not placed:
            raise NotWrittenError("no_geometry", "no slice has Image Position and Orientation (Patient)")
        for number, item in enumerate(placed, start=1):
            layout = item.ref.layout
            size = layout.rows * layout.columns * 3
            pixels = self.collected.read("overlay", self._index[id(item)], size)
            picture: Rgb = np.frombuffer(pixels, np.uint8).reshape(layout.rows, layout.columns, 3)
            dataset = secondary_capture(
                self.context,
                item,
                picture,
                series_instance_uid=self.uids("overlay"),
                sop_instance_uid=self.uids("overlay", number),
                series_number=self.first_number + offset,
                instance_number=number,
            )
            file = f"overlay_{number:04d}.dcm"
            with checking_source():
                write_dataset(self.collected.folder / file, dataset)
            yield file, dataset

    def report(
        self, groups: Sequence[Group], verdict: Code | None, others: Sequence[tuple[str, str, Dataset]]
    ) -> Iterator[tuple[str, Dataset]]:
        dataset = structured_report(
            self.context,
            groups,
            self.algorithm,
            series_instance_uid=self.uids("report"),
            sop_instance_uid=self.uids("report", 1),
            series_number=self.first_number + 3,
            evidence=[dataset for kind, _, dataset in others if kind.endswith("_map")],
            verdict=verdict,
        )
        with checking_source():
            write_dataset(self.collected.folder / "report.dcm", dataset)
        yield "report.dcm", dataset
