"""One row per slice, for spreadsheets and pandas."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from n2q_edge.assessment.results import RunReport, SeriesReport, SliceResult
from n2q_edge.quality.reference import ReferenceNoise
from n2q_edge.quality.scores import to_percent
from n2q_edge.report.text import cell, printable

if TYPE_CHECKING:
    import pandas

IDENTITY = ("series", "series_instance_uid", "slice", "sop_instance_uid", "path", "frame", "position_mm")
TEXTS = ("series_instance_uid", "sop_instance_uid", "path", "flags", "out_of_domain")
SCORES = ("quality_mean", "quality_p05", "quality_below_threshold", "dose_level_percent")
PHYSICS = (
    "noise_frequency_per_mm",
    "water_equivalent_diameter_mm",
    "ssde_mgy",
    "reference_noise_hu",
    "noise_ratio",
    "equivalent_dose",
)
STAGES = ("read", "decode", "wait", "infer", "score", "total")


def to_csv(assessment: RunReport) -> str:
    """All slices of all series, with a header row; an absent number is an empty cell.

    A model without a dose head has no columns of dose probabilities.
    """
    levels = [f"dose_probability_{to_percent(level):g}" for level in assessment.spec.predicted_doses]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    stages = [f"{stage}_ms" for stage in STAGES]
    writer.writerow(
        [
            *IDENTITY,
            *SCORES,
            *levels,
            "noise_hu",
            *PHYSICS,
            "model_noise_hu",
            "expected_error",
            "flags",
            "out_of_domain",
            *stages,
        ]
    )
    for report in assessment.series:
        writer.writerows(map(cell, _row(report, result, len(levels))) for result in report.slices)
    return buffer.getvalue()


def to_dataframe(assessment: RunReport) -> pandas.DataFrame:
    """The rows of `to_csv` as a table; an absent number is NaN. pandas must be installed."""
    import pandas

    text = dict.fromkeys(TEXTS, str)
    frame = pandas.read_csv(io.StringIO(to_csv(assessment)), dtype=text, float_precision="round_trip")
    filled: pandas.DataFrame = frame.fillna(dict.fromkeys(TEXTS, ""))
    return filled


def _row(report: SeriesReport, result: SliceResult, levels: int) -> list[object]:
    ref, quality, dose = result.ref, result.quality, result.dose
    scores = [quality.mean, quality.p05, quality.below_threshold] if quality else [None] * 3
    probabilities = dose.probabilities if dose else [None] * levels
    return [
        report.number,
        printable(report.series.series_instance_uid),
        result.number,
        printable(ref.sop_instance_uid),
        printable(ref.path),
        ref.frame,
        _cell(ref.position_mm, 3),
        *(_cell(score, 6) for score in scores),
        f"{dose.level:g}" if dose else "",
        *(_cell(probability, 6) for probability in probabilities),
        _cell(result.noise_hu, 3),
        *_physics(result),
        _cell(result.model_noise_hu, 3),
        _cell(result.expected_error, 6),
        " ".join(result.flags),
        "; ".join(reason.text for reason in result.out_of_domain or ()),
        *(_cell(getattr(result.times, stage), 3) for stage in STAGES),
    ]


def _physics(result: SliceResult) -> list[str]:
    """Texture, size and dose of a slice, and the slice against its reference: the columns `PHYSICS`."""
    size, reference, comparison = result.size, result.reference, result.comparison
    known = reference.noise_hu if isinstance(reference, ReferenceNoise) else None
    return [
        _cell(result.noise_frequency, 4),
        _cell(size.water_equivalent_diameter_mm if size else None, 1),
        _cell(result.ssde_mgy, 3),
        _cell(known, 3),
        _cell(comparison.ratio if comparison else None, 4),
        _cell(comparison.equivalent_dose if comparison else None, 4),
    ]


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
