"""Why a file was not assessed: one documented code for each cause.

`skipped` means the file is not a CT image meant to be assessed; nothing is wrong. `rejected` means it should
have been assessed and could not be. docs/reference/reason-codes.md lists both; a test keeps it equal to
`Reason`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

SKIPPED = "skipped"
REJECTED = "rejected"


class Reason(str, Enum):
    """A reason code. The value is what stands in JSON.

    Attributes:
        kind: `skipped` or `rejected`.
        description: one sentence for a person.
    """

    kind: str
    description: str

    def __new__(cls, value: str, kind: str, description: str) -> Reason:
        """Make a member that compares equal to its code."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.kind = kind
        member.description = description
        return member

    NOT_DICOM = "not_dicom", SKIPPED, "The file is not DICOM, or not a regular file."
    DICOMDIR = (
        "dicomdir",
        SKIPPED,
        "An index of files (DICOMDIR); the files it lists are counted by themselves.",
    )
    ARCHIVE = "archive", SKIPPED, "A zip archive that was opened; its members are counted by themselves."
    ALREADY_SEEN = (
        "already_seen",
        SKIPPED,
        "The same file or folder was reached before: named twice, or through a symbolic link or a link loop.",
    )
    NOT_AN_IMAGE = (
        "not_an_image",
        SKIPPED,
        "A DICOM object without pixels, such as a report, a plan, structures or a presentation state.",
    )
    NOT_CT = "not_ct", SKIPPED, "An image whose SOP class or modality is not CT (MR, NM, PT, US, ...)."
    DERIVED_OBJECT = (
        "derived_object",
        SKIPPED,
        "A result computed from images: segmentation, RT dose or parametric map.",
    )
    LOCALIZER = (
        "localizer",
        SKIPPED,
        "A localizer (scout, topogram, surview, scanogram): a projection, not a slice.",
    )
    SECONDARY_CAPTURE = (
        "secondary_capture",
        SKIPPED,
        "A screen capture, dose sheet, colour rendering or other secondary capture.",
    )
    NOT_HU = (
        "not_hu",
        SKIPPED,
        "A derived image whose values are not a slice's HU: perfusion or material map, subtraction, MIP.",
    )

    MISSING_PACKAGE = (
        "missing_package",
        REJECTED,
        "Such files need a package that is not installed; the detail names it.",
    )
    EMPTY_FILE = "empty_file", REJECTED, "The file has no bytes."
    TRUNCATED = "truncated", REJECTED, "The file ends before its DICOM content does."
    UNREADABLE = (
        "unreadable",
        REJECTED,
        "The system does not let the file be read (permission, I/O error), or it changed while in use.",
    )
    MISSING_FILE = "missing_file", REJECTED, "A DICOMDIR or a symbolic link names a file that is not there."
    UNSUPPORTED_ARCHIVE = (
        "unsupported_archive",
        REJECTED,
        "An archive that is not opened: encrypted, nested, not zip (gz, tar, 7z), or far too large unpacked.",
    )
    CORRUPT_ARCHIVE = "corrupt_archive", REJECTED, "The zip archive or the member of it is damaged."
    CORRUPT_HEADER = "corrupt_header", REJECTED, "The DICOM header cannot be parsed."
    MISSING_SOP_CLASS = (
        "missing_sop_class",
        REJECTED,
        "An image without SOP Class UID: what its pixels mean is unknown.",
    )
    MISSING_PIXEL_DATA = (
        "missing_pixel_data",
        REJECTED,
        "A CT image object without, or with empty, pixel data.",
    )
    MISSING_TRANSFER_SYNTAX = (
        "missing_transfer_syntax",
        REJECTED,
        "No Transfer Syntax UID and compressed pixel data: how to decode it is unknown.",
    )
    UNSUPPORTED_TRANSFER_SYNTAX = (
        "unsupported_transfer_syntax",
        REJECTED,
        "The transfer syntax is private, retired or not one that is decoded here.",
    )
    BAD_DIMENSIONS = (
        "bad_dimensions",
        REJECTED,
        "Rows, Columns or Number of Frames is absent, not a number, or out of range.",
    )
    UNSUPPORTED_PIXEL_FORMAT = (
        "unsupported_pixel_format",
        REJECTED,
        "Bits Allocated, Bits Stored or High Bit is absent, contradictory or not one that is decoded here.",
    )
    MISSING_RESCALE = (
        "missing_rescale",
        REJECTED,
        "Rescale Slope or Intercept is absent, empty, zero (slope) or not a number: HU would be a guess.",
    )
    IMPLAUSIBLE_RESCALE = (
        "implausible_rescale",
        REJECTED,
        "Rescale Slope and Intercept cannot give HU: slope negative or too large, or values far from any HU.",
    )
    CORRUPT_PIXEL_DATA = (
        "corrupt_pixel_data",
        REJECTED,
        "The pixel data is damaged or contradicts the header (size, precision, length, end marker).",
    )
    DECODE_FAILED = "decode_failed", REJECTED, "The decoder of the transfer syntax refused the pixel data."


@dataclass(frozen=True)
class Rejected:
    """A file, or one frame of it, that should have been assessed and could not be.

    Attributes:
        path: the file; for a zip member `archive.zip/member/name.dcm`.
        reason: the code.
        detail: one line: what exactly is wrong.
        sop_instance_uid: of the object, when known.
        frame: 1-based frame number when other frames of the file may be sound, else None.
    """

    path: Path
    reason: Reason
    detail: str
    sop_instance_uid: str | None = None
    frame: int | None = None


@dataclass(frozen=True)
class Skipped:
    """A file, or one frame of it, that is not a CT image meant to be assessed.

    Attributes:
        path: the file; for a zip member `archive.zip/member/name.dcm`.
        reason: the code.
        frame: 1-based frame number when other frames of the file are assessed, else None.
    """

    path: Path
    reason: Reason
    frame: int | None = None


class Refusal(Exception):  # noqa: N818 - never leaves this package; it carries a code, it is not an error
    """Raised inside `n2q_edge.dicom` to leave a file with a reason code; callers turn it into a record."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail or reason.description


UNEXPECTED = "unexpected"


def unexpected(error: Exception) -> str:
    """Detail of a rejection that no check foresaw; the fuzzer takes it for a crash."""
    return f"{UNEXPECTED} {type(error).__name__}: {' '.join(str(error).split())}"[:200]
