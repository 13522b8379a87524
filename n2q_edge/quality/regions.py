"""Quality by tissue: four classes by HU inside the body mask, and scores of any region.

The classes, on the slice smoothed by a 3 mm box so that noise does not decide what a pixel is:

| class | HU | after |
|---|---|---|
| lung | -950 to -500 | the usual range of aerated lung; below is emphysema or gas |
| fat | -190 to -30 | Sjöström 1986, the range of body composition studies |
| soft tissue | -29 to 150 | Mitsiopoulos 1998 (muscle), which covers unenhanced organs |
| bone | 200 and more | above muscle and most enhanced organs; vessels with much iodine count, too |

What lies between (the edge of lung, partial volume, enhanced vessels) is in no class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2q_edge.arrays import TYPICAL_SPACING, BoolArray, Box, FloatArray, Spacing, bounding_box
from n2q_edge.quality.scores import Quality, quality_scores
from n2q_edge.quality.sliding_sums import every_second_row_sums
from n2q_edge.spec import HU_MAX

Masks: TypeAlias = Mapping[str, NDArray[np.bool_]]

TISSUES = {
    "lung": (-950, -500),
    "fat": (-190, -30),
    "soft tissue": (-29, 150),
    "bone": (200, int(HU_MAX)),
}
"""Inclusive HU range of every class, rounded HU."""

SMOOTHING_MM = 3.0
STRIDE = 2
MIN_REGION_MM2 = 100.0
"""A region of a slice that is smaller has no score: a few pixels on an edge say nothing."""


@dataclass(frozen=True, slots=True)
class RegionScore:
    """Quality of one region of one slice.

    Attributes:
        name: a tissue class, or the label of a segment.
        area_mm2: area; of `TYPICAL_SPACING` pixels in a file without spacing.
        quality: predicted SSIM in the region, without a histogram.
    """

    name: str
    area_mm2: float
    quality: Quality


@dataclass(frozen=True)
class RegionSummary:
    """Quality of one region over the slices of a series, weighted by area.

    Attributes:
        name: as in `RegionScore`.
        slices: slices in which the region was scored.
        area_mm2: summed over them.
        mean: mean SSIM.
        below_threshold: fraction of its pixels below `scoring.QUALITY_THRESHOLD`.
        worst: (number of the slice, its mean SSIM) where the region is worst.
    """

    name: str
    slices: int
    area_mm2: float
    mean: float
    below_threshold: float
    worst: tuple[int, float]


def tissue_masks(hu: FloatArray, body: BoolArray, pixel_spacing_mm: Spacing) -> dict[str, BoolArray]:
    """Where each tissue class is.

    Args:
        hu: [H,W], Hounsfield units.
        body: body mask [H,W].
        pixel_spacing_mm: row and column spacing.

    Returns:
        Bool [H/2,W/2] for each class, disjoint, inside the body: on every second pixel of every second row,
        like the patches of the noise level. Predicted SSIM is as smooth as the 11 x 11 windows it is made of.
    """
    spacing = pixel_spacing_mm or TYPICAL_SPACING
    inside = body[::STRIDE, ::STRIDE]
    masks = {name: np.zeros(inside.shape, dtype=bool) for name in TISSUES}
    if inside.any():
        near = bounding_box(inside)
        means = _box_means(hu, near, [max(1, round(SMOOTHING_MM / step)) for step in spacing])
        whole = np.rint(means).astype(np.int16)  # compared twice as fast
        for name, (low, high) in TISSUES.items():
            masks[name][near] = inside[near] & (whole >= low) & (whole <= high)
    return masks


def _box_means(hu: FloatArray, near: Box, box: Sequence[int]) -> FloatArray:
    """Means over `box` pixels around the pixels of `near`; beyond the edge of `hu` is what is at the edge.

    Sums of whole HU are exact in float32, so a mean halfway between two numbers is rounded the same
    everywhere.

    Args:
        hu: [H,W].
        near: counts every second row and column.
        box: height and width.
    """
    cut, beyond = [], []
    for span, size, length in zip(near, box, hu.shape, strict=True):
        first = STRIDE * span.start - size // 2
        stop = STRIDE * (span.stop - 1) - size // 2 + size
        cut.append(slice(max(0, first), stop))
        beyond.append((max(0, -first), max(0, stop - length)))
    seen = hu[tuple(cut)]
    if np.any(beyond):
        seen = np.pad(seen, beyond, mode="edge")
    sums = every_second_row_sums(every_second_row_sums(seen, box[0]).T, box[1]).T
    means: FloatArray = sums / np.float32(box[0] * box[1])
    return means


def region_scores(
    quality_map: FloatArray, masks: Masks, pixel_spacing_mm: Spacing
) -> tuple[RegionScore, ...]:
    """Scores of every region of at least `MIN_REGION_MM2`, in the order of `masks`.

    Args:
        quality_map: [H,W], predicted SSIM.
        masks: bool for each region, [H,W] or (every second pixel and row) [H/2,W/2].
        pixel_spacing_mm: row and column spacing.
    """
    spacing = pixel_spacing_mm or TYPICAL_SPACING
    coarse = np.ascontiguousarray(quality_map[::STRIDE, ::STRIDE])
    scores = []
    for name, mask in masks.items():
        seen, step = (quality_map, 1) if mask.shape == quality_map.shape else (coarse, STRIDE)
        area = float(np.count_nonzero(mask) * step**2 * spacing[0] * spacing[1])
        # A histogram for every region would be a third of what a slice leaves in memory.
        quality = quality_scores(seen, mask, histogram=False) if area >= MIN_REGION_MM2 else None
        if quality:
            scores.append(RegionScore(name, area, quality))
    return tuple(scores)


def summarise_regions(slices: Iterable[tuple[int, Iterable[RegionScore]]]) -> list[RegionSummary]:
    """Every region over the slices of a series, in the order in which the regions first occur.

    Args:
        slices: number and scores of every slice.
    """
    found: dict[str, list[tuple[int, RegionScore]]] = {}
    for number, scores in slices:
        for score in scores:
            found.setdefault(score.name, []).append((number, score))
    return [_summary(name, scores) for name, scores in found.items()]


def _summary(name: str, scores: list[tuple[int, RegionScore]]) -> RegionSummary:
    area = sum(score.area_mm2 for _, score in scores)
    number, worst = min(scores, key=lambda item: item[1].quality.mean)
    return RegionSummary(
        name=name,
        slices=len(scores),
        area_mm2=area,
        mean=sum(score.quality.mean * score.area_mm2 for _, score in scores) / area,
        below_threshold=sum(score.quality.below_threshold * score.area_mm2 for _, score in scores) / area,
        worst=(number, worst.quality.mean),
    )
