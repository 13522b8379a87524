"""Tissue classes and scores of regions, on images whose tissues are known."""

from __future__ import annotations

import numpy as np
import pytest

from n2q_edge.quality.regions import TISSUES, region_scores, summarise_regions, tissue_masks

SPACING = (1.0, 1.0)
HU = {"lung": -800, "fat": -100, "soft tissue": 50, "bone": 700}


def quarters() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A 120 x 120 image of four squares, one of each tissue; every second of their pixels more than 2 from an
    edge."""
    image = np.empty((120, 120), np.float32)
    inside = {}
    for (name, hu), (row, column) in zip(HU.items(), ((0, 0), (0, 60), (60, 0), (60, 60)), strict=True):
        image[row : row + 60, column : column + 60] = hu
        mask = np.zeros(image.shape, bool)
        mask[row + 2 : row + 58, column + 2 : column + 58] = True
        inside[name] = mask[::2, ::2]
    return image, inside


def test_every_tissue_is_found_where_it_is_in_spite_of_noise() -> None:
    image, inside = quarters()
    noisy = image + np.random.default_rng(0).normal(0, 30, image.shape).astype(np.float32)
    masks = tissue_masks(noisy, np.ones(image.shape, bool), SPACING)
    assert list(masks) == list(HU)
    for name, mask in masks.items():
        assert mask[inside[name]].mean() > 0.98, name  # 30 HU of noise are 10 HU after the 3 x 3 box
        for other in set(inside) - {name}:
            assert not mask[inside[other]].any(), (name, other)


@pytest.mark.parametrize("shape", [(120, 120), (61, 90), (40, 33)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 0.5), (4.0, 4.0)])
def test_classes_are_those_of_the_means_of_a_box(
    shape: tuple[int, int], spacing: tuple[float, float]
) -> None:
    hu = np.random.default_rng(0).integers(-1024, 400, shape).astype(np.float32)
    hu = np.where(np.arange(shape[1]) % 16 < 8, hu / 8, hu).round().astype(np.float32)
    body = np.zeros(shape, bool)
    body[:-7, 9:] = True
    box = [max(1, round(3 / step)) for step in spacing]
    around = [(size // 2, size - size // 2 - 1) for size in box]
    padded = np.pad(hu, around, mode="edge").astype(np.float64)
    means = np.rint(np.lib.stride_tricks.sliding_window_view(padded, box).mean(axis=(2, 3)))[::2, ::2]
    masks = tissue_masks(hu, body, spacing)
    for name, (low, high) in TISSUES.items():
        np.testing.assert_array_equal(masks[name], body[::2, ::2] & (means >= low) & (means <= high), name)


def test_no_tissue_without_a_body() -> None:
    masks = tissue_masks(np.zeros((40, 40), np.float32), np.zeros((40, 40), bool), SPACING)
    assert not any(mask.any() for mask in masks.values())


def test_nothing_outside_of_the_body_is_tissue() -> None:
    image, _ = quarters()
    body = np.zeros(image.shape, bool)
    body[:, :60] = True
    masks = tissue_masks(image, body, SPACING)
    assert not masks["fat"].any()
    assert not masks["bone"][:, 30:].any()


@pytest.mark.parametrize(
    ("hu", "name"), [(-300, None), (175, None), (-950, "lung"), (-30, "fat"), (-29, "soft tissue")]
)
def test_limits_are_inclusive_and_what_lies_between_is_nothing(hu: float, name: str | None) -> None:
    masks = tissue_masks(np.full((40, 40), hu, np.float32), np.ones((40, 40), bool), SPACING)
    assert [key for key, mask in masks.items() if mask.any()] == ([name] if name else [])


def test_scores_are_those_of_the_pixels_of_the_region() -> None:
    quality = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (100, 1))
    left = np.zeros((100, 100), bool)
    left[:, :50] = True
    small = np.zeros((100, 100), bool)
    small[:9, :9] = True  # 81 mm2 of 1 mm pixels, under the 100 that are scored
    (score,) = region_scores(quality, {"left": left, "small": small}, SPACING)
    assert (score.name, score.area_mm2) == ("left", 5000)
    assert score.quality.mean == pytest.approx(49 / 2 / 99)  # mean of 0 .. 49, by 99
    assert score.quality.below_threshold == 1
    (coarse,) = region_scores(quality, {"left": left[::2, ::2]}, SPACING)
    assert coarse.area_mm2 == 5000  # 50 x 25 pixels that stand for four each
    assert coarse.quality.mean == pytest.approx(48 / 2 / 99)  # of 0, 2, .. 48
    (fine, _) = region_scores(quality, {"left": left, "small": small}, (2.0, 2.0))
    assert fine.area_mm2 == 20000


def test_series_are_weighted_by_area() -> None:
    def scores(value: float, columns: int) -> tuple:
        mask = np.zeros((100, 100), bool)
        mask[:, :columns] = True
        return region_scores(np.full((100, 100), value, np.float32), {"liver": mask}, SPACING)

    (summary,) = summarise_regions([(4, scores(0.9, 30)), (5, ()), (6, scores(0.3, 10))])
    assert (summary.name, summary.slices, summary.area_mm2) == ("liver", 2, 4000)
    assert summary.mean == pytest.approx((0.9 * 30 + 0.3 * 10) / 40)
    assert summary.below_threshold == pytest.approx(10 / 40)
    assert summary.worst == (6, pytest.approx(0.3))
