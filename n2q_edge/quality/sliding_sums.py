"""Sums over windows that slide over an image, in few passes."""

from __future__ import annotations

from n2q_edge.arrays import FloatArray


def row_sums(image: FloatArray, size: int) -> FloatArray:
    """Sums of every `size` neighbouring rows: [H,W] -> [H-size+1,W].

    Sums of 1, 2, 4, ... rows are put together, so that 9 rows take four additions. For columns give the
    transposed view: numpy walks through memory in its own order, and copies nothing.
    """
    count = len(image) - size + 1
    total: FloatArray | None = None
    done = 0
    part, width = image, 1
    while True:
        if size & width:
            piece = part[done : done + count]
            total = piece if total is None else total + piece
            done += width
        if total is not None and done == size:
            return total
        part = part[:-width] + part[width:]
        width *= 2


def every_second_row_sums(image: FloatArray, size: int) -> FloatArray:
    """`row_sums(image, size)[::2]`, from sums of pairs of rows: half the work."""
    if size == 1:
        return image[::2]
    count = (len(image) - size) // 2 + 1
    pairs = image[0 : len(image) - 1 : 2] + image[1::2]
    total = row_sums(pairs, size // 2)[:count]
    return total + image[size - 1 :: 2] if size % 2 else total
