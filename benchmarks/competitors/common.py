"""What every competitor shares: it reads slices as a script of a few lines would, one after the other.

A competitor is a module with a function from a slice in HU to its quality map. It runs in a fresh process and
answers the commands of `n2q_edge.bench.child`; benchmarks/against.py asks.

None of them computes a body mask, scores or a noise level, which `n2q-edge assess` does: the comparison of
whole slices is biased against n2q-edge by that work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from n2q_edge.bench.child import milliseconds_since, peak_mib, serve, timed

MapOf = Callable[[np.ndarray], np.ndarray]
"""From HU float32 [H,W] to the quality map float32 [H,W]."""


def main(prepare: Callable[[dict[str, Any]], tuple[MapOf, str]]) -> None:
    """Serve a competitor; `prepare` takes the options and returns its function and the library's version."""
    serve(lambda options: _start(options, prepare))


def _start(options: dict[str, Any], prepare: Callable[..., tuple[MapOf, str]]) -> Any:
    map_of, version = prepare(options)
    files = sorted(Path(options["series"]).rglob("*.dcm"))
    hu = np.load(options["input"])[0, 0]
    map_of(hu)

    def infer(slices: int) -> dict[str, Any]:
        return {"total": timed(lambda: map_of(hu), slices)}

    def end_to_end(slices: int) -> dict[str, Any]:
        times = []
        for file in [files[index % len(files)] for index in range(slices)]:
            start = time.perf_counter_ns()
            map_of(read_hu(file)).mean()
            times.append(milliseconds_since(start))
        return {"total": times}

    def save(path: str) -> dict[str, Any]:
        np.save(path, map_of(hu))
        return {}

    def memory() -> dict[str, Any]:
        return {"peak_mib": peak_mib()}

    ready = {"library": version, "threads": options["threads"]}
    return ready, {"infer": infer, "end_to_end": end_to_end, "save": save, "memory": memory}


def read_hu(file: Path) -> np.ndarray:
    """A slice in HU [H,W], as pydicom's documentation shows it."""
    dataset = pydicom.dcmread(file)
    return dataset.pixel_array * np.float32(dataset.RescaleSlope) + np.float32(dataset.RescaleIntercept)
