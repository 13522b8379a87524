"""Maps on a model's coarse grid as one value a pixel, for whoever draws or needs pixels."""

from __future__ import annotations

import numpy as np

from n2q_edge.arrays import FloatArray


def enlarge(cells: FloatArray, cell: int) -> FloatArray:
    """Linear interpolation between the centers of cells: [...,h,w] becomes [...,h*cell,w*cell].

    Beyond the outermost centers the outermost values go on.
    """
    if cell == 1:
        return cells
    return _along(_along(cells, cell, -2), cell, -1)


def _along(cells: FloatArray, cell: int, axis: int) -> FloatArray:
    count = cells.shape[axis]
    place = ((np.arange(count * cell) + 0.5) / cell - 0.5).clip(0, count - 1)
    low = place.astype(np.intp)
    high = np.minimum(low + 1, count - 1)
    share = (place - low).astype(np.float32)
    if axis == -2:
        share = share[:, None]
    first, second = cells.take(low, axis), cells.take(high, axis)
    enlarged: FloatArray = first + share * (second - first)
    return enlarged
