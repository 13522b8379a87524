"""Is a slice like those a model was trained on? A few measured features against the limits a model carries.

Each feature is one that a physicist can check by eye: how sharp the noise is, how strong, how big the body,
what it is made of, which pixels and slices the header says. A feature beyond its limits is a reason, in
words. docs/explanation/out-of-domain.md says where the limits come from and what they cannot see.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from n2q_edge.arrays import TYPICAL_SPACING, BoolArray, FloatArray, Spacing, block_means, bounding_box
from n2q_edge.spec import FeatureLimits

OUT_OF_DOMAIN = "out_of_domain"
"""Flag of a slice with at least one feature that the model's training data did not have."""

BLOCK = 4  # pixels a side: small against organs, large enough that noise does not decide what a block is
TISSUE_HU = {
    "lung": (-math.inf, -500.0),
    "fat": (-190.0, -30.0),
    "soft_tissue": (-30.0, 150.0),
    "dense_bone": (500.0, math.inf),
    "metal": (2000.0, math.inf),
}
"""From and below, HU of a block. Lung (with gas), fat and soft tissue are near the classes of `tissue`; dense
bone is what skulls have and a trunk has little of, and includes metal."""

TILE = 2 * BLOCK  # pixels a side: noise is measured in tiles
FLAT_HU = (-150.0, 150.0)  # fat and soft tissue
FLAT_SHARE = 0.25  # of the tiles, the flattest: edges and vessels are in the others
MOST_TILES = 600  # more would take longer and tell no more
FEWEST_TILES = 32
MOST_REASONS = 3  # that a sentence about a series names
MIN_NOISE_HU = 0.1  # what `quality.noise.global_noise_level` resolves


@dataclass(frozen=True)
class Feature:
    """How a feature is called and compared.

    Attributes:
        noun: its name in a sentence.
        low: code of a value below the limits; None if little of it is never strange.
        high: code of a value above them.
        unit: what it is shown in; `%` for a share of the body.
        digits: decimals shown.
        ratio: values are compared by ratio, not by difference.
        header: a fact of the header, not of the pixels.
    """

    noun: str
    low: str | None
    high: str
    unit: str = ""
    digits: int = 2
    ratio: bool = False
    header: bool = False

    def show(self, *values: float) -> str:
        """One value or a range with its unit: `0.05`, `1 to 8 mm`."""
        scale = 100 if self.unit == "%" else 1
        texts = [f"{round(scale * value, self.digits) + 0.0:.{self.digits}f}" for value in values]  # no -0
        texts = [text.rstrip("0").rstrip(".") if "." in text else text for text in texts]
        return " to ".join(dict.fromkeys(texts)) + (f" {self.unit}" if self.unit else "")


FEATURES = {
    "noise_correlation": Feature("noise correlation", "sharp_kernel", "smooth_kernel"),
    "noise_hu": Feature("noise", "little_noise", "much_noise", "HU", 1, ratio=True),
    "diameter_mm": Feature("body diameter", "small_body", "large_body", "mm", 0, ratio=True),
    "width_to_depth": Feature("body width over depth", "narrow_body", "wide_body", ratio=True),
    "lung": Feature("lung and gas", None, "much_lung", "%", 0),
    "fat": Feature("fat", "little_fat", "much_fat", "%", 0),
    "soft_tissue": Feature("soft tissue", "little_soft_tissue", "much_soft_tissue", "%", 0),
    "dense_bone": Feature("dense bone", None, "much_bone", "%", 0),
    "metal": Feature("metal", None, "much_metal", "%", 1),
    "pixel_mm": Feature("pixel spacing", "small_pixels", "large_pixels", "mm", 2, ratio=True, header=True),
    "slice_mm": Feature("slice thickness", "thin_slice", "thick_slice", "mm", 2, ratio=True, header=True),
}
"""All features. A spec may know fewer, and names this version does not know are left out."""

Features: TypeAlias = dict[str, float]
"""The features of one slice, by name; what could not be measured is absent."""


@dataclass(frozen=True)
class Deviation:
    """Why one slice is unlike the training data.

    Attributes:
        code: what is strange, of `FEATURES`.
        feature: name of the feature.
        value: its value in this slice.
        training: lowest and highest value the model was trained on.
    """

    code: str
    feature: str
    value: float
    training: tuple[float, float]

    @property
    def text(self) -> str:
        """The reason for people, e.g. `sharp kernel: noise correlation 0.05, training 0.22 to 0.59`."""
        feature = FEATURES[self.feature]
        return (
            f"{_title(self.code)}: {feature.noun} {feature.show(self.value)}, "
            f"training {feature.show(*self.training)}"
        )


@dataclass(frozen=True)
class DeviationSummary:
    """One reason over the slices of a series.

    Attributes:
        code: as in `Deviation`.
        feature: as in `Deviation`.
        slices: slices it holds for.
        values: lowest and highest value in them.
        training: as in `Deviation`.
    """

    code: str
    feature: str
    slices: int
    values: tuple[float, float]
    training: tuple[float, float]

    @property
    def text(self) -> str:
        """The reason for people, without the number of slices."""
        return f"{_title(self.code)} ({self.detail})"

    @property
    def detail(self) -> str:
        """What was measured and what was trained on."""
        feature = FEATURES[self.feature]
        return f"{feature.noun} {feature.show(*self.values)}, training {feature.show(*self.training)}"


def deviations(features: Features, domain: Mapping[str, FeatureLimits]) -> tuple[Deviation, ...]:
    """The features that lie beyond the limits of a domain, in the order of `FEATURES`."""
    found = []
    for name, feature in FEATURES.items():
        if name not in features or name not in domain:
            continue
        value, known = features[name], domain[name]
        code = None
        if value < known.limits[0]:
            code = feature.low
        elif value > known.limits[1]:
            code = feature.high
        if code:
            found.append(Deviation(code, name, value, known.training))
    return tuple(found)


def summarise_deviations(slices: Iterable[Iterable[Deviation]]) -> list[DeviationSummary]:
    """The reasons over the slices of a series, the most frequent first."""
    found: dict[str, list[Deviation]] = {}
    for one in slices:
        for deviation in one:
            found.setdefault(deviation.code, []).append(deviation)
    summaries = [
        DeviationSummary(
            code,
            group[0].feature,
            len(group),
            (min(each.value for each in group), max(each.value for each in group)),
            group[0].training,
        )
        for code, group in found.items()
    ]
    return sorted(summaries, key=lambda summary: -summary.slices)


def series_text(slices: Sequence[Sequence[Deviation] | None]) -> str | None:
    """One sentence about a series for people, e.g.

    `12 of 25 slices are out of domain: sharp kernel (noise correlation 0.07 to 0.16, training
    0.22 to 0.59)`. None if no slice is.

    Args:
        slices: the deviations of every slice; None where the model cannot tell.
    """
    strange = [each for each in slices if each]
    if not strange:
        return None
    reasons = summarise_deviations(strange)
    counted = len(strange) > 1 and len(reasons) > 1
    texts = [
        f"{_title(each.code)} in {each.slices} ({each.detail})" if counted else each.text
        for each in reasons[:MOST_REASONS]
    ]
    if len(reasons) > MOST_REASONS:
        texts.append(f"and {len(reasons) - MOST_REASONS} more")
    verb = "is" if len(strange) == 1 else "are"
    return f"{len(strange)} of {len(slices)} slices {verb} out of domain: {', '.join(texts)}"


def _title(code: str) -> str:
    return code.replace("_", " ")


# ----------------------------------------------------------------------------------------------- measurement


def measure(
    hu: FloatArray,
    body: BoolArray,
    pixel_spacing_mm: Spacing,
    slice_thickness_mm: float | None,
    noise_hu: float | None,
) -> Features:
    """The features of one slice, in about half the time of its body mask.

    Args:
        hu: [H,W], Hounsfield units.
        body: body mask [H,W]; without a body there are no features.
        pixel_spacing_mm: row and column spacing.
        slice_thickness_mm: Slice Thickness of the header.
        noise_hu: `quality.noise.global_noise_level` of the slice.
    """
    if not body.any():
        return {}
    box = bounding_box(body)
    features = _geometry(box, int(np.count_nonzero(body)), pixel_spacing_mm)
    if slice_thickness_mm:
        features["slice_mm"] = slice_thickness_mm
    if noise_hu is not None:
        features["noise_hu"] = max(noise_hu, MIN_NOISE_HU)
    # Whole tiles around the body: nothing else is looked at.
    tiles = tuple(
        slice(side.start // TILE * TILE, min(-(-side.stop // TILE), size // TILE) * TILE)
        for side, size in zip(box, hu.shape, strict=True)
    )
    hu, body = hu[tiles], body[tiles]
    if hu.size == 0:
        return features
    blocks = block_means(hu, BLOCK)
    inside = body[1::BLOCK, 1::BLOCK] & body[2::BLOCK, 2::BLOCK]
    features |= _tissue_shares(blocks[inside])
    correlation = _noise_correlation(hu, blocks, inside)
    if correlation is not None:
        features["noise_correlation"] = correlation
    return features


def _geometry(box: tuple[slice, slice], pixels: int, pixel_spacing_mm: Spacing) -> Features:
    """Size and shape of a body of so many pixels in a box of rows and columns."""
    spacing = pixel_spacing_mm or TYPICAL_SPACING
    depth, width = ((side.stop - side.start) * step for side, step in zip(box, spacing, strict=True))
    features = {"width_to_depth": width / depth}
    if pixel_spacing_mm is not None:
        pixel_mm2 = spacing[0] * spacing[1]
        features["pixel_mm"] = math.sqrt(pixel_mm2)
        features["diameter_mm"] = 2 * math.sqrt(pixels * pixel_mm2 / math.pi)
    return features


def _tissue_shares(blocks: FloatArray) -> Features:
    """Which share of the body's blocks [N], HU, each tissue is; none in a body without a block."""
    if blocks.size == 0:
        return {}
    return {
        name: float(np.count_nonzero((blocks >= low) & (blocks < high)) / blocks.size)
        for name, (low, high) in TISSUE_HU.items()
    }


def _noise_correlation(hu: FloatArray, blocks: FloatArray, inside: BoolArray) -> float | None:
    """Correlation of the noise of neighbouring pixels, in the flattest tiles of fat and soft tissue.

    A tile's plane is taken out, so that slow changes of tissue do not count as correlation; that makes even
    white noise read -0.06. White noise and sharp kernels are near 0, smooth kernels above 0.3.

    Args:
        hu: [H,W], whole tiles.
        blocks: means of its blocks [H/4,W/4].
        inside: bool [H/4,W/4], blocks in the body.

    Returns:
        The correlation; None with too few tiles, or without noise.
    """
    flat = inside & (blocks >= FLAT_HU[0]) & (blocks < FLAT_HU[1])
    flat = flat[0::2] & flat[1::2]
    row, column = np.nonzero(flat[:, 0::2] & flat[:, 1::2])
    if row.size < FEWEST_TILES:
        return None
    step = -(-row.size // MOST_TILES)
    tiled = hu.reshape(hu.shape[0] // TILE, TILE, hu.shape[1] // TILE, TILE)
    tiles = tiled[row[::step], :, column[::step]].reshape(-1, TILE * TILE)
    tiles -= (tiles @ _PLANE) @ _PLANE.T
    power = np.einsum("np,np->n", tiles, tiles)
    flattest = power <= np.partition(power, int(FLAT_SHARE * power.size))[int(FLAT_SHARE * power.size)]
    total = float(power[flattest].sum())
    if total <= 0.0:
        return None
    noise = tiles[flattest].reshape(-1, TILE, TILE)
    down = np.einsum("nij,nij->", noise[:, 1:], noise[:, :-1])
    across = np.einsum("nij,nij->", noise[:, :, 1:], noise[:, :, :-1])
    # Each direction has TILE * (TILE - 1) pairs for the TILE * TILE squares of `total`.
    return float(down + across) / total * TILE / (2 * (TILE - 1))


def _plane() -> NDArray[np.float32]:
    """Orthonormal basis [TILE * TILE, 3] of the planes over a tile: constant, along rows, along columns."""
    ramp = np.arange(TILE) - (TILE - 1) / 2
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    basis = np.stack([np.ones((TILE, TILE)), rows, columns], axis=-1).reshape(-1, 3)
    return np.asarray(basis / np.linalg.norm(basis, axis=0), dtype=np.float32)


_PLANE = _plane()
