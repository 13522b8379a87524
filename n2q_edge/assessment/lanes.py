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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.timing import now_ms
from n2q_edge.runtimes.base import Inference, Runtime
from n2q_edge.runtimes.threads import physical_cores

T = TypeVar("T")

MAX_WORKERS = 16  # each has a slice and its results in memory
PATIENCE_S = 5.0  # how long an ending waits for slices under way; `docker stop` kills after 10


def worker_count() -> int:
    """One worker a core, and at least two: one slice is read while another is in the model."""
    return max(2, min(MAX_WORKERS, physical_cores()))


def in_order(jobs: Iterable[Callable[[], T]], workers: int) -> Generator[T, None, None]:
    """Run jobs on threads and yield what they return, in the order of the jobs.

    At most `workers + 1` jobs are under way or done and not yet taken, however slow the consumer is. What a
    job raises is raised here, in its turn. When the generator is closed or fails, jobs not yet begun are
    dropped and those under way are waited for, but for no longer than `PATIENCE_S`: a model may never end.

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
                yield _next(pending)
        while pending:
            yield _next(pending)
    finally:
        _end(pool, pending, PATIENCE_S)


def _next(pending: deque[Future[T]]) -> T:
    result = pending[0].result()  # it stays among the pending if the wait is interrupted
    pending.popleft()
    return result


def _end(pool: ThreadPoolExecutor, jobs: Iterable[Future[Any]], patience_s: float) -> None:
    """End the threads of a pool; that of a job which takes longer than `patience_s` is left to itself."""
    pool.shutdown(wait=False, cancel_futures=True)
    if not wait([job for job in list(jobs) if not job.cancelled()], patience_s).not_done:
        pool.shutdown(wait=True)


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
        self._jobs: set[Future[Any]] = set()
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
        return self._submit(partial(self._run, hu, reference_noise_hu)).result()

    def _submit(self, job: Callable[[], T]) -> Future[T]:
        future = self._pool.submit(job)
        self._jobs.add(future)
        future.add_done_callback(self._jobs.discard)
        return future

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

        for lane in [self._submit(once) for _ in range(self._count)]:
            lane.result()
        self.warm_ups.append((began, now_ms()))

    def close(self) -> None:
        """End the threads. One that is still inside `infer` ends when the model does."""
        _end(self._pool, self._jobs, 0)

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
