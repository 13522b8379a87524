"""How a series was acquired, for the report: numbers and names of the protocol, no patient identity."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from typing import Any

from n2q_edge.dicom import tags
from n2q_edge.dicom.header import Header

TEXTS = {
    "manufacturer": tags.MANUFACTURER,
    "model": tags.MODEL_NAME,
    "station": tags.STATION_NAME,
    "body_part": tags.BODY_PART,
    "protocol_name": tags.PROTOCOL_NAME,
    "series_description": tags.SERIES_DESCRIPTION,
}
# Name in the protocol: element of a classic image, keyword in the functional groups of an enhanced one.
NUMBERS = {
    "kvp": (tags.KVP, "KVP"),
    "tube_current_ma": (tags.TUBE_CURRENT, "XRayTubeCurrentInmA"),
    "exposure_mas": (tags.EXPOSURE, "ExposureInmAs"),
    "ctdivol": (tags.CTDI_VOL, "CTDIvol"),
    "pitch": (tags.SPIRAL_PITCH_FACTOR, "SpiralPitchFactor"),
    "slice_thickness_mm": (tags.SLICE_THICKNESS, "SliceThickness"),
}
DOUBLES = frozenset({tags.CTDI_VOL, tags.SPIRAL_PITCH_FACTOR})  # VR FD; the others are DS or IS


def read_protocol(header: Header, groups: list[Any]) -> dict[str, Any]:
    """The acquisition protocol of one image.

    Args:
        header: its header.
        groups: functional group items (pydicom), the first that has an element wins.

    Returns:
        `manufacturer`, `model`, `station`, `body_part`, `protocol_name`, `series_description`, `kvp`,
        `tube_current_ma`, `exposure_mas`, `ctdivol` (mGy), `pitch`, `slice_thickness_mm`, `kernel`; None
        where absent.
    """
    protocol: dict[str, Any] = {name: _text(header, tag) for name, tag in TEXTS.items()}
    for name, (tag, keyword) in NUMBERS.items():
        protocol[name] = _number(_in_groups(groups, keyword))
        if protocol[name] is None:
            protocol[name] = _double(header, tag) if tag in DOUBLES else header.number(tag)
    kernel = _in_groups(groups, "ConvolutionKernel")
    if kernel:
        protocol["kernel"] = kernel if isinstance(kernel, str) else "\\".join(map(str, kernel))
    else:
        protocol["kernel"] = "\\".join(header.texts(tags.CONVOLUTION_KERNEL)) or None
    return protocol


def _text(header: Header, tag: int) -> str | None:
    """The value in its character set; bytes it does not know become U+FFFD."""
    value = header.values.get(tag, b"").strip(b" \0")
    charset = header.texts(tags.SPECIFIC_CHARACTER_SET)
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii") or None
    from pydicom.charset import convert_encodings, decode_bytes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters in a description, which matter to nobody here
        try:
            return decode_bytes(value, convert_encodings(charset or ["ISO_IR 100"]), set())
        except (LookupError, ValueError):
            return value.decode("utf-8", "replace")


def _double(header: Header, tag: int) -> float | None:
    value = header.values.get(tag, b"")
    if len(value) < 8:
        return None
    number: float = struct.unpack_from("<d" if header.little else ">d", value)[0]
    return number if number == number else None


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _in_groups(groups: list[Any], keyword: str) -> Any:
    for item in _items(groups):
        if keyword in item:
            return item.get(keyword)
    return None


def _items(groups: list[Any]) -> Iterator[Any]:
    """The items of all functional group macros (each macro is a sequence of one item)."""
    for group in groups:
        for element in group:
            if element.VR == "SQ" and element.value:
                yield element.value[0]
