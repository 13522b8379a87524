"""Check compressed frames before they are decoded.

Decoders are made to show something: libjpeg fills in what is missing, OpenJPEG decodes damaged code blocks
to noise, and neither says so. What can be told from the structure is checked here: that the codestream is
whole, what size and precision it states, and that it holds no bytes that its entropy coder never writes.
What cannot be told: JPEG and JPEG 2000 carry no checksum, so a few flipped bits inside entropy-coded data
stay unseen.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from n2q_edge.dicom.reasons import Reason, Refusal

_SIZ, _SOT, _EOC = 0xFF51, 0xFF90, 0xFFD9
_SOS = 0xFFDA
_START_OF_FRAME = frozenset({0xFFC0, 0xFFC1, 0xFFC3, 0xFFF7})  # Baseline, Extended, Lossless, JPEG-LS

# Bit stuffing keeps these two-byte codes out of entropy-coded data (T.800 annex D.1, T.81 B.1.1.5). FF91 and
# FF92 are the packet markers SOP and EPH.
_FORBIDDEN_IN_JPEG2000 = re.compile(rb"\xff[\x90\x93-\xff]")
_MARKER_IN_JPEG = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MARKER_IN_JPEG_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
# Sectors that were never written. The longest legitimate run is one zero byte for each empty packet.
_HOLE = bytes(1024)


@dataclass(frozen=True)
class Codestream:
    """What a codestream says about itself."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False


def _corrupt(detail: str) -> Refusal:
    return Refusal(Reason.CORRUPT_PIXEL_DATA, detail)


def check_jpeg2000(data: bytes) -> Codestream:
    """Walk a JPEG 2000 codestream (T.800 annex A), in a JP2 file or bare, from SOC to EOC.

    Raises:
        Refusal: damaged or incomplete.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0 or start > 1024:
        raise _corrupt("not a JPEG 2000 codestream")
    try:
        return _walk_jpeg2000(data, start + 2)
    except struct.error:
        raise _corrupt("the JPEG 2000 codestream ends early") from None


def _walk_jpeg2000(data: bytes, position: int) -> Codestream:
    found: Codestream | None = None
    marker, length = struct.unpack_from(">HH", data, position)
    while marker != _SOT:
        if marker == _SIZ:
            found = _size(data, position)
        position += 2 + length
        marker, length = struct.unpack_from(">HH", data, position)
        if marker < 0xFF00:
            raise _corrupt("the JPEG 2000 main header is damaged")
    if found is None:
        raise _corrupt("the JPEG 2000 codestream states no size")
    while marker == _SOT:
        position = _tile_part(data, position)
        (marker,) = struct.unpack_from(">H", data, position)
    if marker != _EOC:
        raise _corrupt("the JPEG 2000 tile-parts do not end at an end marker")
    return found


def _size(data: bytes, position: int) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">4L", data, position + 6)
    components, depth = struct.unpack_from(">HB", data, position + 38)
    return Codestream(bottom - top, right - left, components, (depth & 0x7F) + 1, bool(depth & 0x80))


def _tile_part(data: bytes, position: int) -> int:
    """Check one tile-part; return where the next begins."""
    (length,) = struct.unpack_from(">L", data, position + 6)
    # Length 0: the last tile-part, up to the end marker.
    end = position + length if length else data.rfind(b"\xff\xd9")
    body = data.find(b"\xff\x93", position, end)
    if end > len(data) - 2 or body < 0:
        raise _corrupt("the JPEG 2000 codestream ends early")
    if _FORBIDDEN_IN_JPEG2000.search(data, body + 2, end) or data.find(_HOLE, body, end) >= 0:
        raise _corrupt("the JPEG 2000 codestream holds bytes that its coder never writes")
    return end


def check_jpeg(data: bytes) -> Codestream:
    """Walk a JPEG codestream of one scan (T.81 annex B) from SOI to EOI.

    Raises:
        Refusal: damaged or incomplete.
    """
    return _one_scan(data, _MARKER_IN_JPEG)


def check_jpeg_ls(data: bytes) -> Codestream:
    """Walk a JPEG-LS codestream of one scan (T.87 annex C) from SOI to EOI.

    CharLS tells damaged data itself, but may take seconds to when a codestream ends early.

    Raises:
        Refusal: damaged or incomplete.
    """
    return _one_scan(data, _MARKER_IN_JPEG_LS)


def _one_scan(data: bytes, marker: re.Pattern[bytes]) -> Codestream:
    """Check that the first marker after the scan's data is EOI."""
    found, position = _jpeg_header(data)
    end = marker.search(data, position)
    if end is None:
        raise _corrupt("the JPEG codestream ends early")
    if end.group() != b"\xff\xd9":
        raise _corrupt("the JPEG codestream holds a marker where none can be")
    return found


def _jpeg_header(data: bytes) -> tuple[Codestream, int]:
    """What the start-of-frame segment says, and where the first scan's data starts."""
    if data[:2] != b"\xff\xd8":
        raise _corrupt("not a JPEG codestream")
    found: Codestream | None = None
    position = 2
    try:
        while True:
            marker, length = struct.unpack_from(">HH", data, position)
            if marker == 0xFFFF:  # fill byte
                position += 1
                continue
            if marker < 0xFFC0 or length < 2:
                raise _corrupt("the JPEG header is damaged")
            if marker in _START_OF_FRAME:
                precision, rows, columns, components = struct.unpack_from(">BHHB", data, position + 4)
                found = Codestream(rows, columns, components, precision)
            position += 2 + length
            if marker == _SOS:
                break
    except struct.error:
        raise _corrupt("the JPEG codestream ends early") from None
    if found is None:
        raise _corrupt("the JPEG codestream states no size")
    return found, position


def rle_segments(data: bytes, count: int) -> list[bytes]:
    """The segments of an RLE frame (PS3.5 annex G), the most significant bytes first.

    Raises:
        Refusal: the frame has another number of segments, or they are not in order inside it.
    """
    if len(data) < 64:
        raise _corrupt("the RLE frame ends early")
    stated, *offsets = struct.unpack_from("<16L", data)
    starts = offsets[:count]
    if stated != count or starts[:1] != [64] or sorted(starts) != starts or starts[-1] >= len(data):
        raise _corrupt(f"the RLE frame has {stated} segments at {starts}, {count} are due")
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
