"""Measured pairs: which slice of a low-dose series belongs to which full-dose slice.

Found by the headers: file names and Instance Numbers mean nothing. Two slices are a pair if they lie in one
frame of reference (or, where no two series share one, are of one patient), at one place, and were
reconstructed alike. What is not certain is left out, with its reason.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2q_edge.dicom import Series, SliceRef
from n2q_edge.errors import UsageError

POSITION_TOLERANCE_MM = 0.1  # a fifth of the finest slice distance in use, a seventh of a pixel
SAME_DIRECTION = 1e-3  # direction cosines and pixel spacings are written with few digits
BLOCK = 8  # pixels a side: over so many the mean of noise is a few HU
LARGEST_BLOCK_DIFFERENCE_HU = 30.0  # root mean square; another breath or another patient gives hundreds
DENSE_HU = -300.0


@dataclass(frozen=True)
class MeasuredPairs:
    """Two folders of the same scans at two doses.

    Attributes:
        full: folder of the full-dose series.
        low: folder of the low-dose series.
        dose: of the low-dose series, as a fraction of the full dose.

    Raises:
        UsageError: the dose is no fraction.
    """

    full: Path
    low: Path
    dose: float

    def __post_init__(self) -> None:
        if not 0 < self.dose < 1:
            raise UsageError(
                f"--low-dose {self.dose:g}: give the fraction of the full dose, above 0 and below 1"
            )


@dataclass(frozen=True)
class Pair:
    """One slice at two doses."""

    full: SliceRef
    low: SliceRef


@dataclass(frozen=True)
class Matches:
    """What `match` found.

    Attributes:
        pairs: in the order of the full-dose slices.
        left_out: slices of either side that are in no pair, and why.
    """

    pairs: list[Pair]
    left_out: list[tuple[SliceRef, str]]


def match(full: Sequence[Series], low: Sequence[Series]) -> Matches:
    """Find the pairs of two sets of series. A slice is in one pair or in none."""
    stacks = [_Stack.of(series) for series in low]
    found: list[Pair] = []
    left_out: list[tuple[SliceRef, str]] = []
    for series in full:
        one = _Stack.of(series)
        partners = _partner_stacks(one, stacks)
        for ref in series.slices:
            partner = _partner(ref, one, partners)
            if isinstance(partner, str):
                left_out.append((ref, partner))
            else:
                found.append(Pair(ref, partner))
    claims = Counter(pair.low for pair in found)
    left_out += [
        (pair.full, f"{claims[pair.low]} full-dose slices match one low-dose slice")
        for pair in found
        if claims[pair.low] > 1
    ]
    left_out += [
        (ref, "low dose without a full-dose twin")
        for stack in stacks
        for ref in stack.series.slices
        if claims[ref] != 1
    ]
    return Matches([pair for pair in found if claims[pair.low] == 1], left_out)


def same_anatomy(full: NDArray[np.float32], low: NDArray[np.float32]) -> bool:
    """Whether two slices [H,W] in HU differ by noise alone: in tissue their block means agree."""
    blocks = [
        image.reshape(image.shape[0] // BLOCK, BLOCK, image.shape[1] // BLOCK, BLOCK).mean(axis=(1, 3))
        for image in (full, low)
    ]
    dense = np.maximum(*blocks) > DENSE_HU
    differences = (blocks[1] - blocks[0])[dense]
    return bool(np.sqrt(np.mean(differences**2)) <= LARGEST_BLOCK_DIFFERENCE_HU) if dense.any() else False


@dataclass(frozen=True)
class _Stack:
    """A series and whose it is; `placed` are its slices that have a position, in ascending order."""

    series: Series
    frame_of_reference: str
    patient: str
    placed: list[SliceRef]
    positions: list[float]

    @classmethod
    def of(cls, series: Series) -> _Stack:
        first = series.slices[0]
        placed = [ref for ref in series.slices if ref.position_mm is not None]
        return cls(
            series,
            first.frame_of_reference_uid,
            first.patient_key,
            placed,
            [float(ref.position_mm or 0.0) for ref in placed],
        )

    def near(self, position: float) -> list[SliceRef]:
        """Slices within the tolerance of a position along the normal, mm."""
        first = bisect_left(self.positions, position - POSITION_TOLERANCE_MM)
        return self.placed[first : bisect_right(self.positions, position + POSITION_TOLERANCE_MM)]


def _partner_stacks(one: _Stack, stacks: Sequence[_Stack]) -> list[_Stack]:
    """The low-dose series in the same frame of reference; where there is none, those of the same patient."""
    same_frame = [
        other
        for other in stacks
        if one.frame_of_reference and other.frame_of_reference == one.frame_of_reference
    ]
    return same_frame or [other for other in stacks if one.patient and other.patient == one.patient]


def _partner(ref: SliceRef, one: _Stack, stacks: Sequence[_Stack]) -> SliceRef | str:
    """The one low-dose slice that is the same but for its dose, or why there is none."""
    if not stacks:
        return "no low-dose series has its frame of reference or its patient"
    if ref.position_mm is None:
        return "no position"
    near = [(other, stack) for stack in stacks for other in stack.near(ref.position_mm)]
    near = [(other, stack) for other, stack in near if _close(ref.image_orientation, other.image_orientation)]
    if not near:
        return f"no low-dose slice within {POSITION_TOLERANCE_MM:g} mm of {ref.position_mm:g} mm"
    grid = [(other, stack) for other, stack in near if _same_grid(ref, other)]
    if not grid:
        return f"{_grid(ref)} against {_grid(near[0][0])} at low dose"
    alike = [other for other, stack in grid if _look(ref, one) == _look(other, stack)]
    if not alike:
        return f"{_look(ref, one)} against {_look(*grid[0])} at low dose"
    return alike[0] if len(alike) == 1 else f"{len(alike)} low-dose slices match it"


def _close(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    return one is not None and other is not None and np.allclose(one, other, rtol=0, atol=SAME_DIRECTION)


def _same_grid(one: SliceRef, other: SliceRef) -> bool:
    """Whether the pixels of two slices coincide."""
    return (
        (one.layout.rows, one.layout.columns) == (other.layout.rows, other.layout.columns)
        and _close(one.pixel_spacing_mm, other.pixel_spacing_mm)
        and bool(np.allclose(_corner(one), _corner(other), rtol=0, atol=POSITION_TOLERANCE_MM))
    )


def _corner(ref: SliceRef) -> NDArray[np.float64]:
    return np.array(ref.image_position, dtype=np.float64)


def _grid(ref: SliceRef) -> str:
    spacing = " x ".join(f"{value:g}" for value in ref.pixel_spacing_mm or ())
    corner = ", ".join(f"{value:g}" for value in ref.image_position or ())
    return f"{ref.layout.rows}x{ref.layout.columns} pixels of {spacing or 'unknown'} mm from ({corner})"


def _look(ref: SliceRef, stack: _Stack) -> str:
    """How a slice was reconstructed: kernel and thickness."""
    kernel: Any = stack.series.protocol.get("kernel")
    thickness = "unknown" if ref.slice_thickness_mm is None else f"{ref.slice_thickness_mm:g}"
    return f"kernel {kernel or 'unknown'}, {thickness} mm thick"
