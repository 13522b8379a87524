"""What an assessment found: results of slices, reports of series, and all of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from n2q_edge.arrays import BoolArray, FloatArray
from n2q_edge.assessment.summary import SeriesSummary, summarize
from n2q_edge.assessment.timing import StageTimes
from n2q_edge.dicom import Rejected, Series, Skipped, SliceRef
from n2q_edge.errors import ExitCode
from n2q_edge.quality.body_size import BodySize
from n2q_edge.quality.domain import Deviation
from n2q_edge.quality.policy import Policy, load_policy
from n2q_edge.quality.reference import Comparison, ReferenceNoise, Unknown, compare
from n2q_edge.quality.regions import RegionScore
from n2q_edge.quality.scores import Dose, Quality
from n2q_edge.spec import ModelSpec

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
    """What pictures of a slice need, each [H,W]: HU, predicted SSIM, body mask, the model's noise map.

    The noise map has one value for `map_cell` x `map_cell` pixels (see `ModelSpec.map_cell`).
    """

    hu: FloatArray
    quality_map: FloatArray
    mask: BoolArray
    noise_map: FloatArray | None = None
    map_cell: int = 1


@dataclass(frozen=True, slots=True)
class SliceResult:
    """One assessed slice.

    Attributes:
        number: place in its series along z, from 1; rejected slices count.
        ref: identity and geometry.
        quality: scores in the body mask; None without a body.
        dose: the dose it looks like; None without a body, or if the model has no dose head.
        noise_hu: model-free noise level; None with too little soft tissue.
        noise_frequency: mean frequency of the noise power spectrum, 1/mm; None where it cannot be measured.
        size: of the body; None without a body or a pixel spacing.
        ssde_mgy: size-specific dose estimate; None without CTDIvol.
        reference: the noise its full-dose twin would have, or why that is unknown; None if nobody asked.
        model_noise_hu: median of the model's own noise map where `noise_hu` is measured, if it gives one.
        expected_error: root mean square error the model expects of its map in the body, if it tells.
        flags: of the input, `no_body`, `noise_disagreement` and `out_of_domain`.
        times: of every stage.
        images: the pixels behind the numbers; None once dropped to save memory.
        regions: quality of every tissue class, or of every segment of a segmentation, that is large enough.
        out_of_domain: why it is unlike the model's training data; empty if it is not, None if the model
            cannot tell.
    """

    number: int
    ref: SliceRef
    quality: Quality | None
    dose: Dose | None
    noise_hu: float | None
    noise_frequency: float | None
    size: BodySize | None
    ssde_mgy: float | None
    reference: ReferenceNoise | Unknown | None
    model_noise_hu: float | None
    expected_error: float | None
    flags: tuple[str, ...]
    times: StageTimes
    images: SliceImages | None = field(default=None, repr=False)
    regions: tuple[RegionScore, ...] = ()
    out_of_domain: tuple[Deviation, ...] | None = None

    @property
    def comparison(self) -> Comparison | None:
        """Noise and equivalent dose relative to the reference; None without one, or without noise."""
        if not self.noise_hu or not isinstance(self.reference, ReferenceNoise):
            return None
        return compare(self.noise_hu, self.reference)


@dataclass
class SeriesReport:
    """One series as far as it was assessed.

    Attributes:
        number: place in the run, from 1.
        series: identity, protocol and flags.
        policy: what judges it.
        slices: in z order, without pixels.
        worst: the worst slices, spread along the series, worst first; with pixels, if they were to be kept.
        seconds: by the clock, from when its first slice was begun to its last result, warm-up not. The next
            series is begun a few slices before the end of this one.
        began: when its first slice was begun, ms of `timing.now_ms`.
    """

    number: int
    series: Series
    policy: Policy = field(default_factory=load_policy, repr=False)
    slices: list[SliceResult] = field(default_factory=list)
    worst: list[SliceResult] = field(default_factory=list)
    seconds: float = 0.0
    began: float = field(default=math.inf, repr=False)

    @cached_property
    def summary(self) -> SeriesSummary:
        """What is said of the series; computed when it is first read, which must be after its last slice."""
        return summarize(self)


@dataclass
class RunReport:
    """All that one run found out.

    Attributes:
        spec: of the model.
        runtime: what `Runtime.describe` says.
        batch: slices an inference.
        created: start of the run, UTC.
        files_seen: files found under the paths given.
        skipped: files that are no CT images.
        rejected: files and slices that should have been assessed and could not be.
        policy: what judges the series.
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
    policy: Policy = field(default_factory=load_policy, repr=False)
    series: list[SeriesReport] = field(default_factory=list)
    complete: bool = True

    @property
    def slices_assessed(self) -> int:
        """Slices with a result."""
        return sum(len(report.slices) for report in self.series)

    def exit_code(self, fail_below: float | None = None) -> ExitCode:
        """What the process should say; the first that holds.

        130 interrupted, 4 nothing assessed, 10 a series' mean quality is below `fail_below` or its verdict is
        one that the policy wants an exit code for, 3 some inputs were rejected, 0. Low quality outranks a
        rejected file: it is what the caller asked to be told.
        """
        if not self.complete:
            return ExitCode.INTERRUPTED
        if not self.slices_assessed:
            return ExitCode.NOTHING_ASSESSED
        summaries = [report.summary for report in self.series]
        means = [summary.quality.mean for summary in summaries if summary.quality]
        if fail_below is not None and any(mean < fail_below for mean in means):
            return ExitCode.BELOW_THRESHOLD
        if any(summary.verdict.verdict in self.policy.exit_code_on for summary in summaries):
            return ExitCode.BELOW_THRESHOLD
        return ExitCode.PARTIAL if self.rejected else ExitCode.OK
