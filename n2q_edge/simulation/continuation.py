"""Bodies that the field of view cuts off, continued as water.

Rays through the image have crossed what lies beside it too. Left as air, a cut body gives rays along the cut
far too little attenuation, and noise a circular seam. Here the body goes on as the ellipse that its visible
skin suggests (the water-cylinder idea of Hsieh et al., Med Phys 31, 2004, in the image instead of the
projections).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.arrays import FloatArray

Mask: TypeAlias = NDArray[np.bool_]

BODY_HU = -300.0
AIR_HU = -1000.0
BEYOND_HU = -20.0  # water with some fat
EDGE = 3  # pixels: the seam of the field of view
LEAST_CUT = 0.02  # of the seam that is body
FURTHEST = 1.35  # semi-axes of the ellipse, in radii of the field of view
FEWEST_SKIN = 32  # pixels of skin to fit an ellipse to


def continued(hu: FloatArray) -> FloatArray:
    """The slice [H,H] itself or, if it is cut off, a larger one [1.5 H, 1.5 H] with the body going on."""
    field = field_of_view(hu)
    body = hu > BODY_HU
    seam = field & ~ndimage.binary_erosion(field, iterations=EDGE)
    if (body & seam).sum() < LEAST_CUT * seam.sum():
        return hu
    margin = hu.shape[0] // 4
    larger = np.pad(np.where(field, hu, np.float32(AIR_HU)), margin, constant_values=AIR_HU)
    beyond = ~np.pad(field, margin) & _ellipse(_outline(body & field), seam, hu.shape[0], margin)
    larger[beyond] = BEYOND_HU
    return np.asarray(larger, dtype=np.float32)


def field_of_view(hu: FloatArray) -> Mask:
    """Where the scanner reconstructed: the inscribed circle if all outside it is padding, else the square."""
    size = hu.shape[0]
    radius = np.hypot(*(np.mgrid[:size, :size] - (size - 1) / 2))
    circle = radius <= size / 2
    outside = hu[radius > size / 2 + 1]
    if outside.size and float(outside.max()) <= AIR_HU:
        return np.asarray(circle)
    return np.ones_like(circle)


def _outline(body: Mask) -> Mask:
    """The largest connected part, its holes filled."""
    labels, count = ndimage.label(body)
    if count > 1:
        body = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(body))


def _ellipse(body: Mask, seam: Mask, size: int, margin: int) -> Mask:
    """The ellipse through the body's skin where it is visible, on the larger grid."""
    skin = body & ~ndimage.binary_erosion(body) & ~ndimage.binary_dilation(seam, iterations=EDGE)
    radius = size / 2
    center = (size - 1) / 2
    points = (np.argwhere(skin) - center) / radius
    middle, axes = np.zeros(2), np.full(2, FURTHEST)
    if len(points) >= FEWEST_SKIN:
        terms = np.concatenate([points**2, points], axis=1)
        square, linear = np.split(np.linalg.lstsq(terms, np.ones(len(points)), rcond=None)[0], 2)
        square = np.maximum(square, 1e-3)
        middle = np.clip(-linear / (2 * square), -0.5, 0.5)
        axes = np.sqrt((1 + (square * middle**2).sum()) / square)
        axes = np.clip(axes, 0.3, FURTHEST)
    whole = size + 2 * margin
    y, x = (np.mgrid[:whole, :whole] - (whole - 1) / 2) / radius
    return np.asarray(((y - middle[0]) / axes[0]) ** 2 + ((x - middle[1]) / axes[1]) ** 2 < 1)
