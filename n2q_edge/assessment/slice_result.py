"""One slice and what the model says about it -> its `SliceResult`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from n2q_edge.arrays import BoolArray, FloatArray, round_up
from n2q_edge.assessment.measured import Measured
from n2q_edge.assessment.results import NO_BODY, ModelReason, ModelRejected, SliceImages, SliceResult
from n2q_edge.assessment.timing import StageTimes, now_ms
from n2q_edge.dicom import LoadedSlice
from n2q_edge.quality import scores
from n2q_edge.quality.domain import OUT_OF_DOMAIN, Deviation, deviations, measure
from n2q_edge.quality.noise import NOISE_DISAGREEMENT, model_noise, noise_disagrees
from n2q_edge.quality.regions import Masks, RegionScore, region_scores, tissue_masks
from n2q_edge.runtimes.base import Inference
from n2q_edge.spec import HU_MAX, HU_MIN, ModelSpec

Regions: TypeAlias = Callable[[LoadedSlice, BoolArray], Masks]
"""From a slice and its body mask to the masks of the regions to score, by name."""


def tissue_regions(loaded: LoadedSlice, mask: BoolArray) -> Masks:
    """The tissue classes: the regions where nobody has drawn any."""
    return tissue_masks(loaded.hu, mask, loaded.pixel_spacing_mm)


@dataclass(frozen=True)
class Arrived:
    """A slice in memory, its place in the series, what was measured, and when (ms) its reading began."""

    number: int
    slice: LoadedSlice
    measured: Measured
    began: float

    def reject(self, reason: ModelReason, detail: str) -> ModelRejected:
        """The outcome of a slice that the model could not assess."""
        ref = self.slice.ref
        return ModelRejected(ref.path, reason, detail, ref.sop_instance_uid, ref.frame)


def stack(slices: Sequence[FloatArray], multiple: int) -> FloatArray:
    """Slices [H,W] of one size as a batch [N,1,H',W'], padded with air at the bottom and right."""
    height, width = slices[0].shape
    shape = (len(slices), 1, round_up(height, multiple), round_up(width, multiple))
    stacked = np.full(shape, HU_MIN, dtype=np.float32)
    for row, hu in enumerate(slices):
        np.clip(hu, HU_MIN, HU_MAX, out=stacked[row, 0, :height, :width])
    return stacked


def slice_result(
    arrived: Arrived, inference: Inference, row: int, spec: ModelSpec, warm_up: float, regions: Regions
) -> SliceResult | ModelRejected:
    """Score one slice.

    Args:
        arrived: the slice.
        inference: of the batch it was in.
        row: its row there.
        spec: of the model.
        warm_up: ms it had to wait for warm-ups.
        regions: what to score beside the whole body.
    """
    began = now_ms()
    loaded = arrived.slice
    height, width = loaded.hu.shape
    crop = np.s_[row, 0, :height, :width]
    # Copies: kept outputs would be holes in the runtime's memory, and one slice's would be the whole batch's.
    quality_map = inference.quality_map[crop].copy()
    cells = np.s_[row, 0, : -(-height // spec.map_cell), : -(-width // spec.map_cell)]
    noise_map = None if inference.noise_map is None else inference.noise_map[cells].copy()
    log_variance = None if inference.log_variance is None else inference.log_variance[cells]
    measured = arrived.measured
    mask, noise = measured.mask, measured.noise_hu
    dose = _dose(inference, row, spec)
    error = None if log_variance is None else scores.expected_error(log_variance, mask, spec.map_cell)
    if not (_finite(quality_map) and _finite(noise_map) and _all_finite(dose, error)):
        return arrived.reject(ModelReason.NON_FINITE_OUTPUT, "NaN or infinity in the model's output")
    quality = scores.quality_scores(quality_map, mask)
    noise_of_model = None
    if noise_map is not None:
        noise_of_model = model_noise(noise_map, loaded.hu, mask, spec.map_cell)
    regional: tuple[RegionScore, ...] = ()
    if quality:
        regional = region_scores(quality_map, regions(loaded, mask), loaded.pixel_spacing_mm)
    strange = _out_of_domain(loaded, mask, noise, spec)
    found = {
        NO_BODY: not quality,
        NOISE_DISAGREEMENT: noise_disagrees(noise, noise_of_model),
        OUT_OF_DOMAIN: bool(strange),
    }
    return SliceResult(
        number=arrived.number,
        ref=loaded.ref,
        quality=quality,
        dose=dose if quality else None,
        noise_hu=noise,
        noise_frequency=measured.noise_frequency,
        size=measured.size,
        ssde_mgy=measured.ssde_mgy,
        reference=measured.reference,
        model_noise_hu=noise_of_model,
        expected_error=error,
        flags=(*loaded.ref.flags, *(flag for flag, holds in found.items() if holds)),
        times=_times(arrived, inference, began, now_ms(), warm_up),
        images=SliceImages(loaded.hu, quality_map, mask, noise_map, spec.map_cell),
        regions=regional,
        out_of_domain=strange,
    )


def _dose(inference: Inference, row: int, spec: ModelSpec) -> scores.Dose | None:
    probabilities = inference.dose_probabilities
    return None if probabilities is None else scores.dose_scores(probabilities[row], spec.dose_levels)


def _finite(picture: FloatArray | None) -> bool:
    """Whether no value is NaN or infinite: either shows in the sum."""
    with np.errstate(invalid="ignore", over="ignore"):
        return picture is None or math.isfinite(picture.sum())


def _all_finite(dose: scores.Dose | None, error: float | None) -> bool:
    numbers = (*(dose.probabilities if dose else ()), *(() if error is None else (error,)))
    return all(math.isfinite(number) for number in numbers)


def _out_of_domain(
    loaded: LoadedSlice, mask: BoolArray, noise_hu: float | None, spec: ModelSpec
) -> tuple[Deviation, ...] | None:
    if spec.domain is None:
        return None
    spacing, thickness = loaded.pixel_spacing_mm, loaded.ref.slice_thickness_mm
    return deviations(measure(loaded.hu, mask, spacing, thickness, noise_hu), spec.domain)


def _times(
    arrived: Arrived, inference: Inference, scoring_began: float, ended: float, warm_up: float
) -> StageTimes:
    """Stage times of one slice; the `warm_up` (ms) that it had to wait for is taken out."""
    timing, batch = inference.timing, len(inference.quality_map)
    total = ended - arrived.began - warm_up
    infer, score = timing.total / batch, ended - scoring_began + arrived.measured.milliseconds
    read, decode = arrived.slice.read_ms, arrived.slice.decode_ms

    def share(milliseconds: float | None) -> float | None:
        return None if milliseconds is None else milliseconds / batch

    return StageTimes(
        read=read,
        decode=decode,
        wait=max(0.0, total - read - decode - infer - score),
        infer=infer,
        h2d=share(timing.h2d),
        compute=share(timing.compute),
        d2h=share(timing.d2h),
        score=score,
        total=total,
    )
