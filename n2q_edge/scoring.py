"""From one slice and its quality map to numbers: body mask, scores, dose level, model-free noise.

Everything here is per slice and needs no model. Nothing is invented: without a body, or with too little soft
tissue, the number is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]
Spacing: TypeAlias = "tuple[float, float] | None"
"""Row and column spacing in mm; None where the file has none."""

QUALITY_THRESHOLD = 0.5
"""`Quality.below_threshold` is the fraction of body pixels whose predicted SSIM is lower than this."""

BODY_HU = -400.0  # between lung/air and fat
MIN_BODY_MM2 = 1000.0  # a disk of 36 mm: the top of a head has more
TYPICAL_SPACING = (0.7, 0.7)  # mm; only to judge whether a body is big enough in a file without spacing
COARSE_CELLS = 128  # the body is found on a grid of about this many cells a side

HISTOGRAM_BINS = 20  # of `Quality.histogram`

SOFT_TISSUE_HU = (0.0, 170.0)
NOISE_PATCH_MM = 6.0
NOISE_STRIDE = 2
MIN_SOFT_TISSUE_MM2 = 1000.0
NOISE_BIN_EDGES = np.geomspace(0.1, 1000.0, 461)  # HU; every bin is 2 % wide
NOISE_SMOOTHING_BINS = 4.0  # standard deviation of the smoothing, 8 %


@dataclass(frozen=True)
class Quality:
    """Predicted SSIM over the body mask of one slice.

    Attributes:
        mean: mean SSIM.
        p05: 5th percentile.
        below_threshold: fraction of body pixels below `QUALITY_THRESHOLD`.
        histogram: body pixels in `HISTOGRAM_BINS` equal bins from 0 to 1, so that other thresholds can be
            asked later.
    """

    mean: float
    p05: float
    below_threshold: float
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Dose:
    """The dose a slice looks like.

    Attributes:
        level: most probable level, percent of full dose.
        probabilities: of every level of the model, in its order; they sum to 1.
    """

    level: float
    probabilities: tuple[float, ...]


def body_mask(hu: FloatArray, pixel_spacing_mm: Spacing) -> BoolArray:
    """The patient, with lungs and bowel gas, without the table.

    Found on a coarse grid of block means: threshold at `BODY_HU`, opening (which removes the thin shell of a
    table), the largest connected component, holes filled. The outline is then drawn at full resolution.

    Args:
        hu: [H,W], Hounsfield units.
        pixel_spacing_mm: row and column spacing.

    Returns:
        Bool [H,W]; all False where no body of at least `MIN_BODY_MM2` is found.
    """
    height, width = hu.shape
    block = max(1, min(height, width) // COARSE_CELLS)
    dense = _block_means(hu, block) > BODY_HU
    if block > 1 or min(height, width) >= COARSE_CELLS // 2:
        dense = _opened(dense)
    labels, count = ndimage.label(dense)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool)
    largest = np.bincount(labels.ravel())[1:].argmax() + 1
    body = _filled(labels == largest)
    # In the body everything counts, on its outline what is dense, outside nothing.
    limit = np.where(body, np.where(_eroded(body), -np.inf, BODY_HU), np.inf).astype(np.float32)
    mask: BoolArray = hu > _enlarge(limit, block, hu.shape)
    return (
        mask
        if _area_mm2(mask, pixel_spacing_mm or TYPICAL_SPACING) >= MIN_BODY_MM2
        else np.zeros(hu.shape, dtype=bool)
    )


def _opened(cells: BoolArray) -> BoolArray:
    """Binary opening by 3x3; beyond the edge is what is at the edge."""
    grid = np.pad(cells, 1, mode="edge")
    eroded = np.zeros_like(grid)
    rows = grid[:-2] & grid[1:-1] & grid[2:]
    eroded[1:-1, 1:-1] = rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]
    rows = eroded[:-2] | eroded[1:-1] | eroded[2:]
    opened: BoolArray = rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]
    return opened


def _eroded(cells: BoolArray) -> BoolArray:
    """Cells whose four neighbours are set, too; beyond the edge all are."""
    inner: BoolArray = cells.copy()
    inner[1:] &= cells[:-1]
    inner[:-1] &= cells[1:]
    inner[:, 1:] &= cells[:, :-1]
    inner[:, :-1] &= cells[:, 1:]
    return inner


def _filled(cells: BoolArray) -> BoolArray:
    """Cells and the holes in them: what cannot be reached from outside."""
    labels, _ = ndimage.label(np.pad(~cells, 1, constant_values=True))
    filled: BoolArray = labels[1:-1, 1:-1] != labels[0, 0]
    return filled


def quality_scores(quality_map: FloatArray, mask: BoolArray, *, histogram: bool = True) -> Quality | None:
    """Scores of a quality map [H,W] within a mask [H,W]; None where the mask is empty."""
    values = quality_map[mask]
    if values.size == 0:
        return None
    fifth = int(0.05 * (values.size - 1))  # of the sorted values
    return Quality(
        mean=float(values.mean(dtype=np.float64)),
        p05=float(_sorted_at(values, fifth, fifth)[0]),
        below_threshold=float(np.count_nonzero(values < QUALITY_THRESHOLD) / values.size),
        histogram=_histogram(values) if histogram else (),
    )


def _histogram(values: FloatArray) -> tuple[int, ...]:
    """Counts in equal bins from 0 to 1; what lies outside is in the first or the last."""
    bins = values * np.float32(HISTOGRAM_BINS)
    np.clip(bins, 0, HISTOGRAM_BINS - 1, out=bins)
    return tuple(np.bincount(bins.astype(np.intp), minlength=HISTOGRAM_BINS).tolist())


def _sorted_at(values: FloatArray, first: int, last: int) -> FloatArray:
    """`np.sort(values)[first : last + 1]`, at a fifth of the price of `np.partition`.

    A sample says between which limits they lie; only what is between them is sorted.
    """
    step = 32
    sample = np.sort(values[::step])
    margin = 2 + int(2 * np.sqrt(sample.size))  # four standard deviations of a random sample's median
    low = sample[max(0, first // step - margin)]
    high = sample[min(sample.size - 1, last // step + margin)]
    below = int(np.count_nonzero(values < low))
    between = values[(values >= low) & (values <= high)]
    if not below <= first <= last < below + between.size:  # the sample was no good
        below, between = 0, values
    between = np.partition(between, (first - below, last - below))
    return between[first - below : last - below + 1]


def dose_scores(probabilities: FloatArray, dose_levels: tuple[float, ...]) -> Dose:
    """The dose from class probabilities [K] and the levels [K] as fractions of full dose."""
    return Dose(
        level=to_percent(dose_levels[int(probabilities.argmax())]),
        probabilities=tuple(float(p) for p in probabilities),
    )


def soft_tissue(hu: FloatArray, mask: BoolArray) -> BoolArray:
    """The pixels [H,W] of a body mask [H,W] whose HU [H,W] is that of soft tissue."""
    soft: BoolArray = mask & (hu >= SOFT_TISSUE_HU[0]) & (hu <= SOFT_TISSUE_HU[1])
    return soft


def model_noise(noise_map: FloatArray, mask: BoolArray) -> float | None:
    """Median in HU of a model's own noise map [H,W] over a mask [H,W]; None where it is empty."""
    values = noise_map[mask]
    return float(_sorted_at(values, (values.size - 1) // 2, values.size // 2).mean()) if values.size else None


def to_percent(fraction: float) -> float:
    """A fraction in percent, without the last bits' rounding (0.07 -> 7.0, not 7.000000000000001)."""
    return round(fraction * 100, 6)


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
    if pixel_spacing_mm is None or _area_mm2(soft, pixel_spacing_mm) < MIN_SOFT_TISSUE_MM2:
        return None
    patch = (_odd(NOISE_PATCH_MM / pixel_spacing_mm[0]), _odd(NOISE_PATCH_MM / pixel_spacing_mm[1]))
    deviation = _soft_tissue_deviations(hu, soft, patch)
    if deviation.size == 0:
        return None
    counts = _noise_histogram(deviation)
    density = ndimage.gaussian_filter1d(
        counts / np.diff(NOISE_BIN_EDGES), NOISE_SMOOTHING_BINS, mode="constant"
    )
    mode = int(density.argmax())
    if mode == 0:
        return 0.0
    pixels = patch[0] * patch[1]
    return float(np.sqrt(NOISE_BIN_EDGES[mode] * NOISE_BIN_EDGES[mode + 1] * (pixels - 1) / (pixels - 2)))


def _noise_histogram(deviations: FloatArray) -> NDArray[np.intp]:
    """Counts between `NOISE_BIN_EDGES`; what lies outside is in the first or the last bin."""
    low, high, count = NOISE_BIN_EDGES[0], NOISE_BIN_EDGES[-1], len(NOISE_BIN_EDGES) - 1
    bins = np.log(deviations.clip(low, high) / low) * (count / np.log(high / low))
    return np.bincount(bins.astype(np.intp).clip(0, count - 1), minlength=count)


def _area_mm2(mask: BoolArray, spacing_mm: tuple[float, float]) -> float:
    return float(np.count_nonzero(mask) * spacing_mm[0] * spacing_mm[1])


def _soft_tissue_deviations(hu: FloatArray, soft: BoolArray, patch: tuple[int, int]) -> FloatArray:
    """Standard deviations (n - 1) of the patches that lie in the image and have a soft-tissue centre.

    Centres are every `NOISE_STRIDE` pixels: neighbouring patches are nearly the same, and this is 4x faster.
    """
    rows, columns = (np.flatnonzero(soft.any(axis=axis)) for axis in (1, 0))
    top, left = (max(0, line[0] - size // 2) for line, size in zip((rows, columns), patch, strict=True))
    bottom, right = (line[-1] + size // 2 + 1 for line, size in zip((rows, columns), patch, strict=True))
    near = hu[top:bottom, left:right] - np.float32(sum(SOFT_TISSUE_HU) / 2)  # keeps the squares small
    if near.shape[0] < patch[0] or near.shape[1] < patch[1]:
        return np.empty(0, dtype=np.float32)
    pixels = patch[0] * patch[1]
    mean = _patch_sums(near, patch) / pixels
    variance = (_patch_sums(near * near, patch) - pixels * mean * mean) / (pixels - 1)
    centres = soft[top + patch[0] // 2 :: NOISE_STRIDE, left + patch[1] // 2 :: NOISE_STRIDE]
    centres = centres[: mean.shape[0], : mean.shape[1]]
    deviations: FloatArray = np.sqrt(np.maximum(variance[centres], 0))
    return deviations


def _patch_sums(image: FloatArray, patch: tuple[int, int]) -> FloatArray:
    """Sums over the patches that fit into `image`, one every `NOISE_STRIDE` pixels."""
    down = _window_sums(image, patch[0])
    across: FloatArray = _window_sums(np.ascontiguousarray(down.T), patch[1]).T
    return across


def _window_sums(image: FloatArray, size: int) -> FloatArray:
    """Sums of `size` neighbouring rows, one every `NOISE_STRIDE` rows."""
    last = image.shape[0] - size + 1
    total: FloatArray = image[0:last:NOISE_STRIDE].copy()
    for offset in range(1, size):
        total += image[offset : last + offset : NOISE_STRIDE]
    return total


def _odd(size: float) -> int:
    """The odd whole number nearest to `size`, at least 3: a patch has a centre pixel."""
    return max(3, 2 * round((size - 1) / 2) + 1)


def _block_means(image: FloatArray, block: int) -> FloatArray:
    """Means of `block` x `block` pixels; an incomplete last row or column is filled by repeating the edge."""
    height, width = image.shape
    if height % block or width % block:
        image = np.pad(image, ((0, -height % block), (0, -width % block)), mode="edge")
    rows = image[0::block].copy()
    for offset in range(1, block):
        rows += image[offset::block]
    cells = rows[:, 0::block].copy()
    for offset in range(1, block):
        cells += rows[:, offset::block]
    means: FloatArray = cells / np.float32(block * block)
    return means


def _enlarge(cells: FloatArray, block: int, shape: tuple[int, int]) -> FloatArray:
    """Repeat every cell `block` x `block` times and cut to `shape`."""
    grown: FloatArray = cells.repeat(block, axis=1).repeat(block, axis=0)[: shape[0], : shape[1]]
    return grown
