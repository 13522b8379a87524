"""What an object in the spool is, by a few attributes of its header."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from n2q_edge.dicom_out.source_header import MANUFACTURER, MODEL_NAME
from n2q_edge.service.receiver import kind_of

TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Manufacturer",
    "ManufacturerModelName",
    "ProtocolName",
    "BodyPartExamined",
]
PREAMBLE = 132
GROUP_LENGTH = 12  # bytes of (0002,0000)
PIECE = 1 << 20


@dataclass(frozen=True)
class Identity:
    """Who an object says it is.

    Attributes:
        kind: `ct`, `dose` for what may be a dose report, or `other`.
        sop_uid: SOP Instance UID.
        series_uid: Series Instance UID.
        study_uid: Study Instance UID.
        ours: n2q-edge made it.
        scanner: manufacturer and model.
        protocol: Protocol Name, else Body Part Examined.
    """

    kind: str
    sop_uid: str
    series_uid: str
    study_uid: str
    ours: bool
    scanner: str
    protocol: str


def identify(path: Path) -> Identity | None:
    """Read the header; None if it is damaged or an identifier is missing."""
    try:
        dataset = dcmread(path, specific_tags=list(TAGS), stop_before_pixels=True)
        sop_uid, series_uid, study_uid = (
            _text(dataset, f"{level}InstanceUID") for level in ("SOP", "Series", "Study")
        )
        made_by = (_text(dataset, "Manufacturer"), _text(dataset, "ManufacturerModelName"))
        protocol = _text(dataset, "ProtocolName") or _text(dataset, "BodyPartExamined")
        kind = kind_of(_text(dataset, "SOPClassUID"))
    except Exception:  # whatever a hostile header makes pydicom raise
        return None
    if not (sop_uid and series_uid and study_uid):
        return None
    return Identity(
        kind,
        sop_uid,
        series_uid,
        study_uid,
        made_by == (MANUFACTURER, MODEL_NAME),
        " ".join(made_by).strip(),
        protocol,
    )


def digest(path: Path) -> str:
    """SHA-256 of the data set, the file meta information left out: it names the sender.

    OSError if the file cannot be read.
    """
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        start = file.read(PREAMBLE + GROUP_LENGTH)
        group = int.from_bytes(start[-4:], "little") if start[128:136] == b"DICM\x02\x00\x00\x00" else None
        file.seek(0 if group is None else len(start) + group)
        while piece := file.read(PIECE):
            hashed.update(piece)
    return hashed.hexdigest()


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()
