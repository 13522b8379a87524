"""The table of slices: one row per slice, assessed or rejected. docs/how-to/archive.md lists the columns."""

from __future__ import annotations

from dataclasses import dataclass

from n2q_edge.assessment.results import Rejection, SeriesReport, SliceResult
from n2q_edge.report.text import printable
from n2q_edge.trends.database import Identity

SCHEMA_VERSION = 1

COLUMNS: dict[str, type] = {
    "schema_version": int,
    "series": str,
    "stack": int,
    "sop_instance": str,
    "frame": int,
    "slice": int,
    "position_mm": float,
    "rejected": str,
    "quality_mean": float,
    "quality_p05": float,
    "quality_below_threshold": float,
    "dose_level_percent": float,
    "noise_hu": float,
    "noise_frequency_per_mm": float,
    "water_equivalent_diameter_mm": float,
    "ssde_mgy": float,
    "model_noise_hu": float,
    "expected_error": float,
    "flags": str,
    "out_of_domain": str,
    "manufacturer": str,
    "model": str,
    "station": str,
    "body_part": str,
    "protocol_name": str,
    "kernel": str,
    "kvp": float,
    "tube_current_ma": float,
    "exposure_mas": float,
    "ctdivol_mgy": float,
    "pitch": float,
    "slice_thickness_mm": float,
}
"""Name and type of every column; a value that is not known is null."""

_PROTOCOL = (
    "manufacturer",
    "model",
    "station",
    "body_part",
    "protocol_name",
    "kernel",
    "kvp",
    "tube_current_ma",
    "exposure_mas",
    "pitch",
    "slice_thickness_mm",
)

Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Rows:
    """Makes rows.

    Attributes:
        identify: how UIDs are written.
        with_phi: keep the protocol's name, which is free text.
    """

    identify: Identity
    with_phi: bool

    def assessed(self, report: SeriesReport, result: SliceResult) -> Row:
        """The row of a slice with a result."""
        ref, quality, dose, size = result.ref, result.quality, result.dose, result.size
        row = self._blank(report.series.series_instance_uid, ref.sop_instance_uid, ref.frame)
        row |= {
            "stack": report.series.stack,
            "slice": result.number,
            "position_mm": ref.position_mm,
            "quality_mean": quality.mean if quality else None,
            "quality_p05": quality.p05 if quality else None,
            "quality_below_threshold": quality.below_threshold if quality else None,
            "dose_level_percent": dose.level if dose else None,
            "noise_hu": result.noise_hu,
            "noise_frequency_per_mm": result.noise_frequency,
            "water_equivalent_diameter_mm": size.water_equivalent_diameter_mm if size else None,
            "ssde_mgy": result.ssde_mgy,
            "model_noise_hu": result.model_noise_hu,
            "expected_error": result.expected_error,
            "flags": " ".join(result.flags),
            "out_of_domain": "; ".join(each.text for each in result.out_of_domain or ()),
        }
        protocol = report.series.protocol
        row |= {name: protocol.get(name) for name in _PROTOCOL}
        row["ctdivol_mgy"] = protocol.get("ctdivol")
        if not self.with_phi:
            row["protocol_name"] = None
        return {name: _typed(row[name], kind) for name, kind in COLUMNS.items()}

    def rejected(self, series_uid: str, item: Rejection) -> Row:
        """The row of a slice that could not be assessed."""
        row = self._blank(series_uid, item.sop_instance_uid or "", item.frame)
        row["rejected"] = item.reason.value
        return row

    def _blank(self, series_uid: str, sop_uid: str, frame: int | None) -> Row:
        row: Row = dict.fromkeys(COLUMNS)
        row["schema_version"] = SCHEMA_VERSION
        row["series"] = self.identify(series_uid) if series_uid else None
        row["sop_instance"] = self.identify(sop_uid) if sop_uid else None
        row["frame"] = frame
        return row


def _typed(value: object, kind: type) -> str | int | float | None:
    """A value in the type of its column; numbers with 6 decimals, text without control characters."""
    if value is None:
        return None
    if kind is float:
        return round(float(str(value)), 6)
    return int(str(value)) if kind is int else printable(value)
