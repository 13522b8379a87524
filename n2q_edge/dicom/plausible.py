"""Ranges that values of a CT header can have. What lies outside is damage, not a measurement.

A value that HU depend on costs the slice; any other is left out, and a flag says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from n2q_edge.dicom.reasons import Reason, Refusal
from n2q_edge.dicom.records import PixelLayout
from n2q_edge.spec import HU_MAX, HU_MIN

SPACING_MM = (0.01, 20.0)  # micro-CT to a preview of 64 pixels
THICKNESS_MM = (0.01, 200.0)
POSITION_MM = 1e5  # of a table that moves by 2 m, in a frame of reference with any origin
TILT_DEGREES = 90.0
MOST_HU_A_STEP = 100.0
FEWEST_HU = 100.0  # that the stored values must be able to express
LARGEST_INTEGER = 2**31  # of an IS element (PS3.5 6.2)

KVP = (10.0, 500.0)
TUBE_CURRENT_MA = (0.0, 5000.0)
EXPOSURE_MAS = (0.0, 100_000.0)
CTDIVOL_MGY = (0.0, 2000.0)
PITCH = (0.0, 10.0)
# mAs over mA times s is 1 without a helix, 1 / pitch for effective mAs: 14 in a gated scan of pitch 0.07. GE
# scanners of public archives write other quantities there: 0.02 to 0.2, and 20 to 80.
MAS_RATIO = (0.22, 18.0)

Range = tuple[float, float]


def within(value: float | None, limits: Range) -> bool:
    """Whether a value is known and in a range, both ends included."""
    return value is not None and limits[0] <= value <= limits[1]


def check_rescale(slope: float, intercept: float, layout: PixelLayout) -> None:
    """Check that Rescale Slope and Intercept can make HU of the stored values.

    Raises:
        Refusal: the slope is not positive or coarser than any tissue, or the values miss the HU range.
    """
    if slope == 0:
        raise Refusal(Reason.MISSING_RESCALE, "Rescale Slope is 0")
    half = 1 << (layout.bits_stored - 1)
    low, high = (-half, half - 1) if layout.signed else (0, 2 * half - 1)
    if 0 < slope <= MOST_HU_A_STEP:
        reach = min(slope * high + intercept, HU_MAX) - max(slope * low + intercept, HU_MIN)
        if reach >= FEWEST_HU:
            return
    raise Refusal(
        Reason.IMPLAUSIBLE_RESCALE,
        f"Rescale Slope {slope:g} and Intercept {intercept:g} give no HU of {layout.bits_stored}-bit values",
    )


def are_axes(orientation: Sequence[float]) -> bool:
    """Whether direction cosines of row and column are perpendicular unit vectors, to 1 %."""
    row, column = orientation[:3], orientation[3:]
    lengths = (math.hypot(*row), math.hypot(*column))
    along = sum(a * b for a, b in zip(row, column, strict=True))
    return all(abs(length - 1) <= 0.01 for length in lengths) and abs(along) <= 0.01


def is_position(position: Sequence[float]) -> bool:
    """Whether Image Position (Patient) can be a place in a scanner room."""
    return all(abs(value) <= POSITION_MM for value in position)


def agrees(mas: float, ma: float, milliseconds: float) -> bool:
    """Whether mAs go with the tube current and the exposure time."""
    product = ma * milliseconds / 1000
    return product <= 0 or within(mas / product, MAS_RATIO)
