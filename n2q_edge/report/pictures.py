"""Pictures of one series: its worst slices beside their quality as color, and its charts along z.

Slices are drawn by Pillow, charts are SVG: neither needs a plotting library.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from n2q_edge.arrays import bounding_box
from n2q_edge.assessment.results import SeriesReport, SliceImages, SliceResult
from n2q_edge.quality.domain import OUT_OF_DOMAIN
from n2q_edge.quality.overlay import Rgb, draw_bar, draw_text, gray, overlay
from n2q_edge.report.along import charts_along
from n2q_edge.report.charts import stacked
from n2q_edge.report.text import number
from n2q_edge.spec import ModelSpec

MARGIN = 8  # pixels around the body
GAP = 4  # pixels between the two pictures
JPEG_QUALITY = 88
SMALLEST_WITH_BAR = 128  # pixels a side


def series_charts(report: SeriesReport, spec: ModelSpec) -> Iterator[tuple[str, bytes]]:
    """The charts of a series whose slices have all come: file name and content, SVG.

    Args:
        report: the series.
        spec: of the model.
    """
    charts = stacked(charts_along(report), f"Noise and predicted quality along {_title(report, spec)}")
    yield f"series{report.number:03d}_along.svg", charts.encode("utf-8")


def slice_pictures(
    report: SeriesReport, results: Sequence[SliceResult], spec: ModelSpec
) -> Iterator[tuple[str, bytes]]:
    """Slices of a series: file name, counted and never taken from DICOM values, and content, PNG.

    Args:
        report: the series.
        results: the slices; those without pixels are left out.
        spec: of the model.
    """
    for result in results:
        if result.images is not None:
            z = result.ref.position_mm
            place = "" if z is None else f", z = {number(z, 1)} mm"
            title = f"Slice {result.number} of {_title(report, spec)}{place}"
            name = f"series{report.number:03d}_slice{result.number:04d}.png"
            yield name, slice_picture(result, spec, title)


def _title(report: SeriesReport, spec: ModelSpec) -> str:
    return f"series {report.number}, model {spec.name} {spec.version}"


def slice_picture(result: SliceResult, spec: ModelSpec, title: str) -> bytes:
    """PNG of a slice in the model's window, and of its quality as color over it.

    Args:
        result: with its images.
        spec: of the model, for the window.
        title: what to call the slice.
    """
    from PIL import Image, ImageDraw

    assert result.images is not None
    plain, colored = _pair(result.images, spec, np.s_[:, :])
    height, width = plain.shape
    size = max(11, min(width // 40, 20))
    top = round(3.4 * size)
    picture = Image.new("RGB", (2 * width + GAP, height + top))
    picture.paste(Image.fromarray(plain), (0, top))
    picture.paste(Image.fromarray(colored), (width + GAP, top))
    draw = ImageDraw.Draw(picture)
    draw_text(draw, (size // 2, size // 2), title, size)
    draw_text(draw, (size // 2, round(1.9 * size)), _scores(result, spec), size)
    if min(height, width) >= SMALLEST_WITH_BAR:
        right = picture.width - size // 2
        draw_bar(draw, (right - max(6, width // 40), top + size, right, top + height // 4), size)
    return _encoded(np.asarray(picture), format="PNG", optimize=True)


def page_pictures(images: SliceImages, spec: ModelSpec) -> tuple[bytes, bytes]:
    """A slice and its quality as color over it, cut to the body.

    Returns:
        PNG of the slice in the model's window (lossless: its noise is what this is about), JPEG of the
        overlay.
    """
    plain, colored = _pair(images, spec, bounding_box(images.mask, MARGIN))
    return _encoded(plain, format="PNG", optimize=True), _encoded(
        colored, format="JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True
    )


def _pair(images: SliceImages, spec: ModelSpec, cut: tuple[slice, slice]) -> tuple[NDArray[np.uint8], Rgb]:
    background = gray(images.hu[cut], (spec.window_center, spec.window_width))
    return background, overlay(background, images.quality_map[cut], images.mask[cut])


def _scores(result: SliceResult, spec: ModelSpec) -> str:
    low, high = spec.window_hu
    quality = result.quality
    parts = [] if result.noise_hu is None else [f"noise {number(result.noise_hu, 1)} HU"]
    parts += (
        [f"predicted SSIM mean {quality.mean:.2f}, 5th percentile {quality.p05:.2f}"]
        if quality
        else ["no body found"]
    )
    parts += ["out of domain"] if OUT_OF_DOMAIN in result.flags else []
    return ";  ".join([*parts, f"window {low:.0f} to {high:.0f} HU"])


def _encoded(image: NDArray[np.uint8], **options: object) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()
