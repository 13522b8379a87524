"""The JSON document. `schema.json` beside this file defines it, docs/reference/json.md explains it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import n2q_edge
from n2q_edge.assessment.results import Assessment, Rejection, SeriesReport, SliceResult
from n2q_edge.assessment.summary import DomainSummary, Range, ReferenceSummary, SeriesSummary, Spread
from n2q_edge.machine import describe_machine
from n2q_edge.quality.domain import Deviation
from n2q_edge.quality.policy import Judgement
from n2q_edge.quality.reference import Unknown
from n2q_edge.quality.regions import RegionScore, RegionSummary
from n2q_edge.quality.scores import QUALITY_THRESHOLD, to_percent
from n2q_edge.report.text import printable

if TYPE_CHECKING:
    from n2q_edge.dicom_out.objects import SeriesObjects

SCHEMA_VERSION = 2


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the document."""
    loaded: dict[str, Any] = json.loads(files("n2q_edge.report").joinpath("schema.json").read_text("utf-8"))
    return loaded


def json_pieces(document: dict[str, Any]) -> Iterator[str]:
    """The document as JSON text, ASCII, no NaN, no infinity, in small pieces: a text has 2 KB a slice."""
    yield from json.JSONEncoder(indent=1, allow_nan=False).iterencode(document)
    yield "\n"


def build(
    assessment: Assessment,
    *,
    fail_below: float | None = None,
    segmentation: Path | None = None,
    dicom: Sequence[SeriesObjects] | None = None,
) -> dict[str, Any]:
    """The document of a run.

    Args:
        assessment: the run.
        fail_below: the threshold of `--fail-below`, which decides the exit code.
        segmentation: the file the regions are from; None if they are tissue classes.
        dicom: the DICOM objects of every series; None if none were asked for.
    """
    policy = assessment.policy
    return {
        "schema_version": SCHEMA_VERSION,
        "n2q_edge_version": n2q_edge.__version__,
        "created": assessment.created.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "complete": assessment.complete,
        "exit_code": int(assessment.exit_code(fail_below)),
        "settings": {
            "batch": assessment.batch,
            "quality_threshold": QUALITY_THRESHOLD,
            "fail_below": fail_below,
            "segmentation": None if segmentation is None else printable(segmentation),
        },
        "model": _model(assessment),
        "machine": describe_machine(),
        "policy": {
            "name": printable(policy.name),
            "source": None if policy.source is None else printable(policy.source),
            "sha256": policy.sha256,
        },
        "files": count_files(assessment),
        "series": [_series(report, _objects(report, dicom)) for report in assessment.series],
        "rejected": [_rejected(item) for item in assessment.rejected],
        "skipped": [
            {"path": printable(item.path), "reason": item.reason.value, "frame": item.frame}
            for item in assessment.skipped
        ],
    }


def count_files(assessment: Assessment) -> dict[str, int]:
    """Every file in one place: assessed (at least one slice of it), rejected, skipped or not reached."""
    assessed = {str(result.ref.path) for report in assessment.series for result in report.slices}
    rejected = {str(item.path) for item in assessment.rejected} - assessed
    frames = {str(item.path) for item in assessment.skipped if item.frame is not None}
    whole = sum(item.frame is None for item in assessment.skipped)  # a file named twice is there twice
    skipped = whole + len(frames - assessed - rejected)
    done = len(assessed) + len(rejected) + skipped
    return {
        "seen": assessment.files_seen,
        "assessed": len(assessed),
        "rejected": len(rejected),
        "skipped": skipped,
        "not_reached": 0 if assessment.complete else assessment.files_seen - done,
    }


def _model(assessment: Assessment) -> dict[str, Any]:
    spec, runtime = assessment.spec, dict(assessment.runtime)
    path = runtime.pop("model_path", None)
    sha256 = runtime.pop("model_sha256", None)
    return {
        "name": spec.name,
        "version": spec.version,
        "path": None if path is None else printable(path),
        "sha256": sha256,
        "precision": spec.precision,
        "takes_reference": spec.takes_reference,
        "window_center_hu": spec.window_center,
        "window_width_hu": spec.window_width,
        "dose_levels_percent": [to_percent(level) for level in spec.predicted_doses],
        "domain": plain(spec.domain and {name: asdict(each) for name, each in spec.domain.items()}),
        "runtime": plain(runtime),
    }


def _series(report: SeriesReport, dicom: dict[str, Any] | None) -> dict[str, Any]:
    summary = report.summary
    return {
        "number": report.number,
        "study_instance_uid": report.series.study_instance_uid,
        "series_instance_uid": report.series.series_instance_uid,
        "stack": report.series.stack,
        "protocol": plain(report.series.protocol),
        "flags": list(report.series.flags),
        "verdict": _verdict(summary.verdict),
        "summary": _summary(summary),
        "dicom": dicom,
        "latency": _latency(summary),
        "slices": [_slice(result) for result in report.slices],
    }


def _objects(report: SeriesReport, dicom: Sequence[SeriesObjects] | None) -> dict[str, Any] | None:
    """The DICOM objects of a series; an interrupted series has none."""
    if dicom is None:
        return None
    objects = next((each for each in dicom if each.number == report.number), None)
    if objects is None:
        return {"written": [], "not_written": [{"kind": "all", "reason": "interrupted", "detail": ""}]}
    return {
        "written": [
            {
                "kind": each.kind,
                "path": printable(each.path),
                "sop_class_uid": each.sop_class_uid,
                "sop_instance_uid": each.sop_instance_uid,
            }
            for each in objects.written
        ],
        "not_written": [
            {"kind": each.kind, "reason": each.reason, "detail": printable(each.detail)}
            for each in objects.not_written
        ],
    }


def _verdict(judgement: Judgement) -> dict[str, Any]:
    verdict = judgement.verdict
    return {
        "code": verdict.value if verdict else None,
        "dicom_code": verdict.dicom_code if verdict else None,
        "meaning": verdict.meaning if verdict else None,
        "rule": None if judgement.rule is None else printable(judgement.rule),
        "reasons": [printable(reason) for reason in judgement.reasons],
        "limits": {name: asdict(standard) for name, standard in judgement.standards.items()}
        if judgement.standards
        else None,
    }


def _summary(summary: SeriesSummary) -> dict[str, Any]:
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


def _latency(summary: SeriesSummary) -> dict[str, Any]:
    return {
        "samples": summary.slices,
        "stages_ms": {
            stage: {"p50": round(p.p50, 3), "p90": round(p.p90, 3), "p99": _rounded(p.p99, 3)}
            for stage, p in summary.latency.items()
        },
    }


def _slice(result: SliceResult) -> dict[str, Any]:
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


def _rejected(item: Rejection) -> dict[str, Any]:
    return {
        "path": printable(item.path),
        "reason": item.reason.value,
        "detail": printable(item.detail),
        "sop_instance_uid": item.sop_instance_uid,
        "frame": item.frame,
    }


def _rounded(value: float | None, digits: int = 6) -> float | None:
    """Rounded for people; what is no finite number is null."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def plain(value: Any) -> Any:
    """A value of JSON's own types: enums as their value, paths and other things as text, NaN as null."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, dict):
        return {printable(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    return printable(value)
