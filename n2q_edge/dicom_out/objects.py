"""The DICOM objects of `assess --dicom`: maps, structured report, colour overlay, in `OUT/dicom/seriesNNN`.

The pixels of a series wait in files beside the objects-to-be, so memory does not grow with the slices.
All objects of a series are written into a hidden folder that gets its name in one step when all of them are
whole: after an interruption or with a full disk there is no folder, never half of one.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from n2q_edge import __version__
from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.results import SeriesReport, SliceResult
from n2q_edge.assessment.summary import SeriesSummary
from n2q_edge.dicom.segmentation import Segment
from n2q_edge.dicom_out import codes
from n2q_edge.dicom_out.ct_image import stable_uid, write_dataset
from n2q_edge.dicom_out.overlay import caption, overlay_picture, secondary_capture
from n2q_edge.dicom_out.parametric_map import (
    NOISE,
    QUALITY,
    MapKind,
    parametric_map,
    volumes,
    write_parametric_map,
)
from n2q_edge.dicom_out.source_header import NotWrittenError, SourceContext, checking_source, source_context
from n2q_edge.dicom_out.structured_report import Algorithm, Group, Value, structured_report
from n2q_edge.errors import OutputError, require
from n2q_edge.files import make_folder
from n2q_edge.quality.overlay import Rgb
from n2q_edge.quality.policy import Judgement
from n2q_edge.quality.regions import RegionSummary
from n2q_edge.runtimes.grid import enlarge
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
        self._current: _Collected | None = None
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
                self._current = _Collected(
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

    def _write(self, report: SeriesReport, collected: _Collected, objects: SeriesObjects) -> None:
        """Write into the hidden folder, then give it its name."""
        staged = self._stage(report, collected, objects)
        folder = self.folder / f"series{report.number:03d}"
        with _output(folder):
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
        self, report: SeriesReport, collected: _Collected, objects: SeriesObjects
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


def report_groups(
    summary: SeriesSummary,
    results: Sequence[SliceResult],
    context: SourceContext,
    segments: Mapping[str, Segment],
) -> list[Group]:
    """The measurement groups of a report: the series, its worst slices, its regions.

    Args:
        summary: of the series.
        results: its slices.
        context: of the slices, in the same order.
        segments: by region, if the regions are a segmentation's.
    """
    slices = dict(zip((result.number for result in results), context.slices, strict=True))
    return [
        Group("series", codes.IMAGE_QUALITY, _series_values(summary), context.slices),
        *(
            Group(
                f"worst slice {rank}: number {result.number}",
                codes.IMAGE_QUALITY,
                _slice_values(result),
                [slices[result.number]],
            )
            for rank, result in enumerate(summary.worst, start=1)
        ),
        *(_region_group(region, segments.get(region.name)) for region in summary.regions),
    ]


def _region_group(region: RegionSummary, segment: Segment | None) -> Group:
    return Group(
        f"region {region.name}",
        codes.IMAGE_QUALITY,
        _region_values(region),
        site=segment.site if segment else codes.TISSUES.get(region.name),
        segment=segment.reference if segment else None,
    )


def verdict_code(judgement: Judgement) -> Code | None:
    """The verdict as a code of CID 7022; None without one."""
    verdict = judgement.verdict
    return Code(verdict.dicom_code, "DCM", verdict.meaning) if verdict else None


def _reference(dataset: Dataset) -> Dataset:
    """What it takes to name a written object; the rest need not stay in memory."""
    reference = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(reference, keyword, dataset[keyword].value)
    return reference


def algorithm_of(spec: ModelSpec, runtime: Mapping[str, Any]) -> Algorithm:
    """What names the model in a report."""
    parameters = [
        f"model sha256 {runtime['model_sha256']}" if runtime.get("model_sha256") else None,
        f"runtime {runtime.get('name')} {runtime.get('version')}",
        f"window centre {spec.window_center:g} HU, width {spec.window_width:g} HU",
    ]
    return Algorithm(spec.name, spec.version, "; ".join(text for text in parameters if text))


# --------------------------------------------------------------------------------------------------- pixels


@contextlib.contextmanager
def _output(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; free some space or choose another folder"
        ) from None


class _Collected:
    """The slices of one series: results in memory, pixels in files of the hidden folder."""

    def __init__(self, folder: Path, *, pictures: bool) -> None:
        self.folder, self._pictures = folder, pictures
        self.results: list[SliceResult] = []
        self.has_noise = False
        with _output(folder):
            folder.mkdir()
            self._files = {
                name: (folder / f"{name}.raw").open("w+b") for name in ("quality", "noise", "overlay")
            }

    def add(self, result: SliceResult, window: tuple[float, float]) -> None:
        images = result.images
        assert images is not None
        self._append("quality", images.quality_map)
        if images.noise_map is not None:
            self.has_noise = True
            rows, columns = images.hu.shape
            self._append("noise", enlarge(images.noise_map, images.map_cell)[:rows, :columns])
        if self._pictures:
            picture = overlay_picture(images, window, caption(result))
            with _output(self.folder):
                self._files["overlay"].write(picture.tobytes())
        self.results.append(replace(result, images=None))

    def _append(self, name: str, pixels: FloatArray) -> None:
        with _output(self.folder):
            self._files[name].write(pixels.astype("<f4", copy=False).tobytes())

    def end(self) -> None:
        with _output(self.folder):
            for file in self._files.values():
                file.flush()

    def read(self, name: str, index: int, size: int) -> bytes:
        """The bytes of one slice, of `size` each."""
        with _output(self.folder):
            self._files[name].seek(index * size)
            return self._files[name].read(size)

    def remove_pixels(self) -> None:
        for name, file in self._files.items():
            with contextlib.suppress(OSError):
                file.close()
            (self.folder / f"{name}.raw").unlink(missing_ok=True)

    def remove(self) -> None:
        self.remove_pixels()
        shutil.rmtree(self.folder, ignore_errors=True)


# -------------------------------------------------------------------------------------------------- objects


@dataclass
class _Job:
    """The objects of one series, written one by one into its hidden folder."""

    context: SourceContext
    collected: _Collected
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


def _series_values(summary: SeriesSummary) -> list[Value]:
    quality, dose = summary.quality, summary.usual_dose
    noise, model_noise = summary.noise_hu, summary.model_noise_hu
    values = [Value(codes.SLICES_SCORED, summary.scored, codes.SLICES)]
    if quality:
        values += [
            Value(codes.PREDICTED_SSIM, round(quality.mean, 6), codes.NO_UNITS, codes.MEAN),
            Value(codes.PREDICTED_SSIM, round(quality.min, 6), codes.NO_UNITS, codes.MINIMUM),
        ]
    if dose:
        values.append(Value(codes.APPARENT_DOSE, dose.level, codes.PERCENT, codes.MODE))
    if noise:
        values.append(Value(codes.GLOBAL_NOISE, round(noise.median, 3), codes.HOUNSFIELD, codes.MEDIAN))
    if model_noise:
        level = round(model_noise.median, 3)
        values.append(Value(codes.MODEL_NOISE, level, codes.HOUNSFIELD, codes.MEDIAN))
    return values


def _slice_values(result: SliceResult) -> list[Value]:
    assert result.quality is not None
    values = [
        Value(codes.PREDICTED_SSIM, round(result.quality.mean, 6), codes.NO_UNITS, codes.MEAN),
        Value(codes.PREDICTED_SSIM, round(result.quality.p05, 6), codes.NO_UNITS, codes.FIFTH_PERCENTILE),
        Value(codes.FRACTION_BELOW, round(result.quality.below_threshold, 6), codes.NO_UNITS),
    ]
    if result.dose:
        values.append(Value(codes.APPARENT_DOSE, result.dose.level, codes.PERCENT))
    if result.noise_hu is not None:
        values.append(Value(codes.GLOBAL_NOISE, round(result.noise_hu, 3), codes.HOUNSFIELD))
    if result.model_noise_hu is not None:
        values.append(
            Value(codes.MODEL_NOISE, round(result.model_noise_hu, 3), codes.HOUNSFIELD, codes.MEDIAN)
        )
    return values


def _region_values(region: RegionSummary) -> list[Value]:
    return [
        Value(codes.SLICES_SCORED, region.slices, codes.SLICES),
        Value(codes.PREDICTED_SSIM, round(region.mean, 6), codes.NO_UNITS, codes.MEAN),
        Value(codes.PREDICTED_SSIM, round(region.worst[1], 6), codes.NO_UNITS, codes.MINIMUM),
        Value(codes.FRACTION_BELOW, round(region.below_threshold, 6), codes.NO_UNITS),
    ]
