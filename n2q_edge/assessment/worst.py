"""The worst slices of a series, spread along it: five neighbours would show one place five times."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from n2q_edge.assessment.results import SliceResult

PARTS_PER_SLICE = 4  # parts of a series for every slice wanted


class WorstSlices:
    """Takes the slices of a series as they come and holds few of them.

    The series is cut into `4 * count` parts of equal length. Every part stands for its worst slice. The worst
    of these are chosen, and those of the parts next to a chosen one only if there are no others. In a series
    of at most `4 * count` slices every slice is a part of its own.
    """

    def __init__(self, count: int, slices: int) -> None:
        """Choose nothing yet.

        Args:
            count: how many are wanted.
            slices: how many the series has, rejected ones included.
        """
        self._count = count
        self._length = max(1, -(-slices // (PARTS_PER_SLICE * count))) if count else 1
        # A chosen part rules out at most two others, so no part beyond these can be chosen.
        self._most = 3 * count - 2
        self._worst: dict[int, SliceResult] = {}

    def add(self, result: SliceResult) -> None:
        """Take the next slice; one without a score is not a candidate."""
        if not result.quality or not self._count:
            return
        part = (result.number - 1) // self._length
        known = self._worst.get(part)
        if known and mean_quality(known) <= mean_quality(result):
            return
        self._worst[part] = result
        if len(self._worst) > self._most:
            best = max(self._worst, key=lambda one: (mean_quality(self._worst[one]), one))
            del self._worst[best]

    def chosen(self) -> list[SliceResult]:
        """The worst slices, worst first; fewer if fewer parts have a score."""
        ranked = sorted(self._worst, key=lambda part: mean_quality(self._worst[part]))
        apart: list[int] = []
        for part in ranked:
            if all(abs(part - other) > 1 for other in apart):
                apart.append(part)
        others = [part for part in ranked if part not in apart]
        parts = [*apart, *others][: self._count]
        return sorted((self._worst[part] for part in parts), key=mean_quality)


def mean_quality(result: SliceResult) -> float:
    """The body-mean quality of a slice that has one."""
    assert result.quality is not None
    return result.quality.mean
