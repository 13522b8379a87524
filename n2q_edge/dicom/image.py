"""One file to its slices, with all that any later stage needs of its header."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from sys import intern
from typing import Any

from n2q_edge.dicom import plausible, tags
from n2q_edge.dicom.classify import check_object
from n2q_edge.dicom.frame import read_frame
from n2q_edge.dicom.groups import FunctionalGroups
from n2q_edge.dicom.header import Header
from n2q_edge.dicom.layout import read_layout
from n2q_edge.dicom.protocol import read_protocol
from n2q_edge.dicom.reasons import Refusal, Rejected, Skipped
from n2q_edge.dicom.records import PixelLayout, SliceRef, Source, SourceHeader

LOSSY_SYNTAXES = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"})

_SOURCE_TAGS = tuple(sorted(tags.SOURCE))


@dataclass
class Image:
    """One file with at least one slice, before grouping.

    Attributes:
        slices: its slices, position not yet computed.
        others: its frames that are no slices.
        tilt: Gantry/Detector Tilt, degrees.
        protocol: see `read_protocol`.
        header: what results copy.
    """

    study_instance_uid: str
    series_instance_uid: str
    slices: tuple[SliceRef, ...]
    others: tuple[Rejected | Skipped, ...]
    tilt: float
    protocol: dict[str, Any]
    header: SourceHeader


def read_image(header: Header, source: Source, stamp: tuple[int, int]) -> Image:
    """Make the slices of one file from its header.

    Raises:
        Refusal: none of its frames is a CT slice that can be assessed.
    """
    check_object(header)
    assert header.pixels is not None  # check_object made sure
    layout = read_layout(header, header.pixels)
    groups = FunctionalGroups(header, layout.frames)
    study, series = header.uid(tags.STUDY_INSTANCE_UID), header.uid(tags.SERIES_INSTANCE_UID)
    uid = sop_instance_uid(header)
    file_flags = _file_flags(header, layout, bool(uid and study and series))
    sop_class = intern(header.uid(tags.SOP_CLASS_UID) or header.uid(tags.MEDIA_SOP_CLASS_UID))
    frame_of_reference = intern(header.uid(tags.FRAME_OF_REFERENCE_UID))
    patient_key = _patient_key(header)
    outcomes: list[SliceRef | Refusal] = []
    for index in range(layout.frames):
        try:
            frame = read_frame(groups.frame(index), layout, groups.has_own(index, tags.IMAGE_POSITION))
        except Refusal as refusal:
            outcomes.append(refusal)
            continue
        outcomes.append(
            SliceRef(
                path=source.path,
                frame=index + 1 if layout.frames > 1 else None,
                sop_class_uid=sop_class,
                sop_instance_uid=uid,
                frame_of_reference_uid=frame_of_reference,
                position_mm=None,
                flags=file_flags + frame.flags,
                image_position=frame.position,
                image_orientation=frame.orientation,
                pixel_spacing_mm=frame.spacing,
                slice_thickness_mm=frame.thickness,
                instance_number=_number(header, tags.INSTANCE_NUMBER),
                acquisition_number=_number(header, tags.ACQUISITION_NUMBER),
                exposure=frame.exposure,
                patient_key=patient_key,
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
    first = groups.frame(0)
    protocol = read_protocol(header, first, slices[0])
    return Image(
        study, series, slices, others, _tilt(first.number(tags.GANTRY_TILT)), protocol, _source(header)
    )


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


def _file_flags(header: Header, layout: PixelLayout, has_uids: bool) -> tuple[str, ...]:
    flags = []
    if header.text(tags.LOSSY_COMPRESSION) == "01" or layout.transfer_syntax in LOSSY_SYNTAXES:
        flags.append("lossy_compressed")
    if not has_uids:
        flags.append("missing_uid")
    if not header.syntax_stated:
        flags.append("no_transfer_syntax")
    return tuple(flags)


def _number(header: Header, tag: int) -> int | None:
    """The value of an IS element; None if absent or beyond what one can hold."""
    number = header.whole_number(tag)
    return number if number is not None and abs(number) <= plausible.LARGEST_INTEGER else None


def _tilt(degrees: float | None) -> float:
    return degrees if degrees is not None and abs(degrees) <= plausible.TILT_DEGREES else 0.0


def _patient_key(header: Header) -> str:
    """What tells patients apart without naming them: a digest of Patient ID, "" if it has none."""
    patient = header.words(tags.PATIENT_ID)
    return intern(hashlib.sha256(patient.encode(errors="replace")).hexdigest()[:16]) if patient else ""


def _source(header: Header) -> SourceHeader:
    found = header.values
    values = tuple([(tag, found[tag]) for tag in _SOURCE_TAGS if tag in found])
    codes = header.sequences.get(tags.DEIDENTIFICATION_CODES, b"")
    return SourceHeader(values, codes, header.explicit, header.little)
