"""All that the node asks of the assessment: one slice when it is there, one series when it is complete."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

from n2q_edge.assessment.lanes import Lanes, worker_count
from n2q_edge.assessment.learn_reference import open_reference
from n2q_edge.assessment.results import Rejection, RunReport, SeriesReport, SliceResult
from n2q_edge.assessment.run import Readers, SliceAssessor
from n2q_edge.assessment.slice_result import tissue_regions
from n2q_edge.assessment.timing import now_ms
from n2q_edge.assessment.worst import WorstSlices
from n2q_edge.dicom.archives import Opener
from n2q_edge.dicom.image import Image
from n2q_edge.dicom.order import make_series
from n2q_edge.dicom.reasons import Rejected, Skipped
from n2q_edge.dicom.records import Series, SliceRef, Source
from n2q_edge.dicom.scan import examine
from n2q_edge.dicom_out.brief import BriefWriter
from n2q_edge.dicom_out.objects import DicomWriter, SeriesObjects
from n2q_edge.errors import N2QError
from n2q_edge.malloc import keep_freed_memory
from n2q_edge.quality.policy import Policy, load_policy
from n2q_edge.report import document
from n2q_edge.report.folder import LIST, LOCK, write_folder
from n2q_edge.report.page import VERDICTS
from n2q_edge.runtimes import open_model
from n2q_edge.runtimes.base import Runtime
from n2q_edge.service.identify import digest
from n2q_edge.service.open_series import Outcome, Written
from n2q_edge.service.revisions import WrittenObject
from n2q_edge.service.settings import Settings
from n2q_edge.trends import doses, store
from n2q_edge.trends.dose_report import read_dose_report

log = logging.getLogger("n2q_edge.worker")

KINDS = {"structured_report": "report"}


@dataclass(frozen=True)
class _File:
    """What a file is, and what came of its slices; began and ended in ms."""

    found: Image | Rejected | Skipped
    results: list[SliceResult | Rejection]
    began: float
    ended: float


class ModelAssessor:
    """The model, kept open."""

    def __init__(self, settings: Settings, runtime: Runtime, lanes: Lanes, readers: Readers) -> None:
        self._settings, self._runtime = settings, runtime
        self._policy: Policy = load_policy(_path(settings.assess.policy))
        reference = open_reference(_path(settings.assess.reference), None, None)
        self._slices = SliceAssessor(lanes, readers, tissue_regions, reference)
        self._pool = ThreadPoolExecutor(worker_count(), thread_name_prefix="n2q-slice")

    def describe(self) -> str:
        """Model and runtime, for people."""
        spec, facts = self._runtime.spec, self._runtime.describe()
        return f"{spec.name} {spec.version} on {facts.get('name')} {facts.get('version')}"

    # -------------------------------------------------------------------------------------------- a slice

    def submit(self, path: Path) -> Future[Outcome]:
        """Assess one file on a thread."""
        return self._pool.submit(self._assess, path)

    def _assess(self, path: Path) -> Outcome:
        began = now_ms()
        with Opener() as opener:
            found = examine(Source(path, path), opener)
        results: list[SliceResult | Rejection] = []
        if isinstance(found, Image):
            results = [self._slice(found.protocol, 1, ref) for ref in found.slices]
        file = _File(found, results, began, now_ms())
        return Outcome(_code(file), digest(path), file)

    def _slice(
        self, protocol: dict[str, Any], number: int, ref: SliceRef, *, pixels: bool = False
    ) -> SliceResult | Rejection:
        (done,) = self._slices.assess(protocol, [(number, ref)])
        if isinstance(done.outcome, SliceResult) and not pixels:
            return replace(done.outcome, images=None)
        return done.outcome

    # ------------------------------------------------------------------------------------------- a series

    def write(
        self, folder: Path, outcomes: Iterable[Outcome], revision: int, predecessor: str | None
    ) -> Written:
        """Write report, pictures and DICOM objects, and add the scores to the trend database."""
        files: list[_File] = [outcome.content for outcome in outcomes]
        assessment = self._assessment(files)
        model = {"sha256": self._runtime.describe().get("model_sha256")}
        model |= {"name": self._runtime.spec.name, "version": self._runtime.spec.version}
        if not assessment.slices_assessed:
            return Written((), {"slices": 0, "not_assessed": _why_not(files)}, model)
        objects = self._objects(folder, assessment, revision, predecessor)
        write_folder(assessment, document.build(assessment), folder)  # it lets go of the pixels
        for name in (LOCK, LIST):  # a result is never written again
            (folder / name).unlink(missing_ok=True)
        self._remember(assessment)
        return Written(objects, _summary(assessment, self._settings), model)

    def _assessment(self, files: Sequence[_File]) -> RunReport:
        """The run that would have had these files as its input."""
        images = [file.found for file in files if isinstance(file.found, Image)]
        assessment = RunReport(
            spec=self._runtime.spec,
            runtime=self._runtime.describe(),
            batch=1,
            created=datetime.now(timezone.utc),
            files_seen=len(files),
            skipped=[file.found for file in files if isinstance(file.found, Skipped)],
            rejected=[file.found for file in files if isinstance(file.found, Rejected)],
            policy=self._policy,
        )
        results: dict[tuple[str, int | None], SliceResult] = {}
        for file in files:
            for result in file.results:
                if isinstance(result, SliceResult):
                    results[result.ref.sop_instance_uid, result.ref.frame] = result
                else:
                    assessment.rejected.append(result)
        seconds = (max(file.ended for file in files) - min(file.began for file in files)) / 1000
        for number, series in enumerate(make_series(images), start=1):
            report = self._report(number, series, results)
            report.seconds = seconds
            if report.slices:
                assessment.series.append(report)
        return assessment

    def _report(
        self, number: int, series: Series, results: dict[tuple[str, int | None], SliceResult]
    ) -> SeriesReport:
        report = SeriesReport(number, series, self._policy)
        selection = WorstSlices(self._settings.assess.worst, len(series.slices))
        for place, ref in enumerate(series.slices, start=1):
            if result := results.get(_key(ref)):
                report.slices.append(_placed(result, place, ref))
                selection.add(report.slices[-1])
        report.worst = [self._with_pixels(series.protocol, each) for each in selection.chosen()]
        return report

    def _with_pixels(self, protocol: dict[str, Any], result: SliceResult) -> SliceResult:
        """The pixels of a slice are not kept while its series arrives: a few are made again."""
        again = self._slice(protocol, result.number, result.ref, pixels=True)
        return replace(result, images=again.images) if isinstance(again, SliceResult) else result

    def _objects(
        self, folder: Path, assessment: RunReport, revision: int, predecessor: str | None
    ) -> tuple[WrittenObject, ...]:
        """The DICOM objects of all series of a result."""
        writer = BriefWriter(
            folder / "dicom",
            self._runtime.spec,
            self._runtime.describe(),
            revision=revision,
            predecessor=predecessor,
        )
        written = []
        for report in assessment.series:
            brief = writer.write(report)
            maps = self._maps(folder, report) if self._settings.assess.maps else SeriesObjects(report.number)
            written += [*brief.written, *maps.written]
            for missing in (*brief.not_written, *maps.not_written):
                log.warning(
                    "an object is not written", extra={"kind": missing.kind, "reason": missing.reason}
                )
        return tuple(
            WrittenObject(
                KINDS.get(each.kind, each.kind),
                each.path.relative_to(folder).as_posix(),
                each.sop_class_uid,
                each.sop_instance_uid,
            )
            for each in written
        )

    def _maps(self, folder: Path, report: SeriesReport) -> SeriesObjects:
        """Maps of all slices, which are assessed again: pixels are not kept while a series arrives."""
        spec, facts = self._runtime.spec, self._runtime.describe()
        with DicomWriter(folder / "maps", spec, facts, maps_only=True) as writer:
            for result in report.slices:
                again = self._with_pixels(report.series.protocol, result)
                if again.images is not None:
                    writer.add(report, again)
            writer.finish(report)
            if writer.error:
                raise writer.error
            return writer.series[0]

    def _remember(self, assessment: RunReport) -> None:
        """A database that fails costs no result."""
        assess = self._settings.assess
        if not assess.trend_database:
            return
        try:
            store.append(Path(assess.trend_database), assessment, with_phi=assess.with_phi)
            doses.link_series(Path(assess.trend_database), assessment, with_phi=assess.with_phi)
        except N2QError as error:
            log.error("not in the trend database", extra={"error": str(error)})

    def add_dose(self, path: Path) -> str:
        """Add a dose report to the trend database."""
        report, assess = read_dose_report(path), self._settings.assess
        if report is None:
            return "not_dose"
        if not assess.trend_database:
            return "no_database"
        try:
            doses.add_report(Path(assess.trend_database), report, with_phi=assess.with_phi)
        except N2QError as error:
            log.error("a dose report is not in the trend database", extra={"error": str(error)})
            return "failed"
        return "stored"

    def close(self) -> None:
        """Wait for the slices under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def open_assessor(settings: Settings) -> Iterator[ModelAssessor]:
    """Open the model, the policy and the trend database.

    Raises:
        N2QError: one of them cannot be used.
    """
    assess = settings.assess
    if assess.trend_database:
        store.prepare(Path(assess.trend_database), with_phi=assess.with_phi)
    keep_freed_memory()
    for slow in ("n2q_edge.report.pictures", "highdicom"):  # or the first result would wait for their import
        import_module(slow)
    with (
        open_model(_path(assess.model), runtime=assess.runtime, threads=assess.threads or None) as runtime,
        Lanes(runtime, worker_count()) as lanes,
        Readers() as readers,
    ):
        assessor = ModelAssessor(settings, runtime, lanes, readers)
        try:
            yield assessor
        finally:
            assessor.close()


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _code(file: _File) -> str:
    """`assessed` if any slice of a file was, else why not."""
    if isinstance(file.found, (Rejected, Skipped)):
        return str(file.found.reason.value)
    if any(isinstance(result, SliceResult) for result in file.results):
        return "assessed"
    return next((each.reason.value for each in file.results if not isinstance(each, SliceResult)), "no_slice")


def _key(ref: SliceRef) -> tuple[str, int | None]:
    return ref.sop_instance_uid, ref.frame


def _placed(result: SliceResult, number: int, ref: SliceRef) -> SliceResult:
    """A result with the place, position and flags that its slice has in its series."""
    own = [flag for flag in result.flags if flag not in result.ref.flags]
    return replace(result, number=number, ref=ref, flags=(*ref.flags, *own))


def _why_not(files: Sequence[_File]) -> str:
    """The reason most files of a series without a result share, for people."""
    reasons = [file.found.reason.description for file in files if not isinstance(file.found, Image)]
    failed = (each for file in files for each in file.results if not isinstance(each, SliceResult))
    reasons += [each.reason.description for each in failed]
    return max(reasons, key=reasons.count) if reasons else ""


def _summary(assessment: RunReport, settings: Settings) -> dict[str, Any]:
    """What the status page, webhooks and mail say: of the stack with the most slices."""
    report = max(assessment.series, key=lambda each: len(each.slices))
    protocol, summary = report.series.protocol, report.summary
    verdict = summary.verdict.verdict.value if summary.verdict.verdict else None
    ratio = summary.reference.ratio if summary.reference else None
    names = [protocol.get("manufacturer"), protocol.get("model")]
    with_phi = settings.assess.with_phi
    return {
        "slices": assessment.slices_assessed,
        "verdict": verdict,
        "verdict_word": VERDICTS.get(verdict, VERDICTS[None])[2],
        "rule": summary.verdict.rule,
        "reasons": list(summary.verdict.reasons),
        "quality": round(summary.quality.mean, 6) if summary.quality else None,
        "noise_hu": round(summary.noise_hu.median, 3) if summary.noise_hu else None,
        "noise_ratio": round(ratio.median, 2) if ratio else None,
        "protocol": protocol.get("protocol_name") or protocol.get("body_part"),
        "scanner": " ".join(str(name) for name in names if name),
        "station": protocol.get("station"),
        "label": protocol.get("series_description") if with_phi else None,
    }
