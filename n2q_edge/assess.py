"""Series x runtime -> a lazy stream of `SliceResult`, then reports.

    with open_model(None) as runtime:
        for outcome in assess_series(series, runtime):
            ...

Several slices are at work at once (see `pipeline`), across series, too. Memory does not grow with the
number of slices: a result keeps its pictures only if the caller keeps the result, and `assess` keeps those of
the worst slices.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from n2q_edge import scoring
from n2q_edge.crosscheck import NOISE_DISAGREEMENT, noise_disagrees
from n2q_edge.dicom import Inventory, LoadedSlice, Rejected, Series, Skipped, SliceReader, SliceRef
from n2q_edge.errors import ExitCode, ModelError
from n2q_edge.heap import keep_freed_memory
from n2q_edge.pipeline import Lanes, in_order, worker_count
from n2q_edge.policy import Judgement, Policy
from n2q_edge.runtimes.base import FloatArray, Inference, Runtime
from n2q_edge.spec import HU_MAX, HU_MIN, ModelSpec
from n2q_edge.timing import StageTimes, now_ms, overlap_ms
from n2q_edge.tissue import Masks, RegionScore, region_scores, tissue_masks

NO_BODY = "no_body"
"""Flag of a slice in which no patient was found; it has no scores."""


class ModelReason(str, Enum):
    """Why a slice that could be read has no result."""

    MODEL_FAILED = "model_failed"
    NON_FINITE_OUTPUT = "non_finite_output"

    @property
    def description(self) -> str:
        """One line for people."""
        return {
            ModelReason.MODEL_FAILED: "The model or its runtime failed on this slice.",
            ModelReason.NON_FINITE_OUTPUT: "The model gave values that are not numbers.",
        }[self]


@dataclass(frozen=True)
class ModelRejected:
    """A slice that was read but that the model could not assess. It reads like `dicom.Rejected`."""

    path: Path | str
    reason: ModelReason
    detail: str
    sop_instance_uid: str | None = None
    frame: int | None = None


Rejection: TypeAlias = Rejected | ModelRejected


@dataclass(frozen=True, slots=True)
class SliceImages:
    """What pictures of a slice need, each [H,W]: HU, predicted SSIM, body mask, the model's noise map."""

    hu: FloatArray
    quality_map: FloatArray
    mask: scoring.BoolArray
    noise_map: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class SliceResult:
    """One assessed slice.

    Attributes:
        number: place in its series along z, from 1; rejected slices count.
        ref: identity and geometry.
        quality: scores in the body mask; None without a body.
        dose: the dose it looks like; None without a body.
        noise_hu: model-free noise level; None with too little soft tissue.
        model_noise_hu: median of the model's own noise map where `noise_hu` is measured, if it gives one.
        flags: of the input, `no_body` and `noise_disagreement`.
        times: of every stage.
        images: the pixels behind the numbers; None once dropped to save memory.
        regions: quality of every tissue class, or of every segment of a segmentation, that is large enough.
    """

    number: int
    ref: SliceRef
    quality: scoring.Quality | None
    dose: scoring.Dose | None
    noise_hu: float | None
    model_noise_hu: float | None
    flags: tuple[str, ...]
    times: StageTimes
    images: SliceImages | None = field(default=None, repr=False)
    regions: tuple[RegionScore, ...] = ()


@dataclass
class SeriesReport:
    """One series as far as it was assessed.

    Attributes:
        number: place in the run, from 1.
        series: identity, protocol and flags.
        slices: in z order, without pixels.
        worst: the slices of the lowest mean quality, worst first, with pixels.
        seconds: by the clock, from when its first slice was begun to its last result, warm-up not. The next
            series is begun a few slices before the end of this one.
        began: when its first slice was begun, ms of `timing.now_ms`.
    """

    number: int
    series: Series
    slices: list[SliceResult] = field(default_factory=list)
    worst: list[SliceResult] = field(default_factory=list)
    seconds: float = 0.0
    began: float = field(default=math.inf, repr=False)

    @property
    def mean_quality(self) -> float | None:
        """Mean over slices of the body-mean quality; None if no slice has one."""
        means = self.quality_means
        return statistics.fmean(means) if means else None

    @property
    def quality_means(self) -> list[float]:
        """Body-mean quality of every slice that has one, in z order."""
        return [result.quality.mean for result in self.slices if result.quality]

    def judge(self, policy: Policy) -> Judgement:
        """What a policy says about the series."""
        return policy.judge(self.series.protocol, self.quality_means)


@dataclass
class Assessment:
    """All that one run found out.

    Attributes:
        spec: of the model.
        runtime: what `Runtime.describe` says.
        batch: slices an inference.
        created: start of the run, UTC.
        files_seen: files found under the paths given.
        skipped: files that are no CT images.
        rejected: files and slices that should have been assessed and could not be.
        series: in the order they were assessed.
        complete: False if it was interrupted.
    """

    spec: ModelSpec
    runtime: dict[str, Any]
    batch: int
    created: datetime
    files_seen: int
    skipped: list[Skipped]
    rejected: list[Rejection]
    series: list[SeriesReport] = field(default_factory=list)
    complete: bool = True

    @property
    def slices_assessed(self) -> int:
        """Slices with a result."""
        return sum(len(report.slices) for report in self.series)

    def exit_code(self, fail_below: float | None = None, policy: Policy | None = None) -> ExitCode:
        """What the process should say; the first that holds.

        130 interrupted, 4 nothing assessed, 10 a series' mean quality is below `fail_below` or its verdict is
        one that `policy` wants an exit code for, 3 some inputs were rejected, 0. Low quality outranks a
        rejected file: it is what the caller asked to be told.
        """
        if not self.complete:
            return ExitCode.INTERRUPTED
        if not self.slices_assessed:
            return ExitCode.NOTHING_ASSESSED
        means = [report.mean_quality for report in self.series]
        if fail_below is not None and any(mean is not None and mean < fail_below for mean in means):
            return ExitCode.BELOW_THRESHOLD
        if policy and any(report.judge(policy).verdict in policy.exit_code_on for report in self.series):
            return ExitCode.BELOW_THRESHOLD
        return ExitCode.PARTIAL if self.rejected else ExitCode.OK


Regions: TypeAlias = Callable[[LoadedSlice, scoring.BoolArray], Masks]
"""From a slice and its body mask to the masks of the regions to score, by name."""


def tissue_regions(loaded: LoadedSlice, mask: scoring.BoolArray) -> Masks:
    """The tissue classes: the regions where nobody has drawn any."""
    return tissue_masks(loaded.hu, mask, loaded.pixel_spacing_mm)


class Collector(Protocol):
    """What takes the slices of a run as they come, with their pixels."""

    def add(self, report: SeriesReport, result: SliceResult) -> None:
        """Take a slice of the series of `report`."""

    def finish(self, report: SeriesReport) -> None:
        """The series has no more slices. Not called for a series that is interrupted."""


def assess(
    inventory: Inventory,
    runtime: Runtime,
    *,
    batch: int = 1,
    keep_worst: int = 0,
    on_outcome: Callable[[SliceResult | Rejection], None] | None = None,
    regions: Regions = tissue_regions,
    collector: Collector | None = None,
) -> Assessment:
    """Assess every series of an inventory.

    Ctrl-C does not raise: it ends the run with what is done and `complete=False`.

    Args:
        inventory: what `dicom.scan` found.
        runtime: an open model.
        batch: slices an inference; more than 1 helps a GPU's throughput and costs latency.
        keep_worst: slices of every series to keep the pixels of.
        on_outcome: called after every slice, for a progress bar.
        regions: what to score beside the whole body.
        collector: gets every slice with its pixels.
    """
    assessment = Assessment(
        spec=runtime.spec,
        runtime=runtime.describe(),
        batch=batch,
        created=datetime.now(timezone.utc),
        files_seen=inventory.files_seen,
        skipped=list(inventory.skipped),
        rejected=list(inventory.rejected),
    )
    reports = [SeriesReport(number, series) for number, series in enumerate(inventory.series, start=1)]
    try:
        with closing(_stream(inventory.series, runtime, batch, regions)) as stream:
            for report in reports:
                assessment.series.append(report)
                for done in islice(stream, len(report.series.slices)):
                    _take(done, report, assessment, keep_worst, collector)
                    if on_outcome:
                        on_outcome(done.outcome)
                if collector:
                    collector.finish(report)
    except KeyboardInterrupt:
        assessment.complete = False
    return assessment


def assess_series(series: Series, runtime: Runtime, *, batch: int = 1) -> Iterator[SliceResult | Rejection]:
    """Assess a series lazily, slice by slice in z order; one bad slice does not stop it."""
    with closing(_stream([series], runtime, batch, tissue_regions)) as stream:
        for done in stream:
            yield done.outcome


def _take(
    done: _Done,
    report: SeriesReport,
    assessment: Assessment,
    keep_worst: int,
    collector: Collector | None,
) -> None:
    """Add one outcome to the report of its series."""
    if isinstance(done.outcome, SliceResult):
        report.slices.append(replace(done.outcome, images=None))
        _keep_worst(report, done.outcome, keep_worst)
        if collector:
            collector.add(report, done.outcome)
    else:
        assessment.rejected.append(done.outcome)
    report.began = min(report.began, done.began)
    span = (report.began, now_ms())
    report.seconds = (span[1] - span[0] - overlap_ms(span, done.warm_ups)) / 1000


def _keep_worst(report: SeriesReport, result: SliceResult, count: int) -> None:
    if result.quality and count:
        report.worst.append(result)
        report.worst.sort(key=_mean_quality)
        del report.worst[count:]


def worst_slices(slices: Sequence[SliceResult], count: int) -> list[SliceResult]:
    """The `count` slices of the lowest mean quality, worst first."""
    return sorted((result for result in slices if result.quality), key=_mean_quality)[:count]


def _mean_quality(result: SliceResult) -> float:
    assert result.quality is not None
    return result.quality.mean


# ------------------------------------------------------------------------------------------------- streaming


@dataclass(frozen=True)
class _Done:
    """What came of a slice, when (ms) it was begun, and the warm-ups so far."""

    outcome: SliceResult | Rejection
    began: float
    warm_ups: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Arrived:
    """A slice in memory, its place in the series, and when (ms) its reading began."""

    number: int
    slice: LoadedSlice
    began: float


def _stream(
    series: Sequence[Series], runtime: Runtime, batch: int, regions: Regions
) -> Generator[_Done, None, None]:
    """One `_Done` for every slice of every series, in order."""
    keep_freed_memory()
    workers = max(1, min(worker_count(), sum(len(one.slices) for one in series)))
    with Lanes(runtime, workers) as lanes, _Readers() as readers:
        assessor = _Assessor(lanes, readers, regions)
        jobs = (partial(assessor.assess, chunk) for one in series for chunk in _chunks(one, batch))
        with closing(in_order(jobs, workers)) as results:
            for done in results:
                yield from done


def _chunks(series: Series, batch: int) -> Iterator[list[tuple[int, SliceRef]]]:
    """The numbered slices of a series, up to `batch` neighbours of the same size at a time."""
    numbered = enumerate(series.slices, start=1)
    for _, same_size in groupby(numbered, lambda item: (item[1].layout.rows, item[1].layout.columns)):
        while chunk := list(islice(same_size, batch)):
            yield chunk


class _Readers:
    """A `SliceReader` for each thread that asks for one. A context manager."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._all: list[SliceReader] = []

    def load(self, ref: SliceRef) -> LoadedSlice | Rejected:
        if not hasattr(self._local, "reader"):
            self._local.reader = SliceReader()
            self._all.append(self._local.reader)
        loaded: LoadedSlice | Rejected = self._local.reader.load(ref)
        return loaded

    def __enter__(self) -> _Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._all:
            reader.close()


@dataclass(frozen=True)
class _Assessor:
    """Takes slices through all stages. Any number of threads may use it."""

    lanes: Lanes
    readers: _Readers
    regions: Regions

    def assess(self, chunk: Sequence[tuple[int, SliceRef]]) -> list[_Done]:
        """Assess neighbouring slices of one size together."""
        began = now_ms()
        arrived: list[_Arrived] = []
        outcomes: dict[int, SliceResult | Rejection] = {}
        for number, ref in chunk:
            start = now_ms()
            item = self.readers.load(ref)
            if isinstance(item, LoadedSlice):
                arrived.append(_Arrived(number, item, start))
            else:
                outcomes[number] = item
        if arrived:
            outcomes |= self._infer(arrived)
        return [_Done(outcomes[number], began, self.lanes.warm_ups) for number, _ in chunk]

    def _infer(self, arrived: Sequence[_Arrived]) -> dict[int, SliceResult | Rejection]:
        """Results by number; if the model fails on all together, one by one."""
        spec = self.lanes.runtime.spec
        queued = now_ms()
        try:
            hu = _stack([item.slice.hu for item in arrived], spec.size_multiple)
            inference, started = self.lanes.infer(hu)
        except ModelError as error:
            if len(arrived) == 1:
                return {arrived[0].number: _model_rejected(arrived[0], ModelReason.MODEL_FAILED, str(error))}
            return {number: result for item in arrived for number, result in self._infer([item]).items()}
        warm_up = overlap_ms((queued, started), self.lanes.warm_ups)
        return {
            item.number: _score(item, inference, row, spec, warm_up, self.regions)
            for row, item in enumerate(arrived)
        }


def _stack(slices: Sequence[FloatArray], multiple: int) -> FloatArray:
    """Slices [H,W] of one size as a batch [N,1,H',W'], padded with air at the bottom and right."""
    height, width = slices[0].shape
    shape = (len(slices), 1, -(-height // multiple) * multiple, -(-width // multiple) * multiple)
    stacked = np.full(shape, HU_MIN, dtype=np.float32)
    for row, hu in enumerate(slices):
        np.clip(hu, HU_MIN, HU_MAX, out=stacked[row, 0, :height, :width])
    return stacked


def _score(
    arrived: _Arrived,
    inference: Inference,
    row: int,
    spec: ModelSpec,
    warm_up: float,
    regions: Regions,
) -> SliceResult | ModelRejected:
    """Row `row` of a batch's inference as the result of its slice."""
    began = now_ms()
    loaded = arrived.slice
    height, width = loaded.hu.shape
    quality_map = inference.quality_map[row, 0, :height, :width].copy()  # the runtime may reuse its buffer
    probabilities = inference.dose_probabilities[row]
    noise_map = None if inference.noise_map is None else inference.noise_map[row, 0, :height, :width].copy()
    outputs = (quality_map, probabilities) if noise_map is None else (quality_map, probabilities, noise_map)
    if not all(np.isfinite(output).all() for output in outputs):
        return _model_rejected(
            arrived, ModelReason.NON_FINITE_OUTPUT, "NaN or infinity in the model's output"
        )
    mask = scoring.body_mask(loaded.hu, loaded.pixel_spacing_mm)
    quality = scoring.quality_scores(quality_map, mask)
    noise = scoring.global_noise_level(loaded.hu, mask, loaded.pixel_spacing_mm)
    model_noise = None
    if noise_map is not None:
        coarse = np.s_[::2, ::2]  # a median of neighbours that are nearly the same
        soft = scoring.soft_tissue(loaded.hu[coarse], mask[coarse])
        model_noise = scoring.model_noise(noise_map[coarse], soft)
    scores: tuple[RegionScore, ...] = ()
    if quality:
        scores = region_scores(quality_map, regions(loaded, mask), loaded.pixel_spacing_mm)
    flags = list(loaded.ref.flags)
    if not quality:
        flags.append(NO_BODY)
    if noise_disagrees(noise, model_noise):
        flags.append(NOISE_DISAGREEMENT)
    ended = now_ms()
    return SliceResult(
        number=arrived.number,
        ref=loaded.ref,
        quality=quality,
        dose=scoring.dose_scores(probabilities, spec.dose_levels) if quality else None,
        noise_hu=noise,
        model_noise_hu=model_noise,
        flags=tuple(flags),
        times=_times(arrived, inference, began, ended, warm_up),
        images=SliceImages(loaded.hu, quality_map, mask, noise_map),
        regions=scores,
    )


def _times(
    arrived: _Arrived,
    inference: Inference,
    scoring_began: float,
    ended: float,
    warm_up: float,
) -> StageTimes:
    """Stage times of one slice; the `warm_up` (ms) that it had to wait for is taken out."""
    timing, batch = inference.timing, len(inference.quality_map)
    total = ended - arrived.began - warm_up
    infer, score = timing.total / batch, ended - scoring_began
    read, decode = arrived.slice.read_ms, arrived.slice.decode_ms

    def share(milliseconds: float | None) -> float | None:
        return None if milliseconds is None else milliseconds / batch

    return StageTimes(
        read=read,
        decode=decode,
        wait=max(0.0, total - read - decode - infer - score),
        infer=infer,
        h2d=share(timing.h2d),
        compute=share(timing.compute),
        d2h=share(timing.d2h),
        score=score,
        total=total,
    )


def _model_rejected(arrived: _Arrived, reason: ModelReason, detail: str) -> ModelRejected:
    ref = arrived.slice.ref
    return ModelRejected(ref.path, reason, detail, ref.sop_instance_uid, ref.frame)
