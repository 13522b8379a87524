"""How the pixels of a file are written: its header's word, checked against the bytes that are there."""

from __future__ import annotations

from n2q_edge.dicom import tags
from n2q_edge.dicom.codecs import SUPPORTED_SYNTAXES
from n2q_edge.dicom.header import NATIVE_SYNTAXES, Header, PixelElement
from n2q_edge.dicom.reasons import Reason, Refusal
from n2q_edge.dicom.records import PixelLayout

MIN_SIDE = 11  # the SSIM window the quality map is defined with
MAX_SIDE = 8192  # no CT matrix is larger; a header that says so must not make us allocate
MAX_FRAMES = 100_000  # of one file; the longest enhanced CT have some ten thousand
MIN_COMPRESSED = (
    128  # bytes a frame, averaged over a multi-frame image: headers of a codestream alone are 40 to 110
)


def read_layout(header: Header, pixels: PixelElement) -> PixelLayout:
    """How the pixels are written.

    Raises:
        Refusal: a transfer syntax, size or format that cannot be read, or not the bytes that it takes.
    """
    rows, columns = header.integer(tags.ROWS), header.integer(tags.COLUMNS)
    frames = _frames(header)
    if rows is None or columns is None or not all(MIN_SIDE <= side <= MAX_SIDE for side in (rows, columns)):
        raise Refusal(
            Reason.BAD_DIMENSIONS,
            f"Rows x Columns is {rows} x {columns}; {MIN_SIDE} to {MAX_SIDE} can be assessed",
        )
    allocated, stored = header.integer(tags.BITS_ALLOCATED), header.integer(tags.BITS_STORED)
    representation = header.integer(tags.PIXEL_REPRESENTATION)
    if allocated not in (8, 16, 32):
        raise Refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"Bits Allocated is {allocated}, not 8, 16 or 32")
    if stored is None or not 1 < stored <= allocated:
        raise Refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"Bits Stored is {stored} of {allocated} allocated")
    if representation not in (0, 1):
        raise Refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"Pixel Representation is {representation}")
    high_bit = header.integer(tags.HIGH_BIT)
    # PS3.5 8.1.1 requires it; writers that differ do not agree on what they mean.
    if high_bit not in (None, stored - 1):
        raise Refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"High Bit is {high_bit} with {stored} bits stored")
    signed = representation == 1
    layout = PixelLayout(
        transfer_syntax=_syntax(header, pixels),
        rows=rows,
        columns=columns,
        frames=frames,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=signed,
        padding=_padding(header, signed, allocated),
    )
    _check_length(header, pixels, layout)
    if frames > MAX_FRAMES:
        raise Refusal(Reason.BAD_DIMENSIONS, f"Number of Frames is {frames}; {MAX_FRAMES} are read at most")
    return layout


def _syntax(header: Header, pixels: PixelElement) -> str:
    encapsulated = pixels.length is None
    if not header.syntax_stated and encapsulated:
        raise Refusal(Reason.MISSING_TRANSFER_SYNTAX)
    if header.syntax in NATIVE_SYNTAXES:
        if encapsulated:
            raise Refusal(
                Reason.CORRUPT_PIXEL_DATA, "compressed pixel data under an uncompressed transfer syntax"
            )
        return header.syntax
    if header.syntax not in SUPPORTED_SYNTAXES:
        raise Refusal(Reason.UNSUPPORTED_TRANSFER_SYNTAX, f"transfer syntax {header.syntax[:64]!r}")
    if not encapsulated:
        raise Refusal(Reason.CORRUPT_PIXEL_DATA, "uncompressed pixel data under a compressed transfer syntax")
    return header.syntax


def _frames(header: Header) -> int:
    text = header.text(tags.NUMBER_OF_FRAMES)
    if not text:
        return 1
    frames = header.whole_number(tags.NUMBER_OF_FRAMES)
    if frames is None or frames < 1:
        raise Refusal(Reason.BAD_DIMENSIONS, f"Number of Frames is {text[:16]!r}")
    return frames


def _padding(header: Header, signed: bool, allocated: int) -> tuple[int, int] | None:
    """Pixel Padding Value to Range Limit (PS3.3 C.7.5.1.1.2), inclusive.

    Their VR (US or SS) is often not the pixels', so the bits are read again in the pixels' representation.
    """
    value = header.integer(tags.PIXEL_PADDING_VALUE, signed)
    if value is None:
        return None
    limit = header.integer(tags.PIXEL_PADDING_LIMIT, signed)
    if limit is None:
        limit = value
    if allocated == 8 and signed:
        value, limit = (bound - 256 if bound > 127 else bound for bound in (value, limit))
    return min(value, limit), max(value, limit)


def _check_length(header: Header, pixels: PixelElement, layout: PixelLayout) -> None:
    """Check the pixel data's length against the header and the file.

    Raises:
        Refusal: too short, too long, or the file ends in it.
    """
    available = header.size - pixels.offset
    if pixels.length is None:
        # An empty item for a frame costs eight bytes: without a budget a small file makes a million slices.
        if layout.frames > 1 and layout.frames * MIN_COMPRESSED > available:
            raise Refusal(Reason.TRUNCATED, f"{available} bytes of pixel data for {layout.frames} frames")
        return
    if pixels.length > available:
        raise Refusal(Reason.TRUNCATED, f"{available} of {pixels.length} bytes of pixel data are there")
    sample = layout.bits_allocated // 8
    expected = sample * layout.rows * layout.columns * layout.frames
    # Less than a row or a column too many is padding; more means that Rows, Columns or Number of Frames is
    # wrong.
    if not 0 <= pixels.length - expected < sample * min(layout.rows, layout.columns):
        raise Refusal(
            Reason.CORRUPT_PIXEL_DATA,
            f"{pixels.length} bytes of pixel data where {layout.frames} x {layout.rows} x {layout.columns} "
            f"x {sample} = {expected} are due",
        )
    if layout.bits_allocated == 8 and pixels.vr == "OW" and not header.little:
        raise Refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, "8-bit pixels in big endian words")
