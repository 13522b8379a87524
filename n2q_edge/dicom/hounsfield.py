"""Stored values to Hounsfield units."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2q_edge.dicom.header import EXPLICIT_BIG
from n2q_edge.dicom.records import PixelLayout
from n2q_edge.spec import HU_MAX, HU_MIN


def native_values(data: bytes, layout: PixelLayout) -> NDArray[Any]:
    """Uncompressed bytes of one frame as integers [rows, columns] of Bits Allocated, unused bits and all."""
    order = ">" if layout.transfer_syntax == EXPLICIT_BIG else "<"
    kind = f"{order}{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}"
    count = layout.rows * layout.columns
    return np.frombuffer(data, kind, count).reshape(layout.rows, layout.columns)


def to_hu(values: NDArray[Any], layout: PixelLayout, slope: float, intercept: float) -> NDArray[np.float32]:
    """HU = slope * stored value + intercept (PS3.3 C.11.1.1.2), padding as air, clipped to [HU_MIN, HU_MAX].

    MONOCHROME1 changes how values are displayed, not what they mean: it plays no part.

    Args:
        values: integers [rows, columns] of Bits Allocated.
        layout: what they are.
        slope: Rescale Slope.
        intercept: Rescale Intercept.

    Returns:
        float32 [rows, columns].
    """
    stored = mask_unused_bits(values, layout)
    precise = np.float64 if layout.bits_allocated == 32 else np.float32
    hu = stored.astype(precise)
    hu *= precise(slope)
    hu += precise(intercept)
    if layout.padding is not None:
        low, high = layout.padding
        # Old GE images pad with a value that only Bits Allocated can hold; then the unused bits are part of
        # it.
        padded = stored if _fits(low, layout) and _fits(high, layout) else values
        hu[(padded >= low) & (padded <= high)] = HU_MIN
    np.clip(hu, HU_MIN, HU_MAX, out=hu)
    return hu.astype(np.float32, copy=False)


def mask_unused_bits(values: NDArray[Any], layout: PixelLayout) -> NDArray[Any]:
    """Keep the low Bits Stored bits, and extend the sign of signed values.

    The bits above them may hold anything, such as overlay planes in old files (PS3.5 8.1.1).
    """
    unused = layout.bits_allocated - layout.bits_stored
    if unused == 0:
        return values
    kind = f"{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}"
    native = values.astype(kind)  # numpy shifts signed integers arithmetically
    return (native << unused) >> unused


def _fits(value: int, layout: PixelLayout) -> bool:
    if layout.signed:
        half = 1 << (layout.bits_stored - 1)
        return -half <= value < half
    return 0 <= value < 1 << layout.bits_stored
