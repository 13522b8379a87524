from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.lanes import Lanes, in_order
from n2q_edge.errors import ModelError
from tests.helpers.fakes import FakeRuntime

HU = np.zeros((1, 1, 32, 32), np.float32)


class Concurrent(FakeRuntime):
    concurrency = 2


def test_results_come_in_the_order_of_the_jobs() -> None:
    def late(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number

    assert list(in_order([partial(late, number) for number in range(12)], 3)) == list(range(12))


def test_no_more_jobs_are_begun_than_may_be_ahead() -> None:
    begun: list[int] = []

    def jobs() -> Iterator[Callable[[], None]]:
        for number in range(100):
            yield partial(begun.append, number)

    taken = in_order(jobs(), 2)
    for number in range(1, 6):
        next(taken)
        time.sleep(0.02)  # a slow consumer
        assert len(begun) <= number + 2
    taken.close()
    assert len(begun) < 10


def test_jobs_run_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=5)
    assert len(list(in_order([together.wait] * 6, 3))) == 6


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_comes_in_its_turn_and_ends_the_threads(kind: type[BaseException]) -> None:
    def fail() -> int:
        raise kind

    before = threading.active_count()
    results = in_order([lambda: 1, lambda: 2, fail, lambda: 4], 2)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(kind):
        next(results)
    assert threading.active_count() == before


def test_no_jobs() -> None:
    assert list(in_order([], 2)) == []


def test_a_runtime_is_entered_by_as_many_threads_as_it_takes() -> None:
    inside, most, lock = 0, 0, threading.Lock()

    def infer(hu: FloatArray) -> FloatArray:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with lock:
            inside -= 1
        return hu

    for runtime, limit in ((FakeRuntime(infer), 1), (Concurrent(infer), 2)):
        most = 0
        with Lanes(runtime, 4) as lanes:
            list(in_order([partial(lanes.infer, HU)] * 12, 4))
        assert most == limit


def test_every_lane_is_warmed_up_for_every_shape() -> None:
    threads: set[str] = set()

    def infer(hu: FloatArray) -> FloatArray:
        threads.add(threading.current_thread().name)
        return hu

    runtime = Concurrent(infer)
    with Lanes(runtime, 4) as lanes:
        lanes.infer(HU)
        assert len(runtime.calls) == 2 + 1
        assert len(threads) == 2
        lanes.infer(HU)
        assert len(runtime.calls) == 4
        lanes.infer(np.zeros((1, 1, 16, 16), np.float32))
        assert len(runtime.calls) == 7
        assert len(lanes.warm_ups) == 2


def test_a_shape_the_model_fails_on_is_tried_again() -> None:
    runtime = Concurrent(fails_on=lambda hu: len(runtime.calls) <= 2)
    with Lanes(runtime, 4) as lanes:
        with pytest.raises(ModelError):
            lanes.infer(HU)
        assert lanes.infer(HU)[0].quality_map.shape == HU.shape
