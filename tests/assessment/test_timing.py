from __future__ import annotations

import pytest

from n2q_edge.assessment.timing import (
    MIN_SAMPLES_P99,
    Percentiles,
    StageTimes,
    overlap_ms,
    percentiles,
    summarise,
)


def times(total: float, compute: float | None = None) -> StageTimes:
    return StageTimes(
        read=1, decode=2, wait=0, infer=3, h2d=None, compute=compute, d2h=None, score=4, total=total
    )


def test_nearest_rank_percentiles() -> None:
    # Ranks ceil(0.5*10) = 5 and ceil(0.9*10) = 9 of 1..10.
    assert percentiles([10, 9, 8, 7, 6, 5, 4, 3, 2, 1]) == Percentiles(5, 9, None)
    assert percentiles([7]) == Percentiles(7, 7, None)


def test_p99_needs_enough_samples() -> None:
    assert percentiles(range(1, MIN_SAMPLES_P99)).p99 is None
    # ceil(0.99 * 662) = ceil(655.38) = 656
    assert percentiles(range(1, MIN_SAMPLES_P99 + 1)).p99 == 656


def test_the_p99_limit_is_wilks_two_sided_sample_size() -> None:
    def confidence(n: int) -> float:
        return 1 - n * 0.99 ** (n - 1) + (n - 1) * 0.99**n

    assert confidence(MIN_SAMPLES_P99 - 1) < 0.99 <= confidence(MIN_SAMPLES_P99)


def test_summary_names_the_stages_that_were_measured() -> None:
    summary = summarise([times(10), times(20), times(30)])
    assert summary["total"] == Percentiles(20, 30, None)
    assert summary["decode"] == Percentiles(2, 2, None)
    assert "compute" not in summary
    assert summarise([times(10, compute=5)])["compute"] == Percentiles(5, 5, None)
    assert summarise([]) == {}


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((0, 10), 3), ((0, 1), 0), ((2.5, 3.5), 1), ((4, 7), 1)],  # the others are 2..4 and 6..7
)
def test_overlap(interval: tuple[float, float], expected: float) -> None:
    assert overlap_ms(interval, [(2, 4), (6, 7)]) == pytest.approx(expected)
