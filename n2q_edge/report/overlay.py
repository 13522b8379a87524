"""The quality map as colour over its slice: what is good stays grey, what is bad glows.

The colour is matplotlib's inferno, dark at good and bright at bad quality, and its opacity grows with 1 -
SSIM: anatomy stays readable where there is nothing to see, and brightness alone tells good from bad without
colour.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from n2q_edge.assessment.results import SliceImages
from n2q_edge.quality.scores import BoolArray, FloatArray
from n2q_edge.spec import ModelSpec

OPACITY_PER_SSIM, MOST_OPAQUE = 1.4, 0.85
MARGIN = 8  # pixels around the body
MID_GREY = 128
JPEG_QUALITY = 88

Rgb = NDArray[np.uint8]


def grey(hu: FloatArray, spec: ModelSpec) -> NDArray[np.uint8]:
    """HU [H,W] in the model's window as uint8 [H,W]."""
    low = spec.window_center - spec.window_width / 2
    scaled: NDArray[np.uint8] = (((hu - low) / spec.window_width).clip(0, 1) * 255).round().astype(np.uint8)
    return scaled


def overlay(background: NDArray[np.uint8], quality_map: FloatArray, mask: BoolArray) -> Rgb:
    """Colour of a quality map [H,W], SSIM, inside a mask [H,W] over a grey picture [H,W]: uint8 [H,W,3]."""
    from matplotlib import colormaps

    badness = (1 - quality_map).clip(0, 1)
    colour = colormaps["inferno"](0.25 + 0.75 * badness)[..., :3] * 255
    opacity = np.where(mask, np.minimum(OPACITY_PER_SSIM * badness, MOST_OPAQUE), 0)[..., None]
    blended: Rgb = (background[..., None] * (1 - opacity) + colour * opacity).round().astype(np.uint8)
    return blended


def bar_colours(steps: int) -> list[tuple[float, str]]:
    """The colour bar: `steps` SSIM values from 0 to 1, each with its colour over mid-grey as '#rrggbb'."""
    values = np.linspace(0, 1, steps, dtype=np.float32)
    colours = overlay(np.full((1, steps), MID_GREY, np.uint8), values[None], np.ones((1, steps), bool))[0]
    return [
        (float(value), "#{:02x}{:02x}{:02x}".format(*colour))
        for value, colour in zip(values, colours, strict=True)
    ]


def pictures(images: SliceImages, spec: ModelSpec) -> tuple[bytes, bytes]:
    """The slice and its overlay, cut to the body.

    Returns:
        PNG of the slice in the model's window (lossless: its noise is what this is about), JPEG of the
        overlay.
    """
    cut = _around(images.mask)
    background = grey(images.hu[cut], spec)
    coloured = overlay(background, images.quality_map[cut], images.mask[cut])
    return _encoded(background, format="PNG", optimize=True), _encoded(
        coloured, format="JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True
    )


def _around(mask: BoolArray) -> tuple[slice, slice]:
    """The bounding box of a mask that is not empty, with a margin."""
    found = []
    for axis in (1, 0):
        line = np.flatnonzero(mask.any(axis=axis))
        found.append(slice(max(0, int(line[0]) - MARGIN), int(line[-1]) + 1 + MARGIN))
    return found[0], found[1]


def _encoded(image: NDArray[np.uint8], **options: object) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()
