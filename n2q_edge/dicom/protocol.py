"""How a series was acquired, for the report: numbers and names of the protocol, no patient identity."""

from __future__ import annotations

from typing import Any

from n2q_edge.dicom import plausible, tags
from n2q_edge.dicom.records import SliceRef
from n2q_edge.dicom.values import Elements

TEXTS = {
    "manufacturer": tags.MANUFACTURER,
    "model": tags.MODEL_NAME,
    "station": tags.STATION_NAME,
    "body_part": tags.BODY_PART,
    "protocol_name": tags.PROTOCOL_NAME,
    "series_description": tags.SERIES_DESCRIPTION,
}

NAMES = (
    *TEXTS,
    "kvp",
    "tube_current_ma",
    "exposure_mas",
    "ctdivol",
    "pitch",
    "slice_thickness_mm",
    "kernel",
)
"""All that a protocol has."""


def read_protocol(header: Elements, frame: Elements, ref: SliceRef) -> dict[str, Any]:
    """The acquisition protocol of one image.

    Args:
        header: elements of the image.
        frame: elements that hold for its first frame.
        ref: its first slice.

    Returns:
        `manufacturer`, `model`, `station`, `body_part`, `protocol_name`, `series_description`, `kvp`,
        `tube_current_ma`, `exposure_mas`, `ctdivol` (mGy), `pitch`, `slice_thickness_mm`, `kernel`; None
        where absent or impossible.
    """
    protocol: dict[str, Any] = {name: header.words(tag) or None for name, tag in TEXTS.items()}
    return {
        **protocol,
        "kvp": _plausible(frame.number(tags.KVP), plausible.KVP),
        "tube_current_ma": ref.exposure.tube_current_ma,
        "exposure_mas": ref.exposure.exposure_mas,
        "ctdivol": ref.exposure.ctdivol_mgy,
        "pitch": _plausible(frame.double(tags.SPIRAL_PITCH_FACTOR), plausible.PITCH),
        "slice_thickness_mm": ref.slice_thickness_mm,
        "kernel": "\\".join(frame.texts(tags.CONVOLUTION_KERNEL)) or None,
    }


def _plausible(value: float | None, limits: plausible.Range) -> float | None:
    return value if plausible.within(value, limits) else None
