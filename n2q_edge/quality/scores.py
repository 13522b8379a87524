"""From one slice and its quality map to numbers: body mask, scores, dose level, model-free noise.

Everything here is per slice and needs no model. Nothing is invented: without a body, or with too little soft
tissue, the number is None.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.quality.sliding_sums import every_second_row_sums

NO_HISTOGRAM = array("I")  # one for all: empty ones take memory, too

FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]
Spacing: TypeAlias = "tuple[float, float] | None"
"""Row and column spacing in mm; None where the file has none."""
Box: TypeAlias = tuple[slice, slice]
"""Rows and columns."""

QUALITY_THRESHOLD = 0.5
"""`Quality.below_threshold` is the fraction of body pixels whose predicted SSIM is lower than this."""

BODY_HU = -400.0  # between lung/air and fat
MIN_BODY_MM2 = 1000.0  # a disk of 36 mm: the top of a head has more
TYPICAL_SPACING = (0.7, 0.7)  # mm; only to judge whether a body is big enough in a file without spacing
COARSE_CELLS = 128  # the body is found on a grid of about this many cells a side

HISTOGRAM_BINS = 20  # of `Quality.histogram`

SOFT_TISSUE_HU = (0.0, 170.0)
MODEL_STRIDE = 8  # pixels: finer than that no model here tells its noise or its error
_CELLS = np.s_[MODEL_STRIDE // 2 :: MODEL_STRIDE, MODEL_STRIDE // 2 :: MODEL_STRIDE]
NOISE_PATCH_MM = 6.0
NOISE_STRIDE = 2
MIN_SOFT_TISSUE_MM2 = 1000.0
NOISE_BIN_EDGES = np.geomspace(0.1, 1000.0, 461)  # HU; every bin is 2 % wide
NOISE_SMOOTHING_BINS = 4.0  # standard deviation of the smoothing, 8 %


@dataclass(frozen=True, slots=True)
class Quality:
    """Predicted SSIM over the body mask of one slice.

    Attributes:
        mean: mean SSIM.
        p05: 5th percentile.
        below_threshold: fraction of body pixels below `QUALITY_THRESHOLD`.
        histogram: body pixels in `HISTOGRAM_BINS` equal bins from 0 to 1, so that other thresholds can be
            asked later; empty where it was not wanted. An array: 20 objects would be a quarter of what a
            slice leaves in memory.
    """

    mean: float
    p05: float
    below_threshold: float
    histogram: array[int]


@dataclass(frozen=True, slots=True)
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
    dense = block_means(hu, block) > BODY_HU
    if block > 1 or min(height, width) >= COARSE_CELLS // 2:
        dense = _opened(dense)
    mask = np.zeros(hu.shape, dtype=bool)
    labels, count = ndimage.label(dense)
    if count == 0:
        return mask
    body = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    near = bounding_box(body, margin=1)
    body = _filled(body[near])
    rows, columns = (slice(cells.start * block, cells.stop * block) for cells in near)
    found = hu[rows, columns] > BODY_HU
    # In the body everything counts, on its outline what is dense, outside nothing.
    found &= _enlarge(body, block, found.shape)
    found |= _enlarge(_eroded(body), block, found.shape)
    if _area_mm2(found, pixel_spacing_mm or TYPICAL_SPACING) >= MIN_BODY_MM2:
        mask[rows, columns] = found
    return mask


def bounding_box(mask: BoolArray, margin: int | tuple[int, int] = 0) -> Box:
    """The rows and columns of a mask [H,W] with anything set, with a margin as far as the image reaches."""
    down, across = (margin, margin) if isinstance(margin, int) else margin
    return _span(np.any(mask, axis=1), down), _span(np.any(mask, axis=0), across)


def _span(line: BoolArray, margin: int) -> slice:
    """From the first to the last that is set."""
    places = np.flatnonzero(line)
    return (
        slice(max(0, int(places[0]) - margin), int(places[-1]) + 1 + margin) if places.size else slice(0, 0)
    )


def _opened(cells: BoolArray) -> BoolArray:
    """Binary opening by 3x3; beyond the edge is what is at the edge."""
    return ~_eroded(~_eroded(cells, square=True), square=True)


def _eroded(cells: BoolArray, *, square: bool = False) -> BoolArray:
    """Cells whose four neighbours (with `square` all eight) are set, too; beyond the edge all are."""
    inner: BoolArray = cells.copy()
    inner[1:] &= cells[:-1]
    inner[:-1] &= cells[1:]
    across = inner.copy() if square else cells
    inner[:, 1:] &= across[:, :-1]
    inner[:, :-1] &= across[:, 1:]
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
    counts = NO_HISTOGRAM
    if histogram:
        bins = _bins(values)
        found = _counts(bins)
        counts = array("I", found.tolist())
        up_to = found.cumsum()
        at = int(up_to.searchsorted(fifth, side="right"))  # the bin it is in: only that is sorted
        low, fifth = values[bins == at], fifth - int(up_to[at] - found[at])
    else:
        low = values
    return Quality(
        mean=float(values.sum() / values.size),  # numpy sums pairwise: exact to 1e-7
        p05=float(np.partition(low, fifth)[fifth]),
        below_threshold=float(np.count_nonzero(values < QUALITY_THRESHOLD) / values.size),
        histogram=counts,
    )


def _bins(values: FloatArray) -> NDArray[np.uint8]:
    """The bin of every value; what lies outside is in the first or the last."""
    places = values * np.float32(HISTOGRAM_BINS)
    np.clip(places, 0, HISTOGRAM_BINS - 1, out=places)
    bins: NDArray[np.uint8] = places.astype(np.uint8)
    return bins


def _counts(bins: NDArray[np.uint8]) -> NDArray[np.intp]:
    """How often every bin occurs. Two pixels are counted at a time, at half the price."""
    pairs = bins[: bins.size // 2 * 2].view(np.uint16)
    table = np.bincount(pairs, minlength=HISTOGRAM_BINS << 8).reshape(HISTOGRAM_BINS, 256)
    counts: NDArray[np.intp] = table.sum(axis=1) + table.sum(axis=0)[:HISTOGRAM_BINS]
    if bins.size % 2:
        counts[bins[-1]] += 1
    return counts


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


def model_noise(noise_map: FloatArray, hu: FloatArray, mask: BoolArray, cell: int = 1) -> float | None:
    """Median in HU of a model's own noise map over the soft tissue of a body; None without any.

    One pixel of every 8x8 is asked.

    Args:
        noise_map: [H/cell,W/cell], HU.
        hu: [H,W].
        mask: of the body [H,W].
        cell: `ModelSpec.map_cell`.
    """
    values = _at_centers(noise_map, mask, cell)[soft_tissue(hu[_CELLS], mask[_CELLS])]
    return float(np.median(values)) if values.size else None


def _at_centers(coarse: FloatArray, mask: BoolArray, cell: int) -> FloatArray:
    """The values of a map [H/cell,W/cell] at the pixels that `_CELLS` takes of a mask [H,W]."""
    rows, columns = mask[_CELLS].shape
    every = np.s_[MODEL_STRIDE // 2 // cell :: MODEL_STRIDE // cell]
    found: FloatArray = coarse[every, every][:rows, :columns]
    return found


def expected_error(log_variance: FloatArray, mask: BoolArray, cell: int = 1) -> float | None:
    """Root mean square error, in SSIM units, that a model expects of its quality map within a mask.

    Args:
        log_variance: [H/cell,W/cell], log of the variance of the map's error.
        mask: [H,W].
        cell: `ModelSpec.map_cell`.
    """
    inside = _at_centers(log_variance, mask, cell)[mask[_CELLS]]
    return float(np.sqrt(np.exp(inside, dtype=np.float64).mean())) if inside.size else None


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


def _area_mm2(mask: BoolArray, spacing_mm: tuple[float, float]) -> float:
    return float(np.count_nonzero(mask) * spacing_mm[0] * spacing_mm[1])


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


def block_means(image: FloatArray, block: int) -> FloatArray:
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


def _enlarge(cells: BoolArray, block: int, shape: tuple[int, int]) -> BoolArray:
    """Repeat every cell `block` x `block` times and cut to `shape`."""
    grown: BoolArray = cells.repeat(block, axis=1).repeat(block, axis=0)[: shape[0], : shape[1]]
    return grown
