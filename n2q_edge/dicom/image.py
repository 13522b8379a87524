"""From a header to slices: pixel layout, HU rescale and geometry of every frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from n2q_edge.dicom import tags
from n2q_edge.dicom.classify import CT_IMAGE, check_image_type, check_object, check_rescale_type
from n2q_edge.dicom.codecs import SUPPORTED_SYNTAXES
from n2q_edge.dicom.header import NATIVE_SYNTAXES, Header, PixelElement, parse_numbers
from n2q_edge.dicom.protocol import read_protocol
from n2q_edge.dicom.reasons import Reason, Refusal, Rejected, Skipped
from n2q_edge.dicom.records import PixelLayout, SliceRef, Source, Triple

MIN_SIDE = 11  # the SSIM window the quality map is defined with
MAX_SIDE = 8192  # no CT matrix is larger; a header that says so must not make us allocate

LOSSY_SYNTAXES = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"})


@dataclass(frozen=True)
class Image:
    """One file with at least one slice, before grouping.

    Attributes:
        slices: its slices, position not yet computed.
        others: its frames that are no slices.
        tilt: Gantry/Detector Tilt, degrees.
        protocol: see `read_protocol`.
    """

    study_instance_uid: str
    series_instance_uid: str
    slices: tuple[SliceRef, ...]
    others: tuple[Rejected | Skipped, ...]
    tilt: float
    protocol: dict[str, Any]


def read_image(header: Header, source: Source, stamp: tuple[int, int]) -> Image:
    """Make the slices of one file from its header.

    Raises:
        Refusal: none of its frames is a CT slice that can be assessed.
    """
    check_object(header)
    assert header.pixels is not None  # check_object made sure
    layout = _layout(header)
    _check_length(header, header.pixels, layout)
    groups = _Groups(header, layout.frames)
    study, series = header.uid(tags.STUDY_INSTANCE_UID), header.uid(tags.SERIES_INSTANCE_UID)
    uid = sop_instance_uid(header)
    file_flags = _file_flags(header, layout, bool(uid and study and series))
    outcomes: list[SliceRef | Refusal] = []
    for index in range(layout.frames):
        try:
            frame = _frame(header, groups, index, layout.frames)
        except Refusal as refusal:
            outcomes.append(refusal)
            continue
        outcomes.append(
            SliceRef(
                path=source.path,
                frame=index + 1 if layout.frames > 1 else None,
                sop_instance_uid=uid,
                position_mm=None,
                flags=file_flags + frame.flags,
                image_position=frame.position,
                image_orientation=frame.orientation,
                pixel_spacing_mm=frame.spacing,
                slice_thickness_mm=frame.thickness,
                instance_number=_integer(header, tags.INSTANCE_NUMBER),
                slope=frame.slope,
                intercept=frame.intercept,
                layout=layout,
                source=source,
                offset=header.pixels.offset,
                length=header.pixels.length,
                stamp=stamp,
            )
        )
    slices = tuple(outcome for outcome in outcomes if isinstance(outcome, SliceRef))
    if not slices:
        raise _worst([outcome for outcome in outcomes if isinstance(outcome, Refusal)])
    others = tuple(
        _record(outcome, source, uid, index + 1)
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, Refusal)
    )
    tilt = header.number(tags.GANTRY_TILT) or 0.0
    return Image(study, series, slices, others, tilt, read_protocol(header, groups.items(0)))


def sop_instance_uid(header: Header) -> str:
    """SOP Instance UID, from the meta information if the data set has none; "" if neither has."""
    return header.uid(tags.SOP_INSTANCE_UID) or header.uid(tags.MEDIA_SOP_INSTANCE_UID)


def _worst(refusals: list[Refusal]) -> Refusal:
    """One outcome for a file none of whose frames is assessed: a rejection outweighs a skip."""
    rejections = [refusal for refusal in refusals if refusal.reason.kind == "rejected"]
    return (rejections or refusals)[0]


def _record(refusal: Refusal, source: Source, uid: str, frame: int) -> Rejected | Skipped:
    if refusal.reason.kind == "skipped":
        return Skipped(source.path, refusal.reason, frame)
    return Rejected(source.path, refusal.reason, refusal.detail, uid or None, frame)


def _layout(header: Header) -> PixelLayout:
    """How the pixels are written.

    Raises:
        Refusal: a transfer syntax, size or format that cannot be read.
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
    if high_bit not in (
        None,
        stored - 1,
    ):  # required by PS3.5 8.1.1; writers that differ do not agree on what they mean
        raise Refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"High Bit is {high_bit} with {stored} bits stored")
    signed = representation == 1
    return PixelLayout(
        transfer_syntax=_syntax(header),
        rows=rows,
        columns=columns,
        frames=frames,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=signed,
        padding=_padding(header, signed, allocated),
    )


def _syntax(header: Header) -> str:
    assert header.pixels is not None
    encapsulated = header.pixels.length is None
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
    frames = _integer(header, tags.NUMBER_OF_FRAMES)
    if frames is None or frames < 1:
        raise Refusal(Reason.BAD_DIMENSIONS, f"Number of Frames is {text[:16]!r}")
    return frames


def _integer(header: Header, tag: int) -> int | None:
    """The first value of an IS element."""
    number = header.number(tag)
    return int(number) if number is not None and number.is_integer() else None


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
        if layout.frames * 8 > available:  # one item header a frame at the very least
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


def _file_flags(header: Header, layout: PixelLayout, has_uids: bool) -> tuple[str, ...]:
    flags = []
    if header.text(tags.LOSSY_COMPRESSION) == "01" or layout.transfer_syntax in LOSSY_SYNTAXES:
        flags.append("lossy_compressed")
    if not has_uids:
        flags.append("missing_uid")
    if not header.syntax_stated:
        flags.append("no_transfer_syntax")
    return tuple(flags)


@dataclass(frozen=True)
class _Frame:
    """What may differ from frame to frame."""

    slope: float
    intercept: float
    position: Triple | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    thickness: float | None
    flags: tuple[str, ...]


class _Groups:
    """The functional groups of an enhanced image (PS3.3 C.7.6.16); a classic image has none."""

    def __init__(self, header: Header, frames: int) -> None:
        self._shared: list[Any] = []
        self._per_frame: list[Any] = []
        if header.sequences:
            dataset = header.dataset()
            self._shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
            self._per_frame = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
        if self._per_frame and len(self._per_frame) != frames:
            raise Refusal(
                Reason.CORRUPT_HEADER,
                f"functional groups of {len(self._per_frame)} frames for {frames} frames",
            )

    def items(self, index: int) -> list[Any]:
        """The functional groups that hold for a frame, the most specific first."""
        return self._per_frame[index : index + 1] + self._shared

    def text(self, index: int, macro: str, keyword: str) -> str | None:
        """An attribute of a frame as text, None if no functional group has it."""
        for item in self.items(index):
            try:
                content = (item.get(macro) or [None])[0]
                if content is not None and keyword in content:
                    return _raw_text(content, keyword)
            except Exception as error:  # pydicom raises many kinds on damaged bytes; all mean the same here
                raise Refusal(Reason.CORRUPT_HEADER, f"{macro} of frame {index + 1}: {error}") from None
        return None


def _raw_text(item: Any, keyword: str) -> str:
    """A text element as written, so that an invalid number is ours to judge and never logged."""
    element = item.get_item(keyword)
    value = element.value
    if isinstance(value, bytes):
        return value.decode("latin-1").strip(" \0")
    if value is None:
        return ""
    return value if isinstance(value, str) else "\\".join(str(part) for part in value)


def _frame(header: Header, groups: _Groups, index: int, frames: int) -> _Frame:
    """Rescale and geometry of one frame: from its functional groups, else from the image itself.

    Raises:
        Refusal: the frame is not in HU or not a slice.
    """

    def text(macro: str, keyword: str, tag: int) -> str:
        value = groups.text(index, macro, keyword)
        return header.text(tag) if value is None else value

    transformation = "PixelValueTransformationSequence"
    image_type = groups.text(index, "CTImageFrameTypeSequence", "FrameType")
    values = image_type.split("\\") if image_type else header.texts(tags.IMAGE_TYPE)
    values = [value.strip().upper() for value in values]
    check_image_type(values)
    rescale_type = text(transformation, "RescaleType", tags.RESCALE_TYPE).upper()
    check_rescale_type(rescale_type)
    derived = values[:1] == ["DERIVED"]
    if rescale_type == "US" and derived and header.text(tags.SOP_CLASS_UID) != CT_IMAGE:
        raise Refusal(Reason.NOT_HU)  # PS3.3 C.8.15.3.10: enhanced CT in HU says HU
    slope = _rescale("Rescale Slope", text(transformation, "RescaleSlope", tags.RESCALE_SLOPE))
    intercept = _rescale(
        "Rescale Intercept", text(transformation, "RescaleIntercept", tags.RESCALE_INTERCEPT)
    )
    if slope == 0:
        raise Refusal(Reason.MISSING_RESCALE, "Rescale Slope is 0")
    position = _floats(text("PlanePositionSequence", "ImagePositionPatient", tags.IMAGE_POSITION), 3)
    if groups.text(index, "PlanePositionSequence", "ImagePositionPatient") is None and frames > 1:
        position = None  # one position at the image's root cannot be that of every frame
    axes = _floats(text("PlaneOrientationSequence", "ImageOrientationPatient", tags.IMAGE_ORIENTATION), 6)
    spacing = _floats(text("PixelMeasuresSequence", "PixelSpacing", tags.PIXEL_SPACING), 2)
    thickness = _floats(text("PixelMeasuresSequence", "SliceThickness", tags.SLICE_THICKNESS), 1)
    conditions = {"derived": derived, "rescale_type_unspecified": rescale_type == "US"}
    return _Frame(
        slope=slope,
        intercept=intercept,
        position=(position[0], position[1], position[2]) if position else None,
        orientation=axes,
        spacing=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        thickness=thickness[0] if thickness else None,
        flags=tuple(flag for flag, holds in conditions.items() if holds),
    )


def _rescale(name: str, text: str) -> float:
    if not text:
        raise Refusal(Reason.MISSING_RESCALE, f"{name} is absent or empty")
    values = parse_numbers(text)
    if values is None:
        raise Refusal(Reason.MISSING_RESCALE, f"{name} is {text[:16]!r}")
    return values[0]


def _floats(text: str, count: int) -> tuple[float, ...] | None:
    values: Sequence[float] | None = parse_numbers(text)
    return tuple(values) if values is not None and len(values) == count else None
