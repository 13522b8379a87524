"""What is said of a series, computed once: every output reads it, so all of them say the same."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from n2q_edge.assessment.timing import Percentiles, summarise
from n2q_edge.dicom import UNLIKE_AXIAL_HU
from n2q_edge.quality.domain import OUT_OF_DOMAIN, DeviationSummary, series_text, summarise_deviations
from n2q_edge.quality.policy import Judgement
from n2q_edge.quality.reference import ReferenceNoise, Unknown
from n2q_edge.quality.regions import RegionSummary, summarise_regions

if TYPE_CHECKING:
    from n2q_edge.assessment.results import SeriesReport, SliceResult


@dataclass(frozen=True)
class QualitySummary:
    """Mean, minimum and 5th percentile of the slices' mean qualities, SSIM."""

    mean: float
    min: float
    p05: float


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum over slices."""

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class ReferenceSummary:
    """A series against its reference.

    Attributes:
        slices: that have a reference and a noise.
        noise_hu: the reference's; None if it is unknown for all slices.
        ratio: noise over reference; likewise.
        equivalent_dose: (reference / noise)^2, a fraction of the reference's dose; likewise.
        interval: of the equivalent dose, 95 %: the medians of the slices' limits; likewise.
        source: where most of the references are from; likewise.
        unknown: why slices have none, and how many, the most frequent first.
    """

    slices: int
    noise_hu: Spread | None
    ratio: Spread | None
    equivalent_dose: Spread | None
    interval: tuple[float, float] | None
    source: str | None
    unknown: Mapping[str, int]


@dataclass(frozen=True)
class DoseCount:
    """A dose level in percent, and how many slices look like it."""

    level: float
    slices: int


@dataclass(frozen=True)
class DomainSummary:
    """How unlike the training data a series is.

    Attributes:
        slices: with at least one reason.
        share: of the scored slices.
        text: one sentence for people; None if no slice has a reason.
        reasons: the most frequent first.
    """

    slices: int
    share: float
    text: str | None
    reasons: tuple[DeviationSummary, ...]


@dataclass(frozen=True)
class Range:
    """From the lowest to the highest value along the series; doubtful if the header contradicts itself."""

    low: float
    high: float
    doubtful: bool = False


@dataclass(frozen=True)
class SeriesSummary:
    """Everything that is said of a series as a whole.

    Attributes:
        slices: with a result.
        scored: of these, with a body and so with a quality.
        quality: over the scored slices; None without any.
        noise_hu: model-free noise; None where no slice has it.
        noise_frequency: mean frequency of the noise power spectrum, 1/mm; likewise.
        diameter_mm: water-equivalent diameter; likewise.
        truncated: slices whose body is cut by the field of view.
        ssde_mgy: size-specific dose estimate; None where CTDIvol is unknown.
        reference: the series against its reference; None if nobody asked.
        model_noise_hu: the model's own noise; None where it gives none.
        expected_error: that the model expects of its map, SSIM; likewise.
        dose: levels that occur, ascending; empty if the model predicts no dose.
        domain: None if the model cannot tell.
        regions: each over the slices in which it was scored; `worst` has the number of the slice.
        flags: of the slices: on how many each is, the most frequent first.
        verdict: what the policy says.
        worst: the worst slices, spread along the series, worst first; see `WorstSlices`.
        tube_current_ma: X-Ray Tube Current along the series; None if the headers do not say.
        exposure_mas: Exposure along the series; None if the headers do not say.
        latency: percentiles of every stage that was measured, ms.
        seconds: by the clock, without warm-up.
    """

    slices: int
    scored: int
    quality: QualitySummary | None
    noise_hu: Spread | None
    noise_frequency: Spread | None
    diameter_mm: Spread | None
    truncated: int
    ssde_mgy: Spread | None
    reference: ReferenceSummary | None
    model_noise_hu: Spread | None
    expected_error: Spread | None
    dose: tuple[DoseCount, ...]
    domain: DomainSummary | None
    regions: tuple[RegionSummary, ...]
    flags: Mapping[str, int]
    verdict: Judgement
    worst: tuple[SliceResult, ...]
    tube_current_ma: Range | None
    exposure_mas: Range | None
    latency: Mapping[str, Percentiles]
    seconds: float

    @property
    def usual_dose(self) -> DoseCount | None:
        """The level that most slices look like, of two as frequent the lower; None without dose levels."""
        return max(self.dose, key=lambda count: count.slices, default=None)


def summarize(report: SeriesReport) -> SeriesSummary:
    """Sum up a series whose slices have all come.

    Args:
        report: the series, its results and the policy that judges it.
    """
    slices = report.slices
    scored = [result for result in slices if result.quality]
    doubted = sum(is_doubted(result.flags) for result in scored)
    means = [result.quality.mean for result in scored if result.quality]
    sizes = [result.size for result in slices if result.size]
    levels = Counter(result.dose.level for result in slices if result.dose)
    return SeriesSummary(
        slices=len(slices),
        scored=len(means),
        quality=_quality(means),
        noise_hu=_spread(result.noise_hu for result in slices),
        noise_frequency=_spread(result.noise_frequency for result in slices),
        diameter_mm=_spread(size.water_equivalent_diameter_mm for size in sizes),
        truncated=sum(size.truncated for size in sizes),
        ssde_mgy=_spread(result.ssde_mgy for result in slices),
        reference=_reference(slices),
        model_noise_hu=_spread(result.model_noise_hu for result in slices),
        expected_error=_spread(result.expected_error for result in slices),
        dose=tuple(DoseCount(level, levels[level]) for level in sorted(levels)),
        domain=_domain(slices, scored),
        regions=tuple(summarise_regions((result.number, result.regions) for result in slices)),
        flags=dict(Counter(flag for result in slices for flag in result.flags).most_common()),
        verdict=report.policy.judge(report.series.protocol, means, doubted),
        worst=tuple(report.worst),
        tube_current_ma=_range(slices, [result.ref.exposure.tube_current_ma for result in slices]),
        exposure_mas=_range(slices, [result.ref.exposure.exposure_mas for result in slices]),
        latency=summarise([result.times for result in slices]),
        seconds=report.seconds,
    )


def _quality(means: Sequence[float]) -> QualitySummary | None:
    if not means:
        return None
    return QualitySummary(statistics.fmean(means), min(means), sorted(means)[int(0.05 * (len(means) - 1))])


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known)) if known else None


def _reference(slices: Sequence[SliceResult]) -> ReferenceSummary | None:
    if all(result.reference is None for result in slices):
        return None
    found = [(result.reference, result.comparison) for result in slices]
    known = [(one, other) for one, other in found if isinstance(one, ReferenceNoise) and other]
    doses = [comparison.equivalent_dose_interval for _, comparison in known]
    sources = Counter(noise.source for noise, _ in known).most_common(1)
    reasons = Counter(result.reference.reason for result in slices if isinstance(result.reference, Unknown))
    return ReferenceSummary(
        slices=len(known),
        noise_hu=_spread(noise.noise_hu for noise, _ in known),
        ratio=_spread(comparison.ratio for _, comparison in known),
        equivalent_dose=_spread(comparison.equivalent_dose for _, comparison in known),
        interval=(statistics.median(low for low, _ in doses), statistics.median(high for _, high in doses))
        if doses
        else None,
        source=sources[0][0] if sources else None,
        unknown=dict(reasons.most_common()),
    )


def is_doubted(flags: Sequence[str]) -> bool:
    """Whether a slice with these flags is unlike what models are trained on: its score is no proof."""
    return OUT_OF_DOMAIN in flags or not UNLIKE_AXIAL_HU.isdisjoint(flags)


def _domain(slices: Sequence[SliceResult], scored: Sequence[SliceResult]) -> DomainSummary | None:
    found = [result.out_of_domain for result in slices if result.out_of_domain is not None]
    if not found:
        return None
    strange = sum(bool(result.out_of_domain) for result in scored)
    share = strange / len(scored) if scored else 0.0
    return DomainSummary(
        sum(bool(each) for each in found), share, series_text(found), tuple(summarise_deviations(found))
    )


def _range(slices: Sequence[SliceResult], values: Sequence[float | None]) -> Range | None:
    known = [value for value in values if value is not None]
    doubtful = any("doubtful_exposure" in result.flags for result in slices)
    return Range(min(known), max(known), doubtful) if known else None
