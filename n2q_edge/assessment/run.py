"""Series x runtime -> a lazy stream of `SliceResult`, then reports.

    with open_model(None) as runtime:
        for outcome in assess_series(series, runtime):
            ...

Several slices are at work at once (see `lanes`), across series, too. Memory does not grow with the
number of slices: a result keeps its pictures only if the caller keeps the result, and `assess` keeps those of
the worst slices.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from itertools import groupby, islice
from typing import Any, Protocol, TypeAlias

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.lanes import Lanes, in_order, worker_count
from n2q_edge.assessment.measured import measure
from n2q_edge.assessment.results import (
    ModelReason,
    Rejection,
    RunReport,
    SeriesReport,
    SliceResult,
)
from n2q_edge.assessment.slice_result import Arrived, Regions, slice_result, stack, tissue_regions
from n2q_edge.assessment.timing import now_ms, overlap_ms
from n2q_edge.assessment.worst import WorstSlices
from n2q_edge.dicom import Inventory, LoadedSlice, Rejected, Series, SliceReader, SliceRef
from n2q_edge.errors import ModelError
from n2q_edge.quality.policy import Policy, load_policy
from n2q_edge.quality.reference import Reference, ReferenceNoise
from n2q_edge.runtimes.base import Runtime

Interruptible: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Entered wherever a run waits for a slice, by a caller that allows interruptions only there."""


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
    policy: Policy | None = None,
    worst: int = 5,
    keep_images: bool = False,
    on_outcome: Callable[[SliceResult | Rejection], None] | None = None,
    regions: Regions = tissue_regions,
    reference: Reference | None = None,
    collector: Collector | None = None,
    interruptible: Interruptible = nullcontext,
) -> RunReport:
    """Assess every series of an inventory.

    `KeyboardInterrupt` is not passed on: it ends the run with what is done and `complete=False`.

    Args:
        inventory: what `dicom.scan` found.
        runtime: an open model.
        batch: slices an inference; more than 1 helps a GPU's throughput and costs latency.
        policy: what judges the series; the default policy if not given.
        worst: how many worst slices of every series to name.
        keep_images: whether these keep their pixels.
        on_outcome: called after every slice, for a progress bar.
        regions: what to score beside the whole body.
        reference: what knows the noise of full dose, if anything does.
        collector: gets every slice with its pixels.
        interruptible: entered wherever the run waits for a slice, for a caller that allows interruptions
            only there.
    """
    assessment, outcomes = begin(
        inventory,
        runtime,
        batch=batch,
        policy=policy,
        worst=worst,
        keep_images=keep_images,
        regions=regions,
        reference=reference,
        collector=collector,
        interruptible=interruptible,
    )
    with contextlib.suppress(KeyboardInterrupt), closing(outcomes):
        for outcome in outcomes:
            if on_outcome:
                on_outcome(outcome)
    return assessment


def begin(
    inventory: Inventory,
    runtime: Runtime,
    *,
    batch: int = 1,
    policy: Policy | None = None,
    worst: int = 5,
    keep_images: bool = False,
    regions: Regions = tissue_regions,
    reference: Reference | None = None,
    collector: Collector | None = None,
    interruptible: Interruptible = nullcontext,
) -> tuple[RunReport, Generator[SliceResult | Rejection, None, None]]:
    """An assessment that proceeds as its outcomes are taken; the arguments are those of `assess`.

    Returns:
        What is found, which fills as the second is iterated: the outcome of every slice, with its pixels. An
        iteration that ends early leaves `complete` False.
    """
    policy = policy or load_policy()
    assessment = RunReport(
        spec=runtime.spec,
        runtime=runtime.describe(),
        batch=batch,
        created=datetime.now(timezone.utc),
        files_seen=inventory.files_seen,
        skipped=list(inventory.skipped),
        rejected=list(inventory.rejected),
        policy=policy,
        complete=not inventory.series,
    )
    stream = _stream(inventory.series, runtime, batch, regions, reference)
    return assessment, _outcomes(
        assessment, inventory.series, stream, worst, keep_images, collector, interruptible
    )


def _outcomes(
    assessment: RunReport,
    series: Sequence[Series],
    stream: Generator[Done, None, None],
    worst: int,
    keep_images: bool,
    collector: Collector | None,
    interruptible: Interruptible,
) -> Generator[SliceResult | Rejection, None, None]:
    """Enter every outcome into the assessment and pass it on."""
    with closing(stream):
        for number, one in enumerate(series, start=1):
            report = SeriesReport(number, one, assessment.policy)
            assessment.series.append(report)
            selection = WorstSlices(worst, len(one.slices))
            try:
                for _ in one.slices:
                    with interruptible():
                        done = next(stream)
                    _take(done, report, assessment, collector)
                    if isinstance(done.outcome, SliceResult):
                        selection.add(done.outcome if keep_images else replace(done.outcome, images=None))
                    yield done.outcome
            finally:
                report.worst = selection.chosen()
            if collector:
                collector.finish(report)
    assessment.complete = True


def assess_series(series: Series, runtime: Runtime, *, batch: int = 1) -> Iterator[SliceResult | Rejection]:
    """Assess a series lazily, slice by slice in z order; one bad slice does not stop it."""
    with closing(_stream([series], runtime, batch)) as stream:
        for done in stream:
            yield done.outcome


def _take(
    done: Done,
    report: SeriesReport,
    assessment: RunReport,
    collector: Collector | None,
) -> None:
    """Add one outcome to the report of its series."""
    if isinstance(done.outcome, SliceResult):
        report.slices.append(replace(done.outcome, images=None))
        if collector:
            collector.add(report, done.outcome)
    else:
        assessment.rejected.append(done.outcome)
    report.began = min(report.began, done.began)
    span = (report.began, now_ms())
    report.seconds = (span[1] - span[0] - overlap_ms(span, done.warm_ups)) / 1000


# ------------------------------------------------------------------------------------------------- streaming


@dataclass(frozen=True)
class Done:
    """What came of a slice, when (ms) it was begun, and the warm-ups so far."""

    outcome: SliceResult | Rejection
    began: float
    warm_ups: Sequence[tuple[float, float]]


def _stream(
    series: Sequence[Series],
    runtime: Runtime,
    batch: int,
    regions: Regions = tissue_regions,
    reference: Reference | None = None,
) -> Generator[Done, None, None]:
    """One `Done` for every slice of every series, in order."""
    workers = max(1, min(worker_count(), sum(len(one.slices) for one in series)))
    with Lanes(runtime, workers) as lanes, Readers() as readers:
        assessor = SliceAssessor(lanes, readers, regions, reference)
        jobs = (
            partial(assessor.assess, one.protocol, chunk) for one in series for chunk in _chunks(one, batch)
        )
        with closing(in_order(jobs, workers)) as results:
            for done in results:
                yield from done


def _chunks(series: Series, batch: int) -> Iterator[list[tuple[int, SliceRef]]]:
    """The numbered slices of a series, up to `batch` neighbours of the same size at a time."""
    numbered = enumerate(series.slices, start=1)
    for _, same_size in groupby(numbered, lambda item: (item[1].layout.rows, item[1].layout.columns)):
        while chunk := list(islice(same_size, batch)):
            yield chunk


class Readers:
    """A `SliceReader` for each thread that asks for one. A context manager."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._all: list[SliceReader] = []

    def load(self, ref: SliceRef) -> LoadedSlice | Rejected:
        """Read and decode one slice."""
        if not hasattr(self._local, "reader"):
            self._local.reader = SliceReader()
            self._all.append(self._local.reader)
        loaded: LoadedSlice | Rejected = self._local.reader.load(ref)
        return loaded

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._all:
            reader.close()


@dataclass(frozen=True)
class SliceAssessor:
    """Takes slices through all stages. Any number of threads may use it."""

    lanes: Lanes
    readers: Readers
    regions: Regions
    reference: Reference | None

    def assess(self, protocol: Mapping[str, Any], chunk: Sequence[tuple[int, SliceRef]]) -> list[Done]:
        """Assess neighbouring slices of one size together."""
        began = now_ms()
        arrived: list[Arrived] = []
        outcomes: dict[int, SliceResult | Rejection] = {}
        for number, ref in chunk:
            start = now_ms()
            item = self.readers.load(ref)
            if isinstance(item, LoadedSlice):
                arrived.append(Arrived(number, item, measure(item, protocol, self.reference), start))
            else:
                outcomes[number] = item
        if arrived:
            outcomes |= self._infer(arrived)
        return [Done(outcomes[number], began, self.lanes.warm_ups) for number, _ in chunk]

    def _infer(self, arrived: Sequence[Arrived]) -> dict[int, SliceResult | Rejection]:
        """Results by number; if the model fails on all together, one by one."""
        spec = self.lanes.runtime.spec
        queued = now_ms()
        try:
            hu = stack([item.slice.hu for item in arrived], spec.size_multiple)
            known = _reference_noise(arrived) if spec.takes_reference else None
            inference, started = self.lanes.infer(hu, known)
        except ModelError as error:
            if len(arrived) == 1:
                return {arrived[0].number: arrived[0].reject(ModelReason.MODEL_FAILED, str(error))}
            return {number: result for item in arrived for number, result in self._infer([item]).items()}
        warm_up = overlap_ms((queued, started), self.lanes.warm_ups)
        return {
            item.number: slice_result(item, inference, row, spec, warm_up, self.regions)
            for row, item in enumerate(arrived)
        }


def _reference_noise(arrived: Sequence[Arrived]) -> FloatArray | None:
    """The reference noise [N] of a batch, 0 where unknown; None if it is unknown for all."""
    found = (item.measured.reference for item in arrived)
    levels = [each.noise_hu if isinstance(each, ReferenceNoise) else 0.0 for each in found]
    return np.array(levels, dtype=np.float32) if any(levels) else None
