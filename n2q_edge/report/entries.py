"""The parts of the JSON document that are of one series or one slice."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from n2q_edge.assessment.results import SliceResult
from n2q_edge.assessment.summary import DomainSummary, Range, ReferenceSummary, SeriesSummary, Spread
from n2q_edge.quality.domain import Deviation
from n2q_edge.quality.policy import Judgement
from n2q_edge.quality.reference import Unknown
from n2q_edge.quality.regions import RegionScore, RegionSummary
from n2q_edge.report.text import printable


def verdict(judgement: Judgement) -> dict[str, Any]:
    """What the policy says of a series."""
    found = judgement.verdict
    return {
        "code": found.value if found else None,
        "dicom_code": found.dicom_code if found else None,
        "meaning": found.meaning if found else None,
        "rule": None if judgement.rule is None else printable(judgement.rule),
        "reasons": [printable(reason) for reason in judgement.reasons],
        "limits": {name: asdict(standard) for name, standard in judgement.standards.items()}
        if judgement.standards
        else None,
    }


def series_summary(summary: SeriesSummary) -> dict[str, Any]:
    """What is said of a series as a whole."""
    quality = summary.quality
    return {
        "slices": summary.slices,
        "slices_scored": summary.scored,
        "quality": {
            "mean": _rounded(quality.mean if quality else None),
            "min": _rounded(quality.min if quality else None),
            "p05": _rounded(quality.p05 if quality else None),
        },
        "worst": [result.number for result in summary.worst],
        "dose": [asdict(count) for count in summary.dose],
        **_spread("noise_hu", summary.noise_hu, 3),
        **_spread("noise_frequency_per_mm", summary.noise_frequency, 4),
        **_spread("water_equivalent_diameter_mm", summary.diameter_mm, 1),
        "truncated_slices": summary.truncated,
        **_spread("ssde_mgy", summary.ssde_mgy, 3),
        "reference": _reference_summary(summary.reference),
        **_spread("model_noise_hu", summary.model_noise_hu, 3),
        **_spread("expected_error", summary.expected_error, 6),
        "tube_current_ma": _range(summary.tube_current_ma),
        "exposure_mas": _range(summary.exposure_mas),
        "out_of_domain": _out_of_domain(summary.domain),
        "flags": dict(summary.flags),
        "regions": [_region_summary(region) for region in summary.regions],
        "seconds": round(summary.seconds, 3),
    }


def _spread(name: str, values: Spread | None, digits: int) -> dict[str, float | None]:
    """Median, minimum and maximum under their names; null where nothing was measured."""
    return {
        f"{name}_{what}": _rounded(getattr(values, what) if values else None, digits)
        for what in ("median", "min", "max")
    }


def _reference_summary(found: ReferenceSummary | None) -> dict[str, Any] | None:
    """The series against its reference; None if nobody asked for one."""
    if found is None:
        return None
    return {
        "slices": found.slices,
        **_spread("noise_hu", found.noise_hu, 3),
        **_spread("noise_ratio", found.ratio, 4),
        **_spread("equivalent_dose", found.equivalent_dose, 4),
        "equivalent_dose_interval": [_rounded(end, 4) for end in found.interval] if found.interval else None,
        "source": None if found.source is None else printable(found.source),
        "unknown": [{"reason": printable(reason), "slices": n} for reason, n in found.unknown.items()],
    }


def _reference(result: SliceResult) -> dict[str, Any] | None:
    """The reference of a slice and the slice against it; None if nobody asked for one."""
    reference, comparison = result.reference, result.comparison
    if reference is None:
        return None
    if isinstance(reference, Unknown):
        return {"unknown": printable(reference.reason)}
    compared = {}
    if comparison:
        compared = {
            "noise_ratio": _rounded(comparison.ratio, 4),
            "noise_ratio_interval": [_rounded(end, 4) for end in comparison.ratio_interval],
            "equivalent_dose": _rounded(comparison.equivalent_dose, 4),
            "equivalent_dose_interval": [_rounded(end, 4) for end in comparison.equivalent_dose_interval],
        }
    return {
        "noise_hu": _rounded(reference.noise_hu, 3),
        "interval_hu": [_rounded(end, 3) for end in reference.interval_hu],
        "source": printable(reference.source),
        **compared,
    }


def _range(values: Range | None) -> dict[str, Any] | None:
    return None if values is None else asdict(values)


def _out_of_domain(domain: DomainSummary | None) -> dict[str, Any] | None:
    """How many slices are unlike the training data, and why; None if the model cannot tell."""
    if domain is None:
        return None
    return {
        "slices": domain.slices,
        "share": _rounded(domain.share),
        "text": domain.text,
        "reasons": [
            {
                "code": each.code,
                "feature": each.feature,
                "slices": each.slices,
                "values": [_rounded(value) for value in each.values],
                "training": [_rounded(value) for value in each.training],
                "text": each.text,
            }
            for each in domain.reasons
        ],
    }


def _deviation(deviation: Deviation) -> dict[str, Any]:
    return {
        "code": deviation.code,
        "feature": deviation.feature,
        "value": _rounded(deviation.value),
        "training": [_rounded(value) for value in deviation.training],
        "text": deviation.text,
    }


def _region_summary(region: RegionSummary) -> dict[str, Any]:
    number, mean = region.worst
    return {
        "name": printable(region.name),
        "slices": region.slices,
        "area_mm2": _rounded(region.area_mm2, 1),
        "mean": _rounded(region.mean),
        "below_threshold": _rounded(region.below_threshold),
        "worst": {"slice": number, "mean": _rounded(mean)},
    }


def latency(summary: SeriesSummary) -> dict[str, Any]:
    """Percentiles of every stage."""
    return {
        "samples": summary.slices,
        "stages_ms": {
            stage: {"p50": round(p.p50, 3), "p90": round(p.p90, 3), "p99": _rounded(p.p99, 3)}
            for stage, p in summary.latency.items()
        },
    }


def slice_entry(result: SliceResult) -> dict[str, Any]:
    """One slice."""
    quality, dose, times = result.quality, result.dose, result.times
    return {
        "number": result.number,
        "sop_instance_uid": result.ref.sop_instance_uid,
        "path": printable(result.ref.path),
        "frame": result.ref.frame,
        "position_mm": _rounded(result.ref.position_mm, 3),
        "quality": {
            "mean": _rounded(quality.mean if quality else None),
            "p05": _rounded(quality.p05 if quality else None),
            "below_threshold": _rounded(quality.below_threshold if quality else None),
            "histogram": list(quality.histogram) if quality else None,
        },
        "regions": [_region(region) for region in result.regions],
        "dose": {
            "level": dose.level if dose else None,
            "probabilities": [round(probability, 6) for probability in dose.probabilities] if dose else None,
        },
        "noise_hu": _rounded(result.noise_hu, 3),
        "noise_frequency_per_mm": _rounded(result.noise_frequency, 4),
        "water_equivalent_diameter_mm": _rounded(
            result.size.water_equivalent_diameter_mm if result.size else None, 1
        ),
        "truncated": result.size.truncated if result.size else None,
        "ssde_mgy": _rounded(result.ssde_mgy, 3),
        "reference": _reference(result),
        "model_noise_hu": _rounded(result.model_noise_hu, 3),
        "expected_error": _rounded(result.expected_error),
        "flags": list(result.flags),
        "out_of_domain": None
        if result.out_of_domain is None
        else [_deviation(each) for each in result.out_of_domain],
        "times_ms": {stage: _rounded(value, 3) for stage, value in asdict(times).items()},
    }


def _region(region: RegionScore) -> dict[str, Any]:
    quality = region.quality
    return {
        "name": printable(region.name),
        "area_mm2": _rounded(region.area_mm2, 1),
        "quality": {
            "mean": _rounded(quality.mean),
            "p05": _rounded(quality.p05),
            "below_threshold": _rounded(quality.below_threshold),
        },
    }


def _rounded(value: float | None, digits: int = 6) -> float | None:
    """Rounded for people; what is no finite number is null."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)
