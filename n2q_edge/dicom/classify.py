"""Is this DICOM object a CT image meant to be assessed?"""

from __future__ import annotations

from n2q_edge.dicom import tags
from n2q_edge.dicom.header import FLOAT_PIXEL_DATA, Header
from n2q_edge.dicom.products import check_image_type
from n2q_edge.dicom.reasons import Reason, Refusal

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.2"
CT_CLASSES = frozenset({CT_IMAGE, ENHANCED_CT, LEGACY_ENHANCED_CT})

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and .1 to .4, its multi-frame kinds
DERIVED_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
        "1.2.840.10008.5.1.4.1.1.66.5",  # Surface Segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose
    }
)


def check_object(header: Header) -> None:
    """Check that the object is a CT image with pixels.

    Raises:
        Refusal: with the reason it is skipped or rejected for.
    """
    sop_class = header.text(tags.SOP_CLASS_UID) or header.text(tags.MEDIA_SOP_CLASS_UID)
    modality = header.text(tags.MODALITY).upper()
    if not header.has_prefix and not sop_class and not modality:
        raise Refusal(Reason.NOT_DICOM)
    if not sop_class:
        _refuse_without_class(header, modality)
    if sop_class not in CT_CLASSES:
        raise Refusal(_kind_of_other(header, sop_class))
    if modality not in ("CT", ""):
        raise Refusal(Reason.NOT_CT)
    check_image_type(header.text(tags.IMAGE_TYPE))
    samples = header.integer(tags.SAMPLES_PER_PIXEL)
    if samples not in (None, 1) or header.text(tags.PHOTOMETRIC_INTERPRETATION) == "PALETTE COLOR":
        raise Refusal(Reason.SECONDARY_CAPTURE)
    if header.cut_at is not None:
        raise Refusal(Reason.TRUNCATED, "the file ends inside its header")
    if header.pixels is None or header.pixels.length == 0:
        raise Refusal(Reason.MISSING_PIXEL_DATA)
    if header.pixels.tag in FLOAT_PIXEL_DATA:
        raise Refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, "floating point pixel data in a CT image object")


def _kind_of_other(header: Header, sop_class: str) -> Reason:
    if sop_class == MEDIA_DIRECTORY:
        return Reason.DICOMDIR
    if sop_class == SECONDARY_CAPTURE or sop_class.startswith(SECONDARY_CAPTURE + "."):
        return Reason.SECONDARY_CAPTURE
    if sop_class in DERIVED_CLASSES:
        return Reason.DERIVED_OBJECT
    if header.pixels is None and header.cut_at is None:
        return Reason.NOT_AN_IMAGE
    return Reason.NOT_CT


def _refuse_without_class(header: Header, modality: str) -> None:
    if modality not in ("CT", ""):
        raise Refusal(Reason.NOT_CT if header.pixels else Reason.NOT_AN_IMAGE)
    if header.pixels:
        raise Refusal(Reason.MISSING_SOP_CLASS)
    if header.cut_at is not None:
        raise Refusal(Reason.TRUNCATED, "the file ends inside its header")
    raise Refusal(Reason.NOT_AN_IMAGE)
