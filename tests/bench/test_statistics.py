from __future__ import annotations

import pytest

from n2q_edge.bench.statistics import ratio, summarise


def test_summary_of_one_to_ten() -> None:
    found = summarise([float(value) for value in range(10, 0, -1)])
    assert (found.n, found.mean, found.minimum, found.maximum) == (10, 5.5, 1.0, 10.0)
    assert (found.p50, found.p90) == (5.0, 9.0)  # nearest rank: the 5th and the 9th of 10
    assert found.cv == pytest.approx(8.25**0.5 / 5.5)  # the variance of 1..n is (n^2 - 1) / 12


@pytest.mark.parametrize(("samples", "has_p99"), [(661, False), (662, True)])
def test_p99_needs_662_samples(samples: int, has_p99: bool) -> None:
    assert (summarise([1.0] * samples).p99 is not None) is has_p99


def test_cv_of_zeros_is_none() -> None:
    assert summarise([0.0, 0.0]).cv is None


def test_ratio_is_taken_within_rounds() -> None:
    # The machine was ten times slower in the second round; the candidate took 2, 2 and 3 times as long.
    found = ratio([[2.0, 2.0], [20.0, 20.0], [3.0, 3.0]], [[1.0, 1.0], [10.0, 10.0], [1.0, 1.0]])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 2.0, 3.0, 3)
