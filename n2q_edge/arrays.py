"""Arrays of pixels: their types, and the few things that everyone does with them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]
Spacing: TypeAlias = "tuple[float, float] | None"
"""Row and column spacing in mm; None where the file has none."""
Box: TypeAlias = tuple[slice, slice]
"""Rows and columns."""

TYPICAL_SPACING = (0.7, 0.7)  # mm; only to judge whether something is big enough in a file without spacing


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `size`."""
    return -(-size // multiple) * multiple


def area_mm2(mask: BoolArray, spacing_mm: tuple[float, float]) -> float:
    """Area of a mask."""
    return float(np.count_nonzero(mask) * spacing_mm[0] * spacing_mm[1])


def bounding_box(mask: BoolArray, margin: int | tuple[int, int] = 0) -> Box:
    """The rows and columns of a mask [H,W] with anything set, with a margin as far as the image reaches."""
    down, across = (margin, margin) if isinstance(margin, int) else margin
    return _span(np.any(mask, axis=1), down), _span(np.any(mask, axis=0), across)


def _span(line: BoolArray, margin: int) -> slice:
    """From the first to the last that is set."""
    places = np.flatnonzero(line)
    return (
        slice(max(0, int(places[0]) - margin), int(places[-1]) + 1 + margin) if places.size else slice(0, 0)
    )


def block_means(image: FloatArray, block: int) -> FloatArray:
    """Means of `block` x `block` pixels; an incomplete last row or column is filled by repeating the edge."""
    height, width = image.shape
    if height % block or width % block:
        image = np.pad(image, ((0, -height % block), (0, -width % block)), mode="edge")
    rows = image[0::block].copy()
    for offset in range(1, block):
        rows += image[offset::block]
    cells = rows[:, 0::block].copy()
    for offset in range(1, block):
        cells += rows[:, offset::block]
    means: FloatArray = cells / np.float32(block * block)
    return means
