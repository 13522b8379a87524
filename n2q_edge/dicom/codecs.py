"""Compressed frames to stored values: one function for each codec, and a table of transfer syntaxes.

All decoders of the default install are permissively licensed: OpenJPEG and CharLS (through
pylibjpeg-openjpeg and pyjpegls), pylibjpeg-rle, and GDCM for the JPEG (T.81) family. They are called
directly, not through pydicom's list of plugins, so that nothing else that happens to be installed
(pylibjpeg-libjpeg is GPL) can take their place.

With the `fast` extra imagecodecs decodes JPEG 2000, JPEG-LS and RLE, to the same values: it releases the GIL,
so that threads scale. It is not used for JPEG, although three times as fast: it does not tell damaged data.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import cast

import numpy as np
from numpy.typing import NDArray

from n2q_edge.dicom.codestream import Codestream, check_jpeg, check_jpeg2000, check_jpeg_ls, rle_segments
from n2q_edge.dicom.reasons import Reason, Refusal
from n2q_edge.dicom.records import PixelLayout

Stored = NDArray[np.integer]
Decoded = tuple[Stored, Codestream]


_STDERR_LOCK = Lock()
# One byte too many before the end marker is an encoder's padding; more, or too few, is damage.
_DAMAGED = re.compile(rb"Corrupt JPEG data: (?!1 extraneous)|Premature end of JPEG|Unsupported marker")


def decode(data: bytes, layout: PixelLayout) -> Stored:
    """Decode one compressed frame.

    Returns:
        Integer [rows, columns]: stored values, unused bits and all, in the signedness of Pixel
        Representation.

    Raises:
        Refusal: damaged, contradicts the header, or the decoder refused it.
    """
    try:
        values, stream = _DECODERS[layout.transfer_syntax](data, layout)
    except (Refusal, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # every decoder has its own kinds; a Rust one panics with a BaseException
        lines = str(error).strip().splitlines() or [""]
        raise Refusal(Reason.DECODE_FAILED, f"{type(error).__name__}: {lines[0]}"[:200]) from None
    return _in_representation(values.reshape(layout.rows, layout.columns), stream, layout)


def _check_size(stream: Codestream, layout: PixelLayout) -> None:
    if (stream.rows, stream.columns, stream.components) != (layout.rows, layout.columns, 1):
        raise Refusal(
            Reason.CORRUPT_PIXEL_DATA,
            f"the codestream is {stream.rows} x {stream.columns} with {stream.components} components, "
            f"the header says {layout.rows} x {layout.columns} with 1",
        )
    if stream.precision > layout.bits_allocated:
        raise Refusal(
            Reason.CORRUPT_PIXEL_DATA,
            f"the codestream has {stream.precision} bits, the header allocates {layout.bits_allocated}",
        )


def _in_representation(values: Stored, stream: Codestream, layout: PixelLayout) -> Stored:
    """Give values the signedness of Pixel Representation.

    JPEG, JPEG-LS and some JPEG 2000 codestreams hold two's complement bits as unsigned numbers.
    """
    if stream.signed == layout.signed:
        return values
    if stream.signed:
        return values & ((1 << stream.precision) - 1)
    half = 1 << (stream.precision - 1)
    wide = values.astype(np.int64 if stream.precision > 16 else np.int32)
    if stream.precision < layout.bits_stored and wide.max() >= half:
        raise Refusal(
            Reason.CORRUPT_PIXEL_DATA,
            f"unsigned {stream.precision}-bit codestream for signed {layout.bits_stored}-bit values: "
            "which bit is the sign is ambiguous",
        )
    return (wide ^ half) - half


def _imagecodecs() -> ModuleType | None:
    """imagecodecs, if the `fast` extra is installed."""
    try:
        return import_module("imagecodecs")
    except ImportError:
        return None


def _unsigned(precision: int) -> str:
    return "<u1" if precision <= 8 else "<u2" if precision <= 16 else "<u4"


def _jpeg2000(data: bytes, layout: PixelLayout) -> Decoded:
    stream = check_jpeg2000(data)
    _check_size(stream, layout)
    fast = _imagecodecs()
    if fast is not None:
        return fast.jpeg2k_decode(data), stream
    from openjpeg.utils import decode_pixel_data

    kind = _unsigned(stream.precision)
    raw = decode_pixel_data(data, version=2)
    return np.frombuffer(raw, kind.replace("u", "i") if stream.signed else kind), stream


def _jpeg_ls(data: bytes, layout: PixelLayout) -> Decoded:
    stream = check_jpeg_ls(data)
    _check_size(stream, layout)
    fast = _imagecodecs()
    if fast is not None:
        return fast.jpegls_decode(data), stream
    from jpeg_ls import decode_pixel_data  # type: ignore[import-untyped]

    raw, _ = decode_pixel_data(data)
    return np.frombuffer(raw, _unsigned(stream.precision)), stream


def _rle(data: bytes, layout: PixelLayout) -> Decoded:
    size, count = layout.rows * layout.columns, layout.bits_allocated // 8
    unpack = _unpack_bits()
    planes = np.empty((size, count), np.uint8)
    for place, segment in enumerate(rle_segments(data, count)):
        unpacked = np.frombuffer(unpack(segment), np.uint8)
        # What pads a segment unpacks to zeros, if to anything.
        if unpacked.size < size or unpacked[size:].any():
            raise Refusal(Reason.CORRUPT_PIXEL_DATA, "an RLE segment does not unpack to one byte a pixel")
        planes[:, count - 1 - place] = unpacked[:size]
    stream = Codestream(layout.rows, layout.columns, 1, layout.bits_allocated)
    return planes.view(_unsigned(layout.bits_allocated)), stream


def _unpack_bits() -> Callable[[bytes], bytes]:
    """Unpacks one RLE segment; raises where it ends inside a run."""
    fast = _imagecodecs()
    if fast is not None:
        return cast("Callable[[bytes], bytes]", fast.packbits_decode)
    from rle.rle import decode_segment  # type: ignore[import-not-found]

    return cast("Callable[[bytes], bytes]", decode_segment)


def _jpeg(data: bytes, layout: PixelLayout) -> Decoded:
    stream = check_jpeg(data)
    _check_size(stream, layout)
    raw, said = _keeping_stderr(lambda: _gdcm(data, layout, stream.precision))
    if _DAMAGED.search(said):
        raise Refusal(Reason.CORRUPT_PIXEL_DATA, "the JPEG decoder found damaged entropy-coded data")
    pixels = layout.rows * layout.columns
    if len(raw) not in (pixels, 2 * pixels):
        raise Refusal(Reason.DECODE_FAILED, "GDCM did not decode the frame")
    return np.frombuffer(raw, "<u1" if len(raw) == pixels else "<u2"), stream


def _keeping_stderr(call: Callable[[], bytes]) -> tuple[bytes, bytes]:
    """Run `call` and return its result and what C code wrote to file descriptor 2 meanwhile.

    GDCM tells damaged data in no other way, and would litter the terminal. It holds the GIL, so what other
    threads print is not caught.
    """
    with _STDERR_LOCK, tempfile.TemporaryFile() as kept:
        try:
            stderr = os.dup(2)
        except OSError:  # a process without stderr
            return call(), b""
        os.dup2(kept.fileno(), 2)
        try:
            result = call()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        kept.seek(0)
        return result, kept.read()


def _gdcm(data: bytes, layout: PixelLayout, precision: int) -> bytes:
    """Decode a JPEG frame with GDCM, as unsigned values of `precision` bits in Bits Allocated."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(data)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((layout.columns, layout.rows, 1))
    image.SetDataElement(element)
    monochrome = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(monochrome))
    syntax = gdcm.TransferSyntax.GetTSType(layout.transfer_syntax)
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, layout.bits_allocated, precision, precision - 1, 0))
    # GDCM hands bytes out as a str with surrogates.
    text: str = image.GetBuffer() or ""
    return text.encode("utf-8", "surrogateescape")


_DECODERS: dict[str, Callable[[bytes, PixelLayout], Decoded]] = {
    "1.2.840.10008.1.2.5": _rle,
    "1.2.840.10008.1.2.4.50": _jpeg,  # Baseline, 8 bit
    "1.2.840.10008.1.2.4.51": _jpeg,  # Extended, 8 or 12 bit
    "1.2.840.10008.1.2.4.57": _jpeg,
    "1.2.840.10008.1.2.4.70": _jpeg,  # Selection Value 1
    "1.2.840.10008.1.2.4.80": _jpeg_ls,
    "1.2.840.10008.1.2.4.81": _jpeg_ls,  # near-lossless
    "1.2.840.10008.1.2.4.90": _jpeg2000,
    "1.2.840.10008.1.2.4.91": _jpeg2000,
    "1.2.840.10008.1.2.4.201": _jpeg2000,  # High-Throughput JPEG 2000
    "1.2.840.10008.1.2.4.202": _jpeg2000,
    "1.2.840.10008.1.2.4.203": _jpeg2000,
}

SUPPORTED_SYNTAXES = frozenset(_DECODERS)
