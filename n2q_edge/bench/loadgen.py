"""MLPerf's own load generator in front of a runtime: SingleStream and Offline.

LoadGen decides when a slice is asked for and judges the times itself; see MLCommons, MLPerf Inference rules.
The run is short and for orientation; it is no MLPerf submission.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from n2q_edge.arrays import FloatArray
from n2q_edge.bench.inputs import padded
from n2q_edge.errors import ModelError, UsageError, require
from n2q_edge.runtimes.base import Runtime

EXTRA = "loadgen"
SCENARIOS = ("SingleStream", "Offline")
OFFLINE_MARGIN = 1.5  # it asks for all slices at once; too few would end the run too early
SUMMARY = "mlperf_log_summary.txt"


def run(
    runtime: Runtime, hu: FloatArray, scenario: str, *, seconds: float = 10.0, queries: int = 64
) -> dict[str, Any]:
    """Let LoadGen drive a runtime.

    Args:
        runtime: an open model.
        hu: the slice [1,1,H,W] it asks for again and again.
        scenario: one of `SCENARIOS`.
        seconds: at least this long.
        queries: at least this many slices.

    Returns:
        LoadGen's summary: values by name, `Result is` among them (VALID or INVALID).

    Raises:
        UsageError: no such scenario.
        MissingDependencyError: `mlcommons-loadgen` is not installed.
        ModelError: the runtime failed, or LoadGen left no summary.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"no LoadGen scenario {scenario!r}: choose one of {', '.join(SCENARIOS)}")
    library: Any = require("mlperf_loadgen", EXTRA)
    slice_ = padded(hu, runtime.spec.size_multiple)
    expected_ms = runtime.infer(slice_).timing.total
    expected_ms = runtime.infer(slice_).timing.total  # the first one warms up
    failures: list[ModelError] = []

    def issue(samples: Sequence[Any]) -> None:
        for sample in samples:
            try:
                if not failures:
                    runtime.infer(slice_)
            except ModelError as error:  # LoadGen waits for an answer to every sample; raised below
                failures.append(error)
            library.QuerySamplesComplete([library.QuerySampleResponse(sample.id, 0, 0)])

    settings = library.TestSettings()
    settings.scenario = getattr(library.TestScenario, scenario)
    settings.mode = library.TestMode.PerformanceOnly
    settings.min_duration_ms = int(seconds * 1000)
    settings.min_query_count = queries if scenario == "SingleStream" else 1
    settings.single_stream_expected_latency_ns = max(1, int(expected_ms * 1e6))
    settings.offline_expected_qps = OFFLINE_MARGIN * 1000 / expected_ms
    with tempfile.TemporaryDirectory() as folder:
        logs = library.LogSettings()
        output = library.LogOutputSettings()
        output.outdir = folder
        output.copy_summary_to_stdout = False
        logs.log_output = output
        logs.enable_trace = False
        system = library.ConstructSUT(issue, lambda: None)
        samples = library.ConstructQSL(1, 1, lambda _: None, lambda _: None)
        try:
            library.StartTestWithLogSettings(system, samples, settings, logs)
        finally:
            library.DestroyQSL(samples)
            library.DestroySUT(system)
        if failures:
            raise failures[0]
        return {"scenario": scenario, "library": "mlcommons-loadgen", **_summary(Path(folder) / SUMMARY)}


def _summary(path: Path) -> dict[str, Any]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ModelError(f"LoadGen left no summary: {error.strerror}") from None
    return parse_summary(lines)


def parse_summary(lines: Sequence[str]) -> dict[str, Any]:
    """`name : value` and `name: value` lines; numbers become numbers."""
    values: dict[str, Any] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and value.strip():
            values[name.strip()] = _number(value.strip())
    return values


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
