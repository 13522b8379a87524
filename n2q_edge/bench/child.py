"""A candidate in a fresh process: it answers one JSON line with another.

    python -m n2q_edge.bench.child '{"model": null, "runtime": "auto", "threads": null, "input": "slice.npy"}'

The first line it prints says what it is and how long it took to get ready; it has inferred one slice by then.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from n2q_edge.bench.inputs import padded
from n2q_edge.errors import N2QError

if TYPE_CHECKING:
    from n2q_edge.arrays import FloatArray
    from n2q_edge.runtimes.base import Runtime

Answer: TypeAlias = Callable[..., dict[str, Any]]
"""Takes the fields of a command beside `do`, returns the reply."""


def serve(start: Callable[[dict[str, Any]], tuple[dict[str, Any], Mapping[str, Answer]]]) -> None:
    """Get ready, then answer commands on stdin until it ends.

    Args:
        start: takes the options of the command line; returns the first line, and the answers by name.
    """
    replies = _own_stdout()
    try:
        ready, answers = start(json.loads(sys.argv[1]))
        _say(replies, ready)
        for line in sys.stdin:
            command = json.loads(line)
            _say(replies, answers[command.pop("do")](**command))
    except N2QError as error:
        _say(replies, {"error": str(error), "kind": type(error).__name__})


def _own_stdout() -> IO[str]:
    """The replies' own handle of stdout; whatever a library prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _say(replies: IO[str], reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def milliseconds_since(start: int) -> float:
    """Since a moment of `time.perf_counter_ns`."""
    return (time.perf_counter_ns() - start) / 1e6


def timed(step: Callable[[], object], count: int, pause_s: float = 0.0) -> list[float]:
    """Milliseconds of every one of `count` calls, with a pause before each."""
    times = []
    for _ in range(count):
        if pause_s:
            time.sleep(pause_s)
        start = time.perf_counter_ns()
        step()
        times.append(milliseconds_since(start))
    return times


def peak_mib(status: Path = Path("/proc/self/status")) -> float | None:
    """This process's peak resident memory in MiB.

    `getrusage` is the second choice: on Linux its value starts with that of the parent.
    """
    try:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _start(options: dict[str, Any]) -> tuple[dict[str, Any], Mapping[str, Answer]]:
    from n2q_edge.runtimes import open_model

    model = options["model"]
    began = time.perf_counter_ns()
    runtime = open_model(
        None if model is None else Path(model), options["runtime"], threads=options["threads"]
    )
    opened = milliseconds_since(began)
    hu = padded(np.load(options["input"]), runtime.spec.size_multiple)
    began = time.perf_counter_ns()
    runtime.infer(hu)
    first = milliseconds_since(began)
    ready = {
        "runtime": runtime.describe(),
        "spec": json.loads(runtime.spec.to_json()),
        "concurrency": runtime.concurrency,
        "start_ms": {"open": opened, "first_inference": first},
    }
    return ready, answers(runtime, hu)


def answers(runtime: Runtime, hu: FloatArray) -> Mapping[str, Answer]:
    """What a candidate can do; `hu` is one slice, padded."""

    lanes = _Lanes(runtime)

    def throughput(slices: int, batch: int = 1) -> dict[str, Any]:
        return lanes.run(np.repeat(hu, batch, axis=0), -(-slices // batch))

    def infer(slices: int, pause_s: float = 0.0) -> dict[str, Any]:
        timings = []
        for _ in range(slices):
            if pause_s:
                time.sleep(pause_s)
            start = time.perf_counter_ns()
            timing = runtime.infer(hu).timing
            timings.append((milliseconds_since(start), timing.h2d, timing.compute, timing.d2h))
        columns = zip(*timings, strict=True)
        return dict(zip(("total", "h2d", "compute", "d2h"), map(list, columns), strict=True))

    def stream(series: str) -> dict[str, Any]:
        from n2q_edge.assessment.run import assess
        from n2q_edge.dicom import scan

        assessment = assess(scan([Path(series)]), runtime)
        results = [result for report in assessment.series for result in report.slices]
        stages = ("read", "decode", "wait", "infer", "score", "total")
        return {
            "seconds": sum(report.seconds for report in assessment.series),
            "slices": len(results),
            "rejected": len(assessment.rejected),
            "stages": {stage: [getattr(result.times, stage) for result in results] for stage in stages},
        }

    def save(path: str) -> dict[str, Any]:
        np.save(path, runtime.infer(hu).quality_map)
        return {}

    def memory() -> dict[str, Any]:
        return {"peak_mib": peak_mib()}

    def loadgen(scenario: str) -> dict[str, Any]:
        from n2q_edge.bench.loadgen import run

        return run(runtime, hu, scenario)

    return {
        "infer": infer,
        "throughput": throughput,
        "stream": stream,
        "save": save,
        "memory": memory,
        "loadgen": loadgen,
    }


class _Lanes:
    """As many callers as the runtime takes at once, all of them busy."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._count = runtime.concurrency
        self._pool = ThreadPoolExecutor(self._count)
        self._everyone = Barrier(self._count)

    def run(self, hu: FloatArray, calls: int) -> dict[str, Any]:
        """Make `calls` inferences as fast as they go, after one on every lane that is not counted."""
        for done in [self._pool.submit(self._warm_up, hu) for _ in range(self._count)]:
            done.result()
        began = time.perf_counter_ns()
        for done in [self._pool.submit(self._once, hu) for _ in range(calls)]:
            done.result()
        return {"wall_ms": milliseconds_since(began), "slices": calls * len(hu)}

    def _warm_up(self, hu: FloatArray) -> None:
        self._everyone.wait()  # or one quick lane would do it for all
        self._runtime.infer(hu)

    def _once(self, hu: FloatArray) -> None:
        self._runtime.infer(hu)  # its result is dropped at once


if __name__ == "__main__":
    serve(_start)
