"""Evaluation cases: a simulated low-dose slice, what a system sees of it, and the truth about it.

The truth of a simulated low-dose slice is known: its float64 SSIM map against the slice it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.arrays import BoolArray, FloatArray, bounding_box
from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.evaluation import paper
from n2q_edge.evaluation.ssim import ssim_map
from n2q_edge.network.preprocess import Window
from n2q_edge.quality.body import body_mask
from n2q_edge.simulation.noise import NoiseBasis, inserted_noise
from n2q_edge.spec import HU_MAX, HU_MIN, ModelSpec

Box = tuple[slice, slice]

WINDOW_SMOOTHING = 1.5  # pixels: "in the window" is asked of the smoothed full-dose slice
SCORED_MARGIN = 5  # pixels around the body that the SSIM between maps looks at


@dataclass(frozen=True)
class Scan:
    """What a system sees.

    Attributes:
        hu: float32 [H,W].
        pixel_mm: pixel spacing.
        wanted: rows and columns of the map that will be looked at; a system may leave out the rest.
    """

    hu: FloatArray
    pixel_mm: float
    wanted: Box


@dataclass(frozen=True)
class Case:
    """One simulated low-dose slice and its truth.

    Attributes:
        slice_key: of the full-dose slice.
        patient: hashed patient ID.
        dose: dose fraction.
        scan: the low-dose slice at native size.
        reduced: the same reduced to 256x256, for the paper-compatible column.
        quality: float32 [H,W], the true SSIM map, aligned.
        paper: float64 [256,256], the authors' reference map, in [-1, 1].
        body: bool [H,W].
        window: bool [H,W], body pixels inside the display window.
    """

    slice_key: str
    patient: str
    dose: float
    scan: Scan
    reduced: Scan
    quality: FloatArray
    paper: NDArray[np.float64]
    body: BoolArray
    window: BoolArray


@dataclass(frozen=True)
class FullDose:
    """A full-dose slice that cases are made from.

    Attributes:
        key: its name in the cache.
        patient: hashed patient ID.
        pixel_mm: pixel spacing.
        hu: float32 [H,W].
    """

    key: str
    patient: str
    pixel_mm: float
    hu: FloatArray


def cases(slices: Sequence[CachedSlice], spec: ModelSpec, seed: int = 0) -> Iterator[Case]:
    """Every slice at every dose level, with independent noise."""
    for item in slices:
        yield from slice_cases(item, spec, seed)


def slice_cases(item: CachedSlice, spec: ModelSpec, seed: int = 0) -> Iterator[Case]:
    """One slice at every dose level; none if nothing of its body lies in the window.

    The noise is drawn by the slice's own key: it is the same whichever other slices are evaluated.
    """
    return make_cases(full_dose(item), level_noise(item.key, item.basis(), spec, seed), spec)


def full_dose(item: CachedSlice) -> FullDose:
    """The slice that a cached one's cases are made from."""
    return FullDose(item.key, item.patient, item.pixel_mm, np.asarray(item.hu(), dtype=np.float32))


def level_noise(key: str, basis: NoiseBasis, spec: ModelSpec, seed: int = 0) -> Iterator[FloatArray]:
    """The noise [H,W] in HU of every dose level of the spec, drawn by the slice's key in the cache."""
    for level, dose in enumerate(spec.dose_levels):
        yield inserted_noise(basis, dose, np.random.default_rng((seed, int(key, 16), level)))


def make_cases(full: FullDose, noise: Iterator[FloatArray], spec: ModelSpec) -> Iterator[Case]:
    """Cases of one slice from the noise [H,W] in HU to insert at each dose level of the spec."""
    body, inside = regions(full.hu, full.pixel_mm, spec)
    if not inside.any():
        return
    box = bounding_box(body, SCORED_MARGIN)
    whole = (slice(0, paper.SIZE),) * 2
    for dose, inserted in zip(spec.dose_levels, noise, strict=True):
        low = np.clip(full.hu + inserted, HU_MIN, HU_MAX)
        yield Case(
            slice_key=full.key,
            patient=full.patient,
            dose=dose,
            scan=Scan(low, full.pixel_mm, box),
            reduced=Scan(
                paper.resize(low).astype(np.float32), full.pixel_mm * low.shape[0] / paper.SIZE, whole
            ),
            quality=true_quality(low, full.hu, spec),
            paper=paper.reference_map(low, full.hu, spec),
            body=body,
            window=inside,
        )


def regions(full: FloatArray, pixel_mm: float, spec: ModelSpec) -> tuple[BoolArray, BoolArray]:
    """Body of a full-dose slice [H,W], and its pixels whose smoothed HU lies in the display window."""
    body = body_mask(full, (pixel_mm, pixel_mm))
    smooth = ndimage.gaussian_filter(full, WINDOW_SMOOTHING)
    low, high = spec.window_hu
    return body, body & (smooth >= low) & (smooth <= high)


def true_quality(low: FloatArray, full: FloatArray, spec: ModelSpec) -> FloatArray:
    """SSIM map [H,W] of a low-dose slice against its full-dose twin, HU, computed in float64."""
    window = Window(spec.window_center, spec.window_width)
    image, reference = (window(torch.from_numpy(hu.astype(np.float64))[None, None]) for hu in (low, full))
    return np.asarray(ssim_map(image, reference, spec.ssim)[0, 0].numpy(), dtype=np.float32)
