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
from n2q_edge.assessment.results import Rejection, RunReport, SeriesReport
from n2q_edge.machine import describe_machine
from n2q_edge.quality.scores import QUALITY_THRESHOLD, to_percent
from n2q_edge.report.entries import latency, series_summary, slice_entry, verdict
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
    assessment: RunReport,
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


def count_files(assessment: RunReport) -> dict[str, int]:
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


def _model(assessment: RunReport) -> dict[str, Any]:
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
        "verdict": verdict(summary.verdict),
        "summary": series_summary(summary),
        "dicom": dicom,
        "latency": latency(summary),
        "slices": [slice_entry(result) for result in report.slices],
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


def _rejected(item: Rejection) -> dict[str, Any]:
    return {
        "path": printable(item.path),
        "reason": item.reason.value,
        "detail": printable(item.detail),
        "sop_instance_uid": item.sop_instance_uid,
        "frame": item.frame,
    }


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
