"""What makes a measurement doubtful. The rules are trtexec's (TensorRT, sampleReporting.cpp)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from n2q_edge.bench.statistics import summarise

ENQUEUE_SHARE = 0.8  # of the compute time
UNSTABLE_GPU = 0.01  # coefficient of variation
UNSTABLE_CPU = 0.05  # a CPU is never alone; this bound is ours


def warnings_about(blocks: Sequence[dict[str, Any]], *, on_gpu: bool) -> list[str]:
    """Warnings about a candidate's saturated blocks."""
    columns = {
        stage: [value for block in blocks for value in block[stage] if value is not None]
        for stage in ("total", "h2d", "compute", "d2h")
    }
    return [*(_bound(columns) if on_gpu and columns["compute"] else []), *_unstable(columns, on_gpu)]


def _bound(columns: dict[str, list[float]]) -> list[str]:
    median = {stage: statistics.median(values) if values else 0.0 for stage, values in columns.items()}
    host = median["total"] - median["h2d"] - median["compute"] - median["d2h"]
    found = []
    if host > ENQUEUE_SHARE * median["compute"]:
        found.append(
            f"enqueue-bound: the host takes {host:.2f} ms beside {median['compute']:.2f} ms of compute; "
            "larger batches or a CUDA graph use the GPU better"
        )
    for stage, direction in (("h2d", "to the device"), ("d2h", "from the device")):
        if median[stage] >= median["compute"]:
            found.append(
                f"transfer-bound: the copy {direction} takes {median[stage]:.2f} ms, the compute "
                f"{median['compute']:.2f} ms"
            )
    return found


def _unstable(columns: dict[str, list[float]], on_gpu: bool) -> list[str]:
    stage, limit = ("compute", UNSTABLE_GPU) if on_gpu and columns["compute"] else ("total", UNSTABLE_CPU)
    cv = summarise(columns[stage]).cv
    if cv is None or cv <= limit:
        return []
    advice = "lock the GPU's clocks" if on_gpu else "end other programs"
    return [f"unstable: the coefficient of variation of {stage} is {cv:.1%}, over {limit:.0%}; {advice}"]
