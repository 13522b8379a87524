"""Which CT image objects are slices in HU, by what their makers call them.

Many products of a CT study are stored as CT Image Storage: topograms, material maps, renderings. One table
tells them by Image Type, or the Frame Type of one frame, in the standard's terms and in vendors' spellings:

- PS3.3 C.8.2.1.1.1: value 3 AXIAL or LOCALIZER; value 4 of multi-energy images (VMI, MAT_SPECIFIC, ...).
- PS3.3 C.8.15.3.2 and C.8.16.1: Frame Type of enhanced images; value 4 tells derived contrasts.
- Siemens, DICOM conformance statement of syngo MultiModality Workplace 2008B, CT applications, Image Type:
  value 3 OTHER, MPR, PROJECTION IMAGE, UNDEFINED. Value 4 in public archives: "CT_SOM5 TOP" (topogram), SPI
  and SEQ (slices), PROT (protocol sheet), MPR, MIP, VRT; CT_SOM4, CT_SOM7 and CT_SOMX alike.
- Others as they stand in public archives. Philips: SURVIEW, REF_SURVIEW, DOSE_INFO, spectral results (ZEFF).
  GE: SCREEN SAVE, SCOUT, material pairs such as "IODINE(WATER)". Canon (Toshiba): SCANOGRAM, SUBTRACT.

Rescale Type (PS3.3 C.11.1.1.2) and Image Orientation (Patient) tell the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from n2q_edge.dicom.reasons import Reason, Refusal

LOCALIZERS = (
    *("LOCALIZER", "LOCALISER", "SCOUT", "PILOT", "PROJECTION_IMAGE"),
    *("TOPOGRAM", "CT_SOM4_TOP", "CT_SOM5_TOP", "CT_SOM7_TOP", "CT_SOMX_TOP"),
    *("SURVIEW", "REF_SURVIEW", "SCANOGRAM", "SCANO"),
)
SHEETS = ("SCREEN", "SCREENSAVE", "DOSE_INFO", "DOSE_REPORT", "PROT", "PATIENT_PROTOCOL")
PERFUSION_MAPS = ("RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TTD", "TMAX")
ARITHMETIC = (
    *("SUBTRACT", "SUBTRACTED", "SUBTRACTION", "DSA"),
    *("DIVISION", "MULTIPLICATION", "STD_DEVIATION"),
)
MATERIALS = (
    *("MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY"),
    *("IODINE", "IODINE_MAP", "DE_IODINE", "CALCIUM", "URIC_ACID", "ZEFF", "Z_EFF", "RHO_Z"),
)
RENDERINGS = (
    *("MIP", "MAX_IP", "MAXIP", "MAXIMUM", "MINIP", "MIN_IP", "MINIMUM"),
    *("VRT", "SSD", "VOLUME_RENDER", "SURFACE_RENDER"),
)
SPECTRAL = (
    *("VMI", "MONOENERGETIC", "MONO_ENERGETIC", "MONOCHROMATIC", "MONO", "MONOE", "KEV"),
    *("VNC", "VIRTUAL_NON_CONTRAST", "MAT_REMOVED", "MAT_MODIFIED"),
)
OTHER_PLANES = ("CORONAL", "SAGITTAL")
RESLICED = ("MPR", "OBLIQUE", "REFORMATTED", "CURVED", "CPR")

HU_RESCALE_TYPES = frozenset(
    {"", "HU", "HU_MOD", "US"}  # US: unspecified
    | {"HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS", "HOUNDSFIELD UNIT"}
)

GANTRY_DEGREES = 31.0  # gantries tilt by 30 at most
ALIGNED_DEGREES = 5.0


def _any_of(terms: Iterable[str]) -> re.Pattern[str]:
    return re.compile("_(?:" + "|".join(sorted(terms, key=len, reverse=True)) + ")_")


_LOCALIZER = _any_of(LOCALIZERS)
_SHEET = _any_of(SHEETS)
_NOT_HU = _any_of((*PERFUSION_MAPS, *ARITHMETIC, *MATERIALS, *RENDERINGS))
_SPECTRAL = re.compile(_any_of(SPECTRAL).pattern + r"|_[0-9]+_?KEV_")
_OTHER_PLANE = _any_of(OTHER_PLANES)
_RESLICED = _any_of(RESLICED)


@dataclass(frozen=True)
class Product:
    """What Image Type, or the Frame Type of one frame, says an image is.

    Attributes:
        reason: why it is no slice in HU; None if it may be one.
        derived: it was computed from other images.
        spectral: it is in HU, but computed from several energies: monoenergetic, virtual non-contrast.
        resliced: it was cut out of a volume (MPR).
        other_plane: it says to be coronal or sagittal.
    """

    reason: Reason | None
    derived: bool
    spectral: bool
    resliced: bool
    other_plane: bool


@lru_cache(maxsize=256)  # slices of a series share one
def product(image_type: str) -> Product:
    """What an image is, by its values of Image Type as they are written: `ORIGINAL\\PRIMARY\\AXIAL`."""
    values = image_type.upper().split("\\")
    # Words between underscores, so that a term is found as `_TERM_`.
    spelled = "_" + "__".join(re.sub(r"[^A-Z0-9]+", "_", value).strip("_") for value in values) + "_"
    derived = values[0].strip(" \0") == "DERIVED"
    reason = None
    if _LOCALIZER.search(spelled):
        reason = Reason.LOCALIZER
    elif _SHEET.search(spelled):
        reason = Reason.SECONDARY_CAPTURE
    # ORIGINAL\PRIMARY\PERFUSION is a slice of a perfusion scan, in HU; a DERIVED one is a map.
    elif _NOT_HU.search(spelled) or ("_DERIVED_" in spelled and "_PERFUSION_" in spelled):
        reason = Reason.NOT_HU
    return Product(
        reason,
        derived,
        bool(_SPECTRAL.search(spelled)),
        bool(_RESLICED.search(spelled)),
        bool(_OTHER_PLANE.search(spelled)),
    )


def check_image_type(image_type: str) -> Product:
    """Check Image Type, or the Frame Type of one frame of an enhanced image.

    Raises:
        Refusal: a localizer, a captured screen, or values that are not HU.
    """
    found = product(image_type)
    if found.reason is not None:
        raise Refusal(found.reason)
    return found


def check_rescale_type(rescale_type: str) -> None:
    """Check that the rescaled values are HU (absent means HU in a CT image, PS3.3 C.8.2.1).

    Raises:
        Refusal: another unit.
    """
    if rescale_type.upper() not in HU_RESCALE_TYPES:
        raise Refusal(Reason.NOT_HU)


def is_axial(orientation: Sequence[float] | None, image: Product) -> bool:
    """Whether a slice lies across the patient.

    A tilted gantry still scans axial slices; a plane cut out of a volume afterwards (MPR) is axial only
    where it is aligned with the patient.

    Args:
        orientation: Image Orientation (Patient), unit vectors; None if unknown: Image Type decides alone.
        image: what Image Type says.
    """
    if orientation is None:
        return not image.other_plane
    (a, b, _), (c, d, _) = orientation[:3], orientation[3:]
    most = ALIGNED_DEGREES if image.resliced else GANTRY_DEGREES
    return abs(a * d - b * c) >= math.cos(math.radians(most))  # z of the normal: row x column
