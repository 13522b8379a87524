"""What a structured report says in numbers: of the series, its worst slices and its regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.sr.coding import Code

from n2q_edge.assessment.results import SliceResult
from n2q_edge.assessment.summary import SeriesSummary, Spread
from n2q_edge.dicom.segmentation import Segment
from n2q_edge.dicom_out import codes
from n2q_edge.dicom_out.source_header import SourceContext
from n2q_edge.dicom_out.structured_report import Algorithm, Group, Value
from n2q_edge.quality.policy import Judgement
from n2q_edge.quality.regions import RegionSummary
from n2q_edge.spec import ModelSpec


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


def algorithm_of(spec: ModelSpec, runtime: Mapping[str, Any]) -> Algorithm:
    """What names the model in a report."""
    parameters = [
        f"model sha256 {runtime['model_sha256']}" if runtime.get("model_sha256") else None,
        f"runtime {runtime.get('name')} {runtime.get('version')}",
        f"window centre {spec.window_center:g} HU, width {spec.window_width:g} HU",
    ]
    return Algorithm(spec.name, spec.version, "; ".join(text for text in parameters if text))


def _series_values(summary: SeriesSummary) -> list[Value]:
    quality, dose, reference = summary.quality, summary.usual_dose, summary.reference
    values = [Value(codes.SLICES_SCORED, summary.scored, codes.SLICES)]
    values += _medians(
        (codes.GLOBAL_NOISE, summary.noise_hu, codes.HOUNSFIELD, 3),
        (codes.NOISE_FREQUENCY, summary.noise_frequency, codes.PER_MILLIMETER, 4),
        (codes.WATER_EQUIVALENT_DIAMETER, summary.diameter_mm, codes.MILLIMETERS, 1),
        (codes.SIZE_SPECIFIC_DOSE, summary.ssde_mgy, codes.MILLIGRAY, 3),
    )
    if reference:
        values += _medians(
            (codes.REFERENCE_NOISE, reference.noise_hu, codes.HOUNSFIELD, 3),
            (codes.EQUIVALENT_DOSE, reference.equivalent_dose, codes.NO_UNITS, 4),
        )
    if quality:
        values += [
            Value(codes.PREDICTED_SSIM, round(quality.mean, 6), codes.NO_UNITS, codes.MEAN),
            Value(codes.PREDICTED_SSIM, round(quality.min, 6), codes.NO_UNITS, codes.MINIMUM),
        ]
    if dose:
        values.append(Value(codes.APPARENT_DOSE, dose.level, codes.PERCENT, codes.MODE))
    return values + _medians((codes.MODEL_NOISE, summary.model_noise_hu, codes.HOUNSFIELD, 3))


def _medians(*measured: tuple[Code, Spread | None, Code, int]) -> list[Value]:
    """Medians over the slices of what was measured: concept, values, unit, decimals."""
    return [
        Value(concept, round(values.median, digits), unit, codes.MEDIAN)
        for concept, values, unit, digits in measured
        if values
    ]


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
