from __future__ import annotations

import random
from pathlib import Path
from typing import cast

import pytest

from n2q_edge.assessment.results import SliceResult
from n2q_edge.assessment.timing import StageTimes
from n2q_edge.assessment.worst import WorstSlices
from n2q_edge.dicom import SliceRef
from n2q_edge.quality.scores import Quality


def result(number: int, mean: float | None) -> SliceResult:
    quality = None if mean is None else Quality(mean, mean, 0.0, ())
    times = StageTimes(0, 0, 0, 0, None, None, None, 0, 0)
    ref = cast(SliceRef, Path(f"{number}.dcm"))  # never looked at
    return SliceResult(number, ref, quality, None, None, None, None, None, None, None, None, (), times)


def worst(means: list[float | None], count: int) -> list[int]:
    selection = WorstSlices(count, len(means))
    for number, mean in enumerate(means, start=1):
        selection.add(result(number, mean))
    return [one.number for one in selection.chosen()]


def test_neighbours_of_a_chosen_slice_are_not_chosen() -> None:
    # Lowest are 4, 5, 3; 5 and 3 are beside 4, so 1 and 7 follow.
    assert worst([0.5, 0.9, 0.3, 0.1, 0.2, 0.9, 0.6, 0.9], 3) == [4, 1, 7]


def test_neighbours_are_chosen_if_there_are_no_others() -> None:
    assert worst([0.3, 0.1, 0.2], 3) == [2, 3, 1]
    assert worst([None, 0.2, 0.1, None], 2) == [3, 2]


def test_a_long_series_is_cut_into_four_parts_for_every_slice() -> None:
    """80 slices, 2 wanted: 8 parts of 10. The lowest is number 80; the parts before it are passed over."""
    means: list[float | None] = [0.9 - 0.01 * number for number in range(80)]
    assert worst(means, 2) == [80, 60]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_held_on_the_way_is_enough(seed: int) -> None:
    """The same slices as when all of them could be looked at together."""

    generator = random.Random(seed)
    means = [generator.random() for _ in range(200)]
    lowest = {part: min(range(10 * part, 10 * part + 10), key=means.__getitem__) for part in range(20)}
    chosen: list[int] = []
    for part in sorted(lowest, key=lambda one: means[lowest[one]]):
        if len(chosen) < 5 and all(abs(part - other) > 1 for other in chosen):
            chosen.append(part)
    assert worst(list(means), 5) == [lowest[part] + 1 for part in chosen]


def test_nothing_is_wanted_or_there() -> None:
    assert worst([0.1, 0.2], 0) == []
    assert worst([None, None], 3) == []
    assert worst([], 3) == []
