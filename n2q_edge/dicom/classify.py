"""Is this DICOM object a CT image meant to be assessed?"""

from __future__ import annotations

from collections.abc import Sequence

from n2q_edge.dicom import tags
from n2q_edge.dicom.header import FLOAT_PIXEL_DATA, Header
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

# Words of Image Type (PS3.3 C.8.2.1.1.1, C.8.15.3) and of the vendors' own values in it.
LOCALIZER_WORDS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "REF_SURVIEW"})
SCREEN_WORDS = frozenset({"SCREEN", "SCREENSAVE", "DOSE_INFO", "PROT"})  # PROT: Siemens' protocol sheet
PERFUSION_WORDS = frozenset({"RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TTD", "TMAX"})
ARITHMETIC_WORDS = frozenset({"SUBTRACTION", "DIVISION", "MULTIPLICATION", "STD_DEVIATION"})
MATERIAL_WORDS = frozenset(
    {"MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY"}
)
PROJECTION_WORDS = frozenset({"MAX_IP", "MIN_IP", "MIP", "MINIP", "VOLUME_RENDER", "SURFACE_RENDER"})
NOT_HU_WORDS = PERFUSION_WORDS | ARITHMETIC_WORDS | MATERIAL_WORDS | PROJECTION_WORDS
HU_RESCALE_TYPES = frozenset({"", "HU", "HU_MOD", "US"})  # US: unspecified


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
    check_image_type(header.texts(tags.IMAGE_TYPE))
    samples = header.integer(tags.SAMPLES_PER_PIXEL)
    if samples not in (None, 1) or header.text(tags.PHOTOMETRIC_INTERPRETATION) == "PALETTE COLOR":
        raise Refusal(Reason.SECONDARY_CAPTURE)
    if header.cut_at is not None:
        raise Refusal(Reason.TRUNCATED, "the file ends inside its header")
    if header.pixels is None or header.pixels.length == 0:
        raise Refusal(Reason.MISSING_PIXEL_DATA)
    if header.pixels.tag in FLOAT_PIXEL_DATA:
        raise Refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, "floating point pixel data in a CT image object")


def check_image_type(image_type: Sequence[str]) -> None:
    """Check Image Type, or the Frame Type of one frame of an enhanced image.

    Raises:
        Refusal: a localizer, a captured screen, or values that are not HU.
    """
    words = {word for value in image_type for word in value.upper().split()}
    if words & LOCALIZER_WORDS:
        raise Refusal(Reason.LOCALIZER)
    if words & SCREEN_WORDS:
        raise Refusal(Reason.SECONDARY_CAPTURE)
    # ORIGINAL\PRIMARY\PERFUSION is a slice of a perfusion scan, in HU; a DERIVED one is a map.
    if words & NOT_HU_WORDS or {"DERIVED", "PERFUSION"} <= words:
        raise Refusal(Reason.NOT_HU)


def check_rescale_type(rescale_type: str) -> None:
    """Check that the rescaled values are HU (absent means HU in a CT image, PS3.3 C.8.2.1).

    Raises:
        Refusal: another unit.
    """
    if rescale_type.upper() not in HU_RESCALE_TYPES:
        raise Refusal(Reason.NOT_HU)


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
