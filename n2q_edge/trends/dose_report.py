"""CT dose reports (TID 10011, PS3.16): CTDIvol, DLP and phantom of every irradiation event.

They come as X-Ray Radiation Dose SR, as Enhanced SR from older GE scanners, and cumulatively from Siemens':
the second report of a study repeats the events of the first. An event is known by its Irradiation Event UID.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

CT_ACQUISITION = "113819"
IRRADIATION_EVENT_UID = "113769"
ACQUISITION_PROTOCOL = "125203"
ACQUISITION_TYPE = "113820"
STARTED = "111526"
MEAN_CTDIVOL, DLP, PHANTOM = "113830", "113838", "113835"
PHANTOM_CM = {"113690": 16, "113691": 32}  # IEC head and body dosimetry phantom (CID 4052)
DEEPEST = 12  # levels of content; a dose report has 5
LONGEST = 64


@dataclass(frozen=True)
class DoseEvent:
    """One irradiation.

    Attributes:
        uid: Irradiation Event UID.
        protocol: Acquisition Protocol; None if the report does not say.
        kind: meaning of CT Acquisition Type, such as `Spiral Acquisition`.
        started: DateTime Started, DICOM DT; None if the report does not say.
        ctdivol_mgy: mean CTDIvol, mGy; None for a localizer on many scanners.
        dlp_mgycm: dose-length product, mGy cm.
        phantom_cm: diameter of the phantom that CTDIw refers to: 16 or 32.
    """

    uid: str
    protocol: str | None
    kind: str | None
    started: str | None
    ctdivol_mgy: float | None
    dlp_mgycm: float | None
    phantom_cm: int | None


@dataclass(frozen=True)
class DoseReport:
    """What a dose report says.

    Attributes:
        study_uid: Study Instance UID.
        scanner: manufacturer and model.
        events: at least one.
    """

    study_uid: str
    scanner: str
    events: tuple[DoseEvent, ...]


def read_dose_report(path: Path) -> DoseReport | None:
    """Read a file; None if it is no CT dose report with an event, or is damaged."""
    try:
        dataset = dcmread(path, stop_before_pixels=True)
        events = tuple(_events(dataset))
        scanner = " ".join(str(dataset.get(key) or "") for key in ("Manufacturer", "ManufacturerModelName"))
        study = str(dataset.get("StudyInstanceUID") or "")
    except Exception:  # whatever a hostile header makes pydicom raise
        return None
    return DoseReport(study, scanner.strip()[:LONGEST], events) if events and study else None


def _events(dataset: Dataset) -> Iterator[DoseEvent]:
    for item in _items(dataset):
        if _concept(item) == CT_ACQUISITION:
            found = {_concept(each): each for each in _tree(item, DEEPEST)}
            uid = str(found[IRRADIATION_EVENT_UID].get("UID", "")) if IRRADIATION_EVENT_UID in found else ""
            if uid:
                yield DoseEvent(
                    uid=uid,
                    protocol=_text(found.get(ACQUISITION_PROTOCOL), "TextValue"),
                    kind=_code(found.get(ACQUISITION_TYPE), "CodeMeaning"),
                    started=_text(found.get(STARTED), "DateTime"),
                    ctdivol_mgy=_number(found.get(MEAN_CTDIVOL), "mGy"),
                    dlp_mgycm=_number(found.get(DLP), "mGycm"),
                    phantom_cm=PHANTOM_CM.get(_code(found.get(PHANTOM), "CodeValue") or ""),
                )


def _items(item: Dataset) -> list[Dataset]:
    return list(item.get("ContentSequence") or [])


def _tree(item: Dataset, levels: int) -> Iterator[Dataset]:
    """All content below an item, the nearest last: it is what a name means where it occurs twice."""
    for each in _items(item):
        if levels:
            yield from _tree(each, levels - 1)
        yield each


def _concept(item: Dataset) -> str:
    codes = item.get("ConceptNameCodeSequence") or [Dataset()]
    return str(codes[0].get("CodeValue") or "")


def _text(item: Dataset | None, keyword: str) -> str | None:
    value = str(item.get(keyword) or "").strip() if item is not None else ""
    return value[:LONGEST] or None


def _code(item: Dataset | None, keyword: str) -> str | None:
    codes = item.get("ConceptCodeSequence") if item is not None else None
    return (str(codes[0].get(keyword) or "")[:LONGEST] or None) if codes else None


def _number(item: Dataset | None, unit: str) -> float | None:
    """A measured value in the unit it must have; None if it is absent, not finite or negative."""
    measured = item.get("MeasuredValueSequence") if item is not None else None
    if not measured:
        return None
    units = measured[0].get("MeasurementUnitsCodeSequence") or [Dataset()]
    value = float(measured[0].get("NumericValue", "nan"))
    if str(units[0].get("CodeValue") or "").replace(".", "").replace("*", "") != unit:
        return None
    return value if math.isfinite(value) and value >= 0 else None
