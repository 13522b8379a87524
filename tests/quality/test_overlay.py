"""Quality as color: good tissue stays gray, worse tissue gets more color, and every picture uses the same."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from n2q_edge.quality.overlay import (
    FULL_SSIM,
    GOOD_SSIM,
    MID_GRAY,
    PALETTE,
    bar_colors,
    draw_bar,
    gray,
    overlay,
)

ALL_GRAYS = np.arange(256, dtype=np.uint8)[None]


def colored(quality: float, background: np.ndarray = ALL_GRAYS) -> np.ndarray:
    return overlay(
        background, np.full(background.shape, quality, np.float32), np.ones(background.shape, bool)
    )


@pytest.mark.parametrize("quality", [1.0, 0.95, GOOD_SSIM + 0.002])
def test_good_tissue_stays_as_gray_as_it_was(quality: float) -> None:
    assert (colored(quality) == ALL_GRAYS[..., None]).all()


def test_the_worse_the_more_color() -> None:
    """Chroma (largest less smallest of R, G, B) over mid-gray rises from nothing until the color is full."""
    background = np.full((1, 1), MID_GRAY, np.uint8)
    pixels = [colored(float(ssim), background)[0, 0] for ssim in np.linspace(GOOD_SSIM, FULL_SSIM, 30)]
    chroma = [int(pixel.max()) - int(pixel.min()) for pixel in pixels]
    assert chroma == sorted(chroma)
    assert (chroma[0], chroma[-1] > 100) == (0, True)


def test_the_worst_is_the_brightest_so_no_color_vision_is_needed() -> None:
    """Rec. 709 luma over mid-gray: SSIM 0.5, 0.25 and 0 are one brighter than the other."""
    background = np.full((1, 1), MID_GRAY, np.uint8)
    luma = [
        float(colored(quality, background)[0, 0] @ [0.2126, 0.7152, 0.0722]) for quality in (0.5, 0.25, 0)
    ]
    assert luma == sorted(luma)
    assert luma[-1] > MID_GRAY + 60


def test_nothing_is_laid_over_what_is_not_the_body() -> None:
    background = np.full((2, 2), 100, np.uint8)
    body = np.array([[True, False], [False, False]])
    picture = overlay(background, np.zeros((2, 2), np.float32), body)
    assert (picture[~body] == 100).all()
    assert (picture[body] != 100).any()


def test_the_palette_is_inferno_without_its_darkest_quarter() -> None:
    inferno = pytest.importorskip("matplotlib").colormaps["inferno"]
    anchors = inferno(np.linspace(0.25, 1, len(PALETTE)))[:, :3] * 255
    assert np.abs(np.array(PALETTE) - anchors).max() <= 1


def test_window() -> None:
    """40/300: -110 HU is black, 190 HU white, 40 HU the middle."""
    hu = np.array([[-1000, -110, 40, 190, 3000]], np.float32)
    assert gray(hu, (40.0, 300.0)).tolist() == [[0, 0, 128, 255, 255]]


def test_the_bar_shows_the_colors_of_the_overlay() -> None:
    values = [value for value, _ in bar_colors(5)]
    colors = [color for _, color in bar_colors(5)]
    background = np.full((1, 1), MID_GRAY, np.uint8)
    assert values == [0, 0.25, 0.5, 0.75, 1]
    assert colors == ["#{:02x}{:02x}{:02x}".format(*colored(value, background)[0, 0]) for value in values]
    assert colors[-1] == "#808080"


def test_the_drawn_bar_is_gray_at_its_good_end_and_glows_at_its_bad_end() -> None:
    image = Image.new("RGB", (200, 120))
    draw_bar(ImageDraw.Draw(image), (180, 10, 190, 110), 12)
    column = np.asarray(image)[10:110, 185]
    assert column[0].tolist() == [MID_GRAY] * 3
    assert column[-1].tolist() == colored(0, np.full((1, 1), MID_GRAY, np.uint8))[0, 0].tolist()
    assert np.asarray(image)[:, :175].any()  # the words
