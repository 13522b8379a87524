"""How noisy a slice is: measured without a model, and whether a model's own noise map agrees.

Nothing is invented: with too little soft tissue the noise is None.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.arrays import BoolArray, FloatArray, Spacing, area_mm2, bounding_box
from n2q_edge.quality.sliding_sums import every_second_row_sums

SOFT_TISSUE_HU = (0.0, 170.0)
MODEL_STRIDE = 8  # pixels: finer than that no model here tells its noise or its error
CELL_CENTERS = np.s_[MODEL_STRIDE // 2 :: MODEL_STRIDE, MODEL_STRIDE // 2 :: MODEL_STRIDE]
NOISE_PATCH_MM = 6.0
NOISE_STRIDE = 2
MIN_SOFT_TISSUE_MM2 = 1000.0
NOISE_BIN_EDGES = np.geomspace(0.1, 1000.0, 461)  # HU; every bin is 2 % wide
NOISE_SMOOTHING_BINS = 4.0  # standard deviation of the smoothing, 8 %

NOISE_DISAGREEMENT = "noise_disagreement"
"""Flag of a slice in which the two differ by more than `NOISE_RATIO_LIMIT`."""

NOISE_RATIO_LIMIT = 1.5
"""Ratio of the two, either way. docs/reference/policy.md says what it was measured on."""

MIN_NOISE_HU = 1.0  # below it both numbers are rounding and smoothing, and their ratio says nothing


def global_noise_level(hu: FloatArray, mask: BoolArray, pixel_spacing_mm: Spacing) -> float | None:
    """Noise of a slice in HU, without a model: the mode of the local standard deviation in soft tissue.

    After Christianson et al., "Automated technique to measure noise in clinical CT examinations", AJR 205:W93
    (2015): the standard deviation in a square patch of 6 mm around every pixel; a histogram over the pixels
    of soft tissue, by HU threshold; its mode, which edges and vessels do not move. Here the pixels are 0 to
    170 HU inside the body mask, and the density (counts per HU) is smoothed by 8 %. For white noise the
    deviation s of n pixels follows a chi distribution, whose mode is sqrt((n - 2) / (n - 1)) of the truth;
    that factor is divided out. As in any local measure, noise much coarser than the patch is not counted.

    Args:
        hu: [H,W], Hounsfield units.
        mask: body mask [H,W].
        pixel_spacing_mm: row and column spacing.

    Returns:
        The noise in HU; 0.0 for an image constant to 0.1 HU; None with less than `MIN_SOFT_TISSUE_MM2` of
        soft tissue, or without a spacing.
    """
    soft = soft_tissue(hu, mask)
    if pixel_spacing_mm is None or area_mm2(soft, pixel_spacing_mm) < MIN_SOFT_TISSUE_MM2:
        return None
    patch = (_odd(NOISE_PATCH_MM / pixel_spacing_mm[0]), _odd(NOISE_PATCH_MM / pixel_spacing_mm[1]))
    near = bounding_box(soft, (patch[0] // 2, patch[1] // 2))
    variances = _soft_tissue_variances(hu[near], soft[near], patch)
    if variances.size == 0:
        return None
    counts = _noise_histogram(variances)
    density = ndimage.gaussian_filter1d(
        counts / np.diff(NOISE_BIN_EDGES), NOISE_SMOOTHING_BINS, mode="constant"
    )
    mode = int(density.argmax())
    if mode == 0:
        return 0.0
    pixels = patch[0] * patch[1]
    return float(np.sqrt(NOISE_BIN_EDGES[mode] * NOISE_BIN_EDGES[mode + 1] * (pixels - 1) / (pixels - 2)))


def _noise_histogram(variances: FloatArray) -> NDArray[np.intp]:
    """Counts of the roots between `NOISE_BIN_EDGES`; what lies outside is in the first or the last bin."""
    low, high, count = NOISE_BIN_EDGES[0], NOISE_BIN_EDGES[-1], len(NOISE_BIN_EDGES) - 1
    bins = np.log(variances.clip(low**2, high**2))
    bins -= np.float32(np.log(low**2))
    bins *= np.float32(count / np.log(high**2 / low**2))
    return np.bincount(bins.astype(np.intp).clip(0, count - 1), minlength=count)


def _soft_tissue_variances(hu: FloatArray, soft: BoolArray, patch: tuple[int, int]) -> FloatArray:
    """Variances (n - 1) of the patches that lie in the image and have a soft-tissue centre.

    Centres are every `NOISE_STRIDE` pixels: neighbouring patches are nearly the same, and this is 4x faster.
    """
    if hu.shape[0] < patch[0] or hu.shape[1] < patch[1]:
        return np.empty(0, dtype=np.float32)
    near = np.subtract(hu, sum(SOFT_TISSUE_HU) / 2, dtype=np.float32)  # keeps the squares small
    pixels = np.float32(patch[0] * patch[1])
    total = _patch_sums(near, patch)
    squares = _patch_sums(near * near, patch)
    variance: FloatArray = (squares - total * total / pixels) / (pixels - np.float32(1))
    centres = soft[patch[0] // 2 :: NOISE_STRIDE, patch[1] // 2 :: NOISE_STRIDE]
    centres = centres[: total.shape[0], : total.shape[1]]
    found: FloatArray = variance[centres]
    return found


def _patch_sums(image: FloatArray, patch: tuple[int, int]) -> FloatArray:
    """Sums over the patches that fit into `image`, one every `NOISE_STRIDE` pixels."""
    across: FloatArray = every_second_row_sums(every_second_row_sums(image, patch[0]).T, patch[1]).T
    return across


def _odd(size: float) -> int:
    """The odd whole number nearest to `size`, at least 3: a patch has a centre pixel."""
    return max(3, 2 * round((size - 1) / 2) + 1)


def soft_tissue(hu: FloatArray, mask: BoolArray) -> BoolArray:
    """The pixels [H,W] of a body mask [H,W] whose HU [H,W] is that of soft tissue."""
    soft: BoolArray = mask & (hu >= SOFT_TISSUE_HU[0]) & (hu <= SOFT_TISSUE_HU[1])
    return soft


def model_noise(noise_map: FloatArray, hu: FloatArray, mask: BoolArray, cell: int = 1) -> float | None:
    """Median in HU of a model's own noise map over the soft tissue of a body; None without any.

    One pixel of every 8x8 is asked.

    Args:
        noise_map: [H/cell,W/cell], HU.
        hu: [H,W].
        mask: of the body [H,W].
        cell: `ModelSpec.map_cell`.
    """
    values = at_cell_centers(noise_map, mask, cell)[soft_tissue(hu[CELL_CENTERS], mask[CELL_CENTERS])]
    return float(np.median(values)) if values.size else None


def at_cell_centers(coarse: FloatArray, mask: BoolArray, cell: int) -> FloatArray:
    """The values of a map [H/cell,W/cell] at the pixels that `CELL_CENTERS` takes of a mask [H,W]."""
    rows, columns = mask[CELL_CENTERS].shape
    every = np.s_[MODEL_STRIDE // 2 // cell :: MODEL_STRIDE // cell]
    found: FloatArray = coarse[every, every][:rows, :columns]
    return found


def noise_disagrees(measured_hu: float | None, model_hu: float | None) -> bool:
    """Whether the noise measured in soft tissue and the model's noise there contradict one another.

    Args:
        measured_hu: global noise level (`global_noise_level`); None if it could not be measured.
        model_hu: median of the model's noise map in soft tissue; None if it gives none.
    """
    if measured_hu is None or model_hu is None:
        return False
    low, high = sorted((max(measured_hu, MIN_NOISE_HU), max(model_hu, MIN_NOISE_HU)))
    return high > NOISE_RATIO_LIMIT * low
