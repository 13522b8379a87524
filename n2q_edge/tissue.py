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

from n2q_edge.scoring import TYPICAL_SPACING, BoolArray, FloatArray, Quality, Spacing, quality_scores

Masks: TypeAlias = Mapping[str, NDArray[np.bool_]]

TISSUES = {
    "lung": (-950.0, -500.0),
    "fat": (-190.0, -30.0),
    "soft tissue": (-29.0, 150.0),
    "bone": (200.0, np.inf),
}
"""Inclusive HU range of every class, rounded HU."""

SMOOTHING_MM = 3.0
ROWS_AT_ONCE = 64  # their sums stay in the cache
MIN_REGION_MM2 = 100.0
"""A region of a slice that is smaller has no score: a few pixels on an edge say nothing."""


@dataclass(frozen=True)
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
        worst: (index of the slice among those given, its mean SSIM) where the region is worst.
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
        Bool [H,W] for each class, disjoint, inside the body.
    """
    spacing = pixel_spacing_mm or TYPICAL_SPACING
    smooth = np.rint(_box_means(hu, [max(1, round(SMOOTHING_MM / step)) for step in spacing]))
    return {name: body & (smooth >= low) & (smooth <= high) for name, (low, high) in TISSUES.items()}


def _box_means(hu: FloatArray, box: Sequence[int]) -> FloatArray:
    """Means over `box` pixels around every pixel [H,W]; beyond the edge is what is at the edge.

    Sums of whole HU are exact in float32, so a mean halfway between two numbers is rounded the same
    everywhere.
    """
    width = hu.shape[1]
    margins = [(size // 2, size - size // 2 - 1) for size in box]
    padded = np.pad(hu, margins, mode="edge")
    means = np.empty_like(hu)
    for top in range(0, len(hu), ROWS_AT_ONCE):
        block = means[top : top + ROWS_AT_ONCE]
        rows = padded[top : top + len(block)].copy()
        for offset in range(top + 1, top + box[0]):
            rows += padded[offset : offset + len(block)]
        block[:] = rows[:, :width]
        for offset in range(1, box[1]):
            block += rows[:, offset : offset + width]
    means /= np.float32(box[0] * box[1])
    return means


def region_scores(
    quality_map: FloatArray, masks: Masks, pixel_spacing_mm: Spacing
) -> tuple[RegionScore, ...]:
    """Scores of every region of at least `MIN_REGION_MM2`, in the order of `masks`.

    Args:
        quality_map: [H,W], predicted SSIM.
        masks: bool [H,W] for each region.
        pixel_spacing_mm: row and column spacing.
    """
    spacing = pixel_spacing_mm or TYPICAL_SPACING
    scores = []
    for name, mask in masks.items():
        area = float(np.count_nonzero(mask) * spacing[0] * spacing[1])
        # A histogram for every region would be a third of what a slice leaves in memory.
        quality = quality_scores(quality_map, mask, histogram=False) if area >= MIN_REGION_MM2 else None
        if quality:
            scores.append(RegionScore(name, area, quality))
    return tuple(scores)


def summarise_regions(slices: Iterable[Iterable[RegionScore]]) -> list[RegionSummary]:
    """Every region over the slices of a series, in the order in which the regions first occur."""
    found: dict[str, list[tuple[int, RegionScore]]] = {}
    for index, scores in enumerate(slices):
        for score in scores:
            found.setdefault(score.name, []).append((index, score))
    return [_summary(name, scores) for name, scores in found.items()]


def _summary(name: str, scores: list[tuple[int, RegionScore]]) -> RegionSummary:
    area = sum(score.area_mm2 for _, score in scores)
    index, worst = min(scores, key=lambda item: item[1].quality.mean)
    return RegionSummary(
        name=name,
        slices=len(scores),
        area_mm2=area,
        mean=sum(score.quality.mean * score.area_mm2 for _, score in scores) / area,
        below_threshold=sum(score.quality.below_threshold * score.area_mm2 for _, score in scores) / area,
        worst=(index, worst.quality.mean),
    )
