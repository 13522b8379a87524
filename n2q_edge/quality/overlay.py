"""The quality map as color over its slice: the one renderer of report, pictures and DICOM overlay.

Good tissue stays as gray as it was; the worse the predicted quality, the more color is laid over it and the
brighter it glows. Brightness alone tells good from bad, so it can be read without telling colors apart.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from n2q_edge.arrays import BoolArray, FloatArray

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

# Upper three quarters of matplotlib's inferno (CC0; S. van der Walt and N. Smith), perceptually uniform.
PALETTE = (
    (87, 16, 110), (125, 30, 109), (163, 44, 97), (199, 62, 76), (228, 90, 49),
    (246, 128, 19), (252, 172, 17), (245, 219, 76), (252, 255, 164),
)  # fmt: skip
"""RGB from SSIM 1 to SSIM 0, evenly spaced."""

GOOD_SSIM = 0.9
"""From here up tissue stays gray."""

FULL_SSIM, MOST_OPAQUE = 0.35, 0.6
"""From here down the color has its greatest opacity; anatomy still shines through."""

MID_GRAY = 128

Gray = NDArray[np.uint8]
Rgb = NDArray[np.uint8]


def gray(hu: FloatArray, window: tuple[float, float]) -> Gray:
    """HU [H,W] in a window (center, width) as uint8 [H,W]."""
    center, width = window
    scaled: Gray = (((hu - (center - width / 2)) / width).clip(0, 1) * 255).round().astype(np.uint8)
    return scaled


def overlay(background: Gray, quality_map: FloatArray, body: BoolArray) -> Rgb:
    """A quality map as color over a gray picture.

    Args:
        background: uint8 [H,W].
        quality_map: [H,W], predicted SSIM.
        body: [H,W]; color is laid over these pixels only.

    Returns:
        uint8 [H,W,3], RGB.
    """
    picture = np.repeat(background[..., None], 3, axis=2)
    steps = (quality_map[body] * 255).clip(0, 255).round().astype(np.uint8)
    picture[body] = _blends()[steps, background[body]]
    return picture


def bar_colors(steps: int) -> list[tuple[float, str]]:
    """The color bar: `steps` SSIM values from 0 to 1, each with its color over mid-gray as '#rrggbb'."""
    values = np.linspace(0, 1, steps)
    return [
        (float(value), "#{:02x}{:02x}{:02x}".format(*color))
        for value, color in zip(values, _bar(values), strict=True)
    ]


def draw_bar(draw: ImageDraw, box: tuple[int, int, int, int], size: float) -> None:
    """Draw the color bar into a picture, upright, with words that say which end is bad.

    Args:
        draw: of an RGB picture.
        box: left, top, right and bottom of the bar, pixels; the words are left of it.
        size: of the words, pixels.
    """
    left, top, right, bottom = box
    rows = _bar(np.linspace(1, 0, bottom - top))
    for row, color in enumerate(rows.tolist(), start=top):
        draw.line((left, row, right - 1, row), fill=tuple(color))
    for ssim, word in ((1, "SSIM 1 good"), (0.5, "0.5"), (0, "0 bad")):
        place = (left - size / 2, bottom - (bottom - top) * ssim)
        draw_text(draw, place, word, size, anchor="rm")


def draw_text(
    draw: ImageDraw, place: tuple[float, float], text: str, size: float, anchor: str = "la"
) -> None:
    """Draw white words with a black rim, readable on tissue and on air."""
    draw.text(place, text, fill="white", font_size=size, anchor=anchor, stroke_width=1, stroke_fill="black")


def _bar(quality: NDArray[np.floating]) -> Rgb:
    """The colors [N,3] of SSIM values [N] over mid-gray."""
    colors: Rgb = _blends()[(quality * 255).round().astype(np.uint8), MID_GRAY]
    return colors


@lru_cache(maxsize=1)
def _blends() -> Rgb:
    """The color [256,256,3] of every SSIM, 0 to 1, over every gray."""
    quality = np.linspace(0, 1, 256, dtype=np.float32)
    places = np.linspace(1, 0, len(PALETTE))  # np.interp wants them ascending
    anchors = np.asarray(PALETTE, np.float32)
    color = np.stack([np.interp(quality, places[::-1], anchors[::-1, part]) for part in range(3)], axis=1)
    opacity = ((GOOD_SSIM - quality) / (GOOD_SSIM - FULL_SSIM)).clip(0, 1) * MOST_OPAQUE
    grays = np.arange(256, dtype=np.float32)[None, :, None]
    blended = grays * (1 - opacity[:, None, None]) + (color * opacity[:, None])[:, None]
    blends: Rgb = blended.round().astype(np.uint8)
    return blends
