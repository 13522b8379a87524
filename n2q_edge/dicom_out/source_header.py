"""What a result object takes over from its source: patient, study, equipment, frame of reference.

Patient and study are copied, because a PACS files a result by them; nothing else of the header is. The
values of the source are not corrected, with one exception: an optional attribute that breaks its value
representation is left out, since an object with it would be invalid.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom.charset import python_encoding
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID, CTImageStorage

from n2q_edge import __version__
from n2q_edge.dicom.records import Series, SliceRef, SourceHeader
from n2q_edge.dicom_out.codes import PRIVATE_SCHEME, PRIVATE_SCHEME_NAME
from n2q_edge.errors import N2QError

MANUFACTURER = "n2q-edge developers"
MODEL_NAME = "n2q-edge"
SERIAL_NUMBER = "none"  # software has none, and the module wants a value

# Type 2 attributes of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): present, if need be
# empty.
IDENTITY = ("PatientName", "PatientID")
EMPTIED = (
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
OPTIONAL = (
    "IssuerOfPatientID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyDescription",
)
EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")


class NotWrittenError(N2QError):
    """A result object cannot be made for a series.

    Attributes:
        reason: a code of `NOT_WRITTEN_REASONS`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@contextmanager
def checking_source() -> Iterator[None]:
    """Take an error of highdicom or pydicom for what it is here: a value from the source that is not valid.

    Raises:
        NotWrittenError: `invalid_source`.
    """
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise NotWrittenError("invalid_source", f"{type(error).__name__} of the DICOM library") from None


NOT_WRITTEN_REASONS = {
    "missing_uid": "the source has no Study, Series, SOP Class or SOP Instance UID to refer to",
    "no_frame_of_reference": "the source has no Frame of Reference UID: a map would float in space",
    "no_geometry": "no slice has position, orientation, pixel spacing and matrix: a map would float in space",
    "no_slice_thickness": "neither Slice Thickness nor a slice distance is known",
    "too_large": "the pixel data would be longer than 4 GiB, which a DICOM element cannot be",
    "interrupted": "the run was interrupted before the end of the series",
    "nothing_scored": "no slice of the series has a result",
    "output_failed": "the disk is full, or the folder cannot be written to",
    "invalid_source": "the source's patient name, patient ID or a UID is not valid DICOM",
}


_ONE_AT_A_TIME = threading.RLock()  # warnings.catch_warnings is not thread-safe


@contextmanager
def silent() -> Iterator[None]:
    """Keep the libraries' warnings and log lines back: some quote the patient's name."""
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom")]
    levels = [logger.level for logger in loggers]
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@dataclass(frozen=True)
class SourceSlice:
    """One source image of a result.

    Attributes:
        ref: identity and geometry.
        sop_class_uid: of its file.
        frame_of_reference_uid: of its file; "" if it has none.
        acquisition_number: of its file; None if it has none.
    """

    ref: SliceRef
    sop_class_uid: str
    frame_of_reference_uid: str
    acquisition_number: int | None


@dataclass(frozen=True)
class SourceContext:
    """What all results of one series share.

    Attributes:
        header: patient, study, equipment and frame of reference of the first slice, as a data set that could
            be a CT image's; of no use but to copy from.
        slices: every slice, in the order given.
        study_instance_uid: see `Series`.
        series_instance_uid: see `Series`.
    """

    header: Dataset
    slices: tuple[SourceSlice, ...]
    study_instance_uid: str
    series_instance_uid: str


@silent()
def source_context(refs: Sequence[SliceRef], series: Series) -> SourceContext:
    """What results of some slices of a series copy and refer to.

    Raises:
        NotWrittenError: `missing_uid`, `invalid_source`.
    """
    study_uid, series_uid = series.study_instance_uid, series.series_instance_uid
    uids = {
        study_uid,
        series_uid,
        *(uid for ref in refs for uid in (ref.sop_instance_uid, ref.sop_class_uid)),
    }
    if "" in uids:
        raise NotWrittenError("missing_uid", "the source has no Study, Series, SOP Class or SOP Instance UID")
    if not all(UID(uid).is_valid for uid in uids):
        raise NotWrittenError(
            "invalid_source", "a Study, Series, SOP Class or SOP Instance UID is not a valid UID"
        )
    source = _dataset(series.header)
    header = _presentable(source, study_uid, series_uid)
    _copy_lossiness(header, source, refs)
    slices = tuple(
        SourceSlice(ref, ref.sop_class_uid, _valid_uid(ref.frame_of_reference_uid), ref.acquisition_number)
        for ref in refs
    )
    return SourceContext(header, slices, study_uid, series_uid)


def _valid_uid(uid: str) -> str:
    return uid if UID(uid).is_valid else ""


def _dataset(header: SourceHeader) -> Dataset:
    """The source's raw values as a data set; nothing is converted before it is asked for."""
    little = header.little
    dataset = Dataset(
        {
            Tag(tag): RawDataElement(Tag(tag), dictionary_VR(tag), len(value), value, 0, False, little)
            for tag, value in header.values
        }
    )
    # A file that names none of the standard's character sets is read as Latin-1, as the scan does.
    stated = _valid(dataset, "SpecificCharacterSet") or []
    terms = [stated] if isinstance(stated, str) else list(stated)
    known = bool(terms) and all(term in python_encoding for term in terms)
    dataset.SpecificCharacterSet = stated if known else "ISO_IR 100"
    dataset.set_original_encoding(False, little, terms if known else ["ISO_IR 100"])
    if header.deidentification_codes:
        with suppress(Exception):  # an optional sequence that is damaged is left out
            codes = read_dataset(BytesIO(header.deidentification_codes), not header.explicit, little)
            dataset.update({element.tag: element for element in codes})
    return dataset


def _presentable(source: Dataset, study_instance_uid: str, series_instance_uid: str) -> Dataset:
    """The attributes that results copy, in a form that their constructors accept."""
    header = Dataset()
    for keyword in IDENTITY:
        value = _valid(source, keyword)
        if value is None and keyword in source:
            raise NotWrittenError("invalid_source", f"{keyword} breaks its value representation")
        setattr(header, keyword, value or "")
    for keyword in EMPTIED:
        setattr(header, keyword, _valid(source, keyword) or "")
    for keyword in (*OPTIONAL, *EQUIPMENT, "PositionReferenceIndicator", "BodyPartExamined", "SyntheticData"):
        value = _valid(source, keyword)
        if value:
            setattr(header, keyword, value)
    if header.PatientSex not in ("M", "F", "O"):
        header.PatientSex = ""
    if "DeidentificationMethod" not in header and "DeidentificationMethodCodeSequence" not in header:
        header.pop("PatientIdentityRemoved", None)  # it must not stand without its method (PS3.3 C.7.1.1)
    header.SpecificCharacterSet = source.SpecificCharacterSet
    header.SOPClassUID = CTImageStorage
    header.SOPInstanceUID = "2.25.1"
    header.Modality = "CT"
    header.StudyInstanceUID = study_instance_uid
    header.SeriesInstanceUID = series_instance_uid
    return header


def _copy_lossiness(header: Dataset, source: Dataset, refs: Sequence[SliceRef]) -> None:
    """What was lossy once stays so (PS3.3 C.7.6.1.1.5): one slice is enough."""
    header.LossyImageCompression = "01" if any("lossy_compressed" in ref.flags for ref in refs) else "00"
    if header.LossyImageCompression == "01":
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            value = _valid(source, keyword)
            if value:
                setattr(header, keyword, value)


def _valid(source: Dataset, keyword: str) -> Any:
    """The value of an attribute; None where it is absent or breaks its value representation (PS3.5 6.2)."""
    try:
        if keyword not in source:
            return None
        element = source[keyword]
        if element.VM > 1 and dictionary_VM(element.tag) == "1":
            return None
        DataElement(element.tag, element.VR, element.value, validation_mode=RAISE)
        return element.value
    except Exception:  # pydicom raises many kinds on damaged bytes; all mean the same here
        return None


def equipment() -> dict[str, Any]:
    """Who made a result, as arguments of highdicom's constructors (PS3.3 C.7.5.2)."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL_NAME,
        "device_serial_number": SERIAL_NUMBER,
        "software_versions": __version__,
    }


def private_scheme() -> Any:
    """The entry of the private codes in a Coding Scheme Identification Sequence (PS3.3 C.12.1.1)."""
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    return CodingSchemeIdentificationItem(
        designator=PRIVATE_SCHEME,
        name=PRIVATE_SCHEME_NAME,
        version=__version__,
        responsible_organization=MANUFACTURER,
    )


def image_references(slices: Iterable[SourceSlice]) -> list[Dataset]:
    """One reference an instance, in order (PS3.3 table 10-11); frames of one file are one instance."""
    references: dict[str, Dataset] = {}
    for item in slices:
        if item.ref.sop_instance_uid not in references:
            reference = Dataset()
            reference.ReferencedSOPClassUID = item.sop_class_uid
            reference.ReferencedSOPInstanceUID = item.ref.sop_instance_uid
            references[item.ref.sop_instance_uid] = reference
    return list(references.values())


def finish(dataset: Dataset, context: SourceContext) -> None:
    """What every result says, whatever its kind."""
    header = context.header
    dataset.SpecificCharacterSet = header.SpecificCharacterSet
    if "SyntheticData" in header:
        dataset.SyntheticData = header.SyntheticData
