"""How large a patient is to X-rays, and what dose that means: AAPM TG-220, TG-204 and TG-293.

Water-equivalent diameter (AAPM Report 220, eq. 4b): the diameter of the water cylinder that attenuates as the
cross-section does,

    Dw = 2 * sqrt((mean(HU) / 1000 + 1) * A / pi)

over the cross-section A of the patient. The size-specific dose estimate (SSDE) of a slice is CTDIvol times a
factor f = a * exp(-b * Dw): AAPM Report 204 (body; phantoms of 32 and 16 cm) and AAPM Report 293 (head).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HU_AIR, HU_MAX = -1000.0, 3071.0
EDGE_SHARE = 0.03  # of the outline on the edge of the image: more is a body cut by the field of view

# a, and b in 1/cm, by the diameter of the CTDI phantom in cm.
BODY_CONVERSION = {32: (3.704369, 0.03671937), 16: (1.874799, 0.03871313)}
HEAD_CONVERSION = {16: (1.9852, 0.0486)}
DIAMETERS_CM = (8.0, 45.0)  # the range of the report's tables


@dataclass(frozen=True, slots=True)
class BodySize:
    """The size of the patient in one slice.

    Attributes:
        water_equivalent_diameter_mm: AAPM TG-220.
        truncated: the body reaches the edge of the image: its diameter is too small.
    """

    water_equivalent_diameter_mm: float
    truncated: bool


def body_size(
    hu: NDArray[np.float32], mask: NDArray[np.bool_], pixel_spacing_mm: tuple[float, float] | None
) -> BodySize | None:
    """The water-equivalent diameter of a slice.

    Args:
        hu: [H,W], Hounsfield units.
        mask: body mask [H,W], lungs and bowel gas included, the table not.
        pixel_spacing_mm: row and column spacing.

    Returns:
        None without a body or without a spacing.
    """
    pixels = int(np.count_nonzero(mask))
    if pixels == 0 or pixel_spacing_mm is None:
        return None
    total = float(np.clip(hu, HU_AIR, HU_MAX).sum(where=mask, dtype=np.float64))
    water_mm2 = (total / 1000.0 + pixels) * pixel_spacing_mm[0] * pixel_spacing_mm[1]
    diameter = 2.0 * math.sqrt(max(water_mm2, 0.0) / math.pi)
    return BodySize(diameter, _is_truncated(mask, pixels))


def _is_truncated(mask: NDArray[np.bool_], pixels: int) -> bool:
    """Whether more than `EDGE_SHARE` of a round outline of that area lies on the edge of the image."""
    on_edge = sum(int(np.count_nonzero(line)) for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    return on_edge > EDGE_SHARE * 2.0 * math.sqrt(math.pi * pixels)


def size_specific_dose(
    ctdivol_mgy: float, diameter_mm: float, *, phantom_cm: int = 32, head: bool = False
) -> float | None:
    """SSDE in mGy of a slice.

    Args:
        ctdivol_mgy: CTDIvol of the slice.
        diameter_mm: its water-equivalent diameter.
        phantom_cm: diameter of the CTDI phantom that CTDIvol refers to, 16 or 32.
        head: a head (AAPM Report 293) instead of a trunk (AAPM Report 204).

    Returns:
        None outside the range of the report's tables (8 to 45 cm), or for a phantom they do not have.
    """
    factors = (HEAD_CONVERSION if head else BODY_CONVERSION).get(phantom_cm)
    centimeters = diameter_mm / 10.0
    if factors is None or not DIAMETERS_CM[0] <= centimeters <= DIAMETERS_CM[1]:
        return None
    return ctdivol_mgy * factors[0] * math.exp(-factors[1] * centimeters)
