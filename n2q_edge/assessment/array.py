"""Slices that are arrays in memory -> results, without a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from n2q_edge.arrays import BoolArray, FloatArray
from n2q_edge.assessment.measured import measure
from n2q_edge.assessment.results import SliceResult
from n2q_edge.assessment.slice_result import Arrived, slice_result, stack, tissue_regions
from n2q_edge.assessment.timing import now_ms
from n2q_edge.dicom.records import LoadedSlice
from n2q_edge.dicom.volume import plain_ref
from n2q_edge.errors import ModelError, UsageError
from n2q_edge.quality.domain import Deviation
from n2q_edge.quality.reference import NOISE_RANGE_HU, Comparison, DeclaredNoise
from n2q_edge.quality.scores import Quality
from n2q_edge.runtimes.base import Runtime
from n2q_edge.runtimes.grid import enlarge
from n2q_edge.spec import HU_MAX, HU_MIN


@dataclass(frozen=True)
class ArrayResult:
    """What a model and the model-free measures say about one slice.

    Attributes:
        quality: mean predicted SSIM in the body; None if there is no body.
        noise_hu: model-free noise level; None with too little soft tissue or without a spacing.
        noise_frequency: mean frequency of the noise power spectrum, 1/mm.
        water_equivalent_diameter_mm: of the body (AAPM TG-220).
        comparison: noise and equivalent dose relative to `reference_noise_hu`, if that was given.
        dose: percent of full dose the slice looks like; None without a body, or if the model does not tell.
        quality_map: float32 [H,W], predicted SSIM.
        noise_map: float32 [H,W], HU, if the model gives one.
        body: bool [H,W], where the scores are taken.
        scores: mean, 5th percentile, fraction below 0.5 and histogram of the quality in the body.
        dose_probabilities: of every dose level of the model, in its order; empty if it does not tell.
        model_noise_hu: median of `noise_map` in soft tissue.
        expected_error: root mean square error the model expects of its map in the body.
        flags: `no_body`, `noise_disagreement`, `out_of_domain`.
        out_of_domain: why the slice is unlike the training data; None if the model cannot tell.
    """

    quality: float | None
    noise_hu: float | None
    noise_frequency: float | None
    water_equivalent_diameter_mm: float | None
    comparison: Comparison | None
    dose: float | None
    quality_map: FloatArray
    noise_map: FloatArray | None
    body: BoolArray
    scores: Quality | None
    dose_probabilities: tuple[float, ...]
    model_noise_hu: float | None
    expected_error: float | None
    flags: tuple[str, ...]
    out_of_domain: tuple[Deviation, ...] | None


class VolumeResult(Sequence[ArrayResult]):
    """The results of the slices of a stack [Z,H,W], in order; the numbers also as arrays [Z].

    Where a slice has no number, its place in an array is NaN.
    """

    def __init__(self, slices: Sequence[ArrayResult]) -> None:
        """Hold the results of at least one slice."""
        self._slices = tuple(slices)

    @overload
    def __getitem__(self, index: int) -> ArrayResult: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ArrayResult]: ...

    def __getitem__(self, index: int | slice) -> ArrayResult | Sequence[ArrayResult]:
        return self._slices[index]

    def __len__(self) -> int:
        return len(self._slices)

    @property
    def quality(self) -> NDArray[np.float64]:
        """Mean predicted SSIM in the body, [Z]."""
        return _column([one.quality for one in self])

    @property
    def noise_hu(self) -> NDArray[np.float64]:
        """Model-free noise level, HU, [Z]."""
        return _column([one.noise_hu for one in self])

    @property
    def dose(self) -> NDArray[np.float64]:
        """Percent of full dose the slices look like, [Z]."""
        return _column([one.dose for one in self])

    @property
    def quality_map(self) -> FloatArray:
        """Predicted SSIM, float32 [Z,H,W]."""
        return np.stack([one.quality_map for one in self])

    @property
    def noise_map(self) -> FloatArray | None:
        """Noise in HU, float32 [Z,H,W]; None if the model gives none."""
        maps = [one.noise_map for one in self if one.noise_map is not None]
        return np.stack(maps) if maps else None

    @property
    def flags(self) -> tuple[tuple[str, ...], ...]:
        """The flags of every slice."""
        return tuple(one.flags for one in self)


def _column(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def assess_array(
    runtime: Runtime,
    hu: ArrayLike,
    spacing_mm: tuple[float, float] | None,
    reference_noise_hu: float | Sequence[float] | None,
) -> ArrayResult | VolumeResult:
    """Assess a slice [H,W] or a stack [Z,H,W]; see `n2q_edge.Model.assess`."""
    array = _checked(hu)
    spacing = _spacing(spacing_mm)
    slices = array[None] if array.ndim == 2 else array
    references = _references(reference_noise_hu, len(slices))
    results = [
        _assess(runtime, number, one, spacing, references[number - 1])
        for number, one in enumerate(slices, start=1)
    ]
    return results[0] if array.ndim == 2 else VolumeResult(results)


def _assess(
    runtime: Runtime, number: int, hu: FloatArray, spacing: tuple[float, float] | None, reference: float
) -> ArrayResult:
    ref = plain_ref("array", number, hu.shape, spacing)
    loaded, known = LoadedSlice(ref, hu, spacing, 0.0, 0.0), DeclaredNoise(reference) if reference else None
    arrived = Arrived(number, loaded, measure(loaded, {}, known), now_ms())
    batch = stack([hu], runtime.spec.size_multiple)
    if reference and runtime.spec.takes_reference:
        inference = runtime.infer(batch, np.array([reference], dtype=np.float32))
    else:
        inference = runtime.infer(batch)
    result = slice_result(arrived, inference, 0, runtime.spec, 0.0, tissue_regions)
    if not isinstance(result, SliceResult):
        raise ModelError(f"slice {number}: {result.detail}")
    assert result.images is not None
    noise_map = result.images.noise_map
    if noise_map is not None:
        noise_map = enlarge(noise_map, runtime.spec.map_cell)[: hu.shape[0], : hu.shape[1]]
    quality, dose = result.quality, result.dose
    return ArrayResult(
        quality=quality.mean if quality else None,
        noise_hu=result.noise_hu,
        noise_frequency=result.noise_frequency,
        water_equivalent_diameter_mm=result.size.water_equivalent_diameter_mm if result.size else None,
        comparison=result.comparison,
        dose=dose.level if dose else None,
        quality_map=result.images.quality_map,
        noise_map=noise_map,
        body=result.images.mask,
        scores=quality,
        dose_probabilities=dose.probabilities if dose else (),
        model_noise_hu=result.model_noise_hu,
        expected_error=result.expected_error,
        flags=result.flags,
        out_of_domain=result.out_of_domain,
    )


def _checked(hu: ArrayLike) -> FloatArray:
    """Float32 [H,W] or [Z,H,W] in [-1024, 3071], a copy."""
    try:
        array: NDArray[Any] = np.asarray(hu)
    except ValueError:
        raise UsageError("hu is not an array: its rows differ in length") from None
    if array.dtype.kind == "u":
        raise UsageError(
            f"hu is {array.dtype}: HU have a sign; stored values become HU by Rescale Slope and Intercept"
        )
    if array.dtype.kind not in "if":
        raise UsageError(f"hu is {array.dtype}: HU are signed integers or floating-point numbers")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UsageError(f"hu has the shape {list(array.shape)}: it must be [H,W] or [Z,H,W], not empty")
    if not np.isfinite(array).all():
        raise UsageError("hu has NaN or infinity: replace what is outside the field of view by air, -1000")
    clipped: FloatArray = np.clip(array, HU_MIN, HU_MAX).astype(np.float32)
    return clipped


def _spacing(spacing_mm: tuple[float, float] | None) -> tuple[float, float] | None:
    if spacing_mm is None:
        return None
    try:
        row, column = (float(value) for value in spacing_mm)
    except (TypeError, ValueError):
        raise UsageError(f"spacing_mm is {spacing_mm!r}: it must be (row, column) in mm") from None
    if not (0 < row < np.inf and 0 < column < np.inf):
        raise UsageError(f"spacing_mm is {spacing_mm!r}: both must be positive")
    return row, column


def _references(value: float | Sequence[float] | None, count: int) -> list[float]:
    """One for each of `count` slices; 0 where it is unknown."""
    if value is None:
        return [0.0] * count
    try:
        given = np.asarray(value, dtype=np.float64)
        references = np.broadcast_to(given, (count,))
    except (TypeError, ValueError):
        raise UsageError(f"reference_noise_hu is not one number, or one for each of {count} slices") from None
    low, high = NOISE_RANGE_HU
    if not ((references == 0) | ((references >= low) & (references <= high))).all():
        raise UsageError(f"reference_noise_hu must be {low:g} to {high:g} HU, or 0 for unknown")
    return [float(each) for each in references]
