"""Candidates take turns, round by round; what comes out goes into the document.

saturated   one slice after the other without a pause: what the machine can do
idle        a pause before every slice, in which clocks and caches fall back: what one slice costs
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from n2q_edge.bench import sensors
from n2q_edge.bench.diagnosis import warnings_about
from n2q_edge.bench.inputs import SIDE, made_up_slice, middle_slice
from n2q_edge.bench.process import Process
from n2q_edge.bench.statistics import ratio, summarise
from n2q_edge.errors import UsageError

LATENCY, THROUGHPUT, STREAM = "latency", "throughput", "stream"
MODES = (LATENCY, THROUGHPUT, STREAM)
IDLE_PAUSE_S = 0.05
WARM_UP_S = 0.5
IDLE_POWER_S = 2.0
BATCHES = (1, 2, 4, 8)
STAGES = ("total", "h2d", "compute", "d2h")


@dataclass(frozen=True)
class Candidate:
    """A model in a runtime.

    Attributes:
        model: its file; None is the released one.
        runtime: a name, or `auto`.
        threads: of a CPU runtime; None is its default.
    """

    model: Path | None = None
    runtime: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        modes: of `MODES`.
        slices: a candidate's slices in `latency`, in all rounds together; 662 for a p99.
        rounds: turns of every candidate.
        batches: of the sweep in `throughput`.
        series: DICOM series for `stream`, and for the slice that is inferred.
        size: side of the made-up slice where there is no series.
    """

    modes: tuple[str, ...] = (LATENCY,)
    slices: int = 60
    rounds: int = 5
    batches: tuple[int, ...] = BATCHES
    series: Path | None = None
    size: int = SIDE

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes:
            raise UsageError(f"no mode {', '.join(unknown)!r}: choose of {', '.join(MODES)}")
        if self.slices < 1 or self.rounds < 1 or self.size < 1:
            raise UsageError("slices, rounds and size must be 1 or more")
        if STREAM in self.modes and self.series is None:
            raise UsageError("mode stream reads a series from disk: name one with --series")

    @property
    def block(self) -> int:
        """Slices of a candidate in one round."""
        return -(-self.slices // self.rounds)


@dataclass
class _Entrant:
    """A candidate with its process and what it has done so far: one list item a round."""

    process: Process
    meter: sensors.Meter
    saturated: list[dict[str, Any]] = field(default_factory=list)
    idle: list[dict[str, Any]] = field(default_factory=list)
    batches: dict[int, list[float]] = field(default_factory=dict)  # slices a second
    streams: list[dict[str, Any]] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)  # slices a second of inference beside `streams`

    @property
    def totals(self) -> list[list[float]]:
        return [block["total"] for block in self.saturated]


Step = Callable[[float, str], None]
"""Told the fraction done and what is going on."""


def measure(
    candidates: Sequence[Candidate],
    plan: Plan,
    *,
    loadgen: str | None = None,
    on_step: Step = lambda fraction, label: None,
) -> dict[str, Any]:
    """Measure candidates; the first is the baseline of the comparison.

    Args:
        candidates: at least one.
        plan: what to measure.
        loadgen: a scenario of MLPerf's LoadGen to run after the rounds.
        on_step: progress.

    Returns:
        JSON-able: `input`, `sensors`, `candidates`, `comparison`.

    Raises:
        N2QError: a model or a runtime cannot be used, or there is no such series.
    """
    found = sensors.find()
    before = sensors.state()
    hu = middle_slice(plan.series) if plan.series else made_up_slice(plan.size, plan.size)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        file = Path(scratch) / "slice.npy"
        np.save(file, hu)
        idle_watts = _idle_power(found, on_step)
        entrants = []
        for candidate in candidates:
            on_step(0.0, f"starting {candidate.model or 'the released model'} in {candidate.runtime}")
            process = stack.enter_context(Process(_options(candidate, file)))
            entrants.append(_Entrant(process, sensors.Meter(found)))
        for turn in range(plan.rounds * len(entrants)):
            number, place = divmod(turn, len(entrants))
            label = f"round {number + 1} of {plan.rounds}, candidate {place + 1} of {len(entrants)}"
            on_step(turn / (plan.rounds * len(entrants)), label)
            _turn(entrants[place], plan)
        results = [_result(entrant, plan) for entrant in entrants]
        if loadgen:
            on_step(1.0, f"LoadGen {loadgen}")
            for entrant, result in zip(entrants, results, strict=True):
                result["loadgen"] = entrant.process.ask("loadgen", scenario=loadgen)
    return {
        "input": {"shape": list(hu.shape), "made_up": plan.series is None},
        "plan": {name: value for name, value in asdict(plan).items() if name != "series"},  # may name a user
        "sensors": {
            "read": [source.name for source in found.sources],
            "not_readable": found.missing,
            "idle_watts": idle_watts,
            "before": before,
            "after": sensors.state(),
        },
        "candidates": results,
        "comparison": _comparison(entrants, results),
    }


def _options(candidate: Candidate, file: Path) -> dict[str, Any]:
    return {
        "model": None if candidate.model is None else str(candidate.model),
        "runtime": candidate.runtime,
        "threads": candidate.threads,
        "input": str(file),
    }


def _idle_power(found: sensors.Sensors, on_step: Step) -> dict[str, float] | None:
    if not found.sources:
        return None
    on_step(0.0, "idle power")
    meter = sensors.Meter(found)
    with meter.block():
        time.sleep(IDLE_POWER_S)
    return meter.watts()


def _turn(entrant: _Entrant, plan: Plan) -> None:
    """One candidate's share of one round."""
    process = entrant.process
    _warm_up(process)
    with entrant.meter.block():
        entrant.saturated.append(process.ask("infer", slices=plan.block))
    if LATENCY in plan.modes:
        entrant.idle.append(process.ask("infer", slices=plan.block, pause_s=IDLE_PAUSE_S))
    if THROUGHPUT in plan.modes:
        for batch in plan.batches:
            entrant.batches.setdefault(batch, []).append(_full_load(process, plan.block, batch))
    if STREAM in plan.modes:
        entrant.alone.append(_full_load(process, plan.block))
        entrant.streams.append(process.ask("stream", series=str(plan.series)))


def _full_load(process: Process, slices: int, batch: int = 1) -> float:
    """Slices a second with as many callers as the runtime takes."""
    done = process.ask(
        "throughput", slices=max(slices, 2 * batch * process.ready["concurrency"]), batch=batch
    )
    return float(1000 * done["slices"] / done["wall_ms"])


def _warm_up(process: Process) -> None:
    """Work unmeasured until the caches hold this candidate again."""
    began = time.monotonic()
    process.ask("infer", slices=2)
    while time.monotonic() - began < WARM_UP_S:
        process.ask("infer", slices=1)


# --- what it comes to


def _result(entrant: _Entrant, plan: Plan) -> dict[str, Any]:
    ready = entrant.process.ready
    runtime, spec = ready["runtime"], ready["spec"]
    latency = {"saturated": _stages(entrant.saturated)}
    if entrant.idle:
        latency["idle"] = _stages(entrant.idle)
    return {
        "label": f"{spec['name']} {spec['precision']} / {runtime['name']}",
        "model": {
            "name": spec["name"],
            "version": spec["version"],
            "precision": spec["precision"],
            "network": spec["network"],
            "sha256": runtime["model_sha256"],
        },
        "runtime": {name: value for name, value in runtime.items() if name != "model_path"},
        "start_ms": {"to_first_result": entrant.process.cold_start_ms, **ready["start_ms"]},
        "peak_mib": entrant.process.ask("memory")["peak_mib"],
        "latency_ms": latency,
        "throughput": _throughput(entrant),
        "stream": _stream(entrant),
        "energy": _energy(entrant, plan),
        "warnings": warnings_about(entrant.saturated, on_gpu=runtime["device"] != "cpu"),
    }


def _stages(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of every stage over all rounds; None for what this device does not do."""
    stages: dict[str, Any] = {}
    for stage in STAGES:
        samples = [value for block in blocks for value in block[stage] if value is not None]
        stages[stage] = asdict(summarise(samples)) if samples else None
    return stages


def _throughput(entrant: _Entrant) -> list[dict[str, Any]]:
    return [
        {
            "batch": batch,
            "lanes": entrant.process.ready["concurrency"],
            "slices_per_s": asdict(summarise(rates)),
        }
        for batch, rates in entrant.batches.items()
    ]


def _stream(entrant: _Entrant) -> dict[str, Any] | None:
    """From files to scores, all stages overlapping, against the inference alone."""
    if not entrant.streams:
        return None
    if not all(run["slices"] for run in entrant.streams):
        raise UsageError("no slice of the series could be assessed: 'n2q-edge assess' says why")
    rates = [run["slices"] / run["seconds"] for run in entrant.streams]
    stages = entrant.streams[0]["stages"]
    return {
        "slices": entrant.streams[0]["slices"],
        "rejected": entrant.streams[0]["rejected"],
        "slices_per_s": asdict(summarise(rates)),
        "of_inference_only": asdict(ratio([[rate] for rate in rates], [[rate] for rate in entrant.alone])),
        "stages_ms": {
            stage: asdict(summarise([value for run in entrant.streams for value in run["stages"][stage]]))
            for stage in stages
        },
    }


def _energy(entrant: _Entrant, plan: Plan) -> dict[str, Any] | None:
    """Of the saturated blocks, idle power included; None without a sensor."""
    if not entrant.meter.joules:
        return None
    slices = plan.block * plan.rounds
    return {
        "joules_per_slice": {name: joules / slices for name, joules in entrant.meter.joules.items()},
        "watts": entrant.meter.watts(),
    }


def _comparison(entrants: Sequence[_Entrant], results: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if len(entrants) < 2:
        return None
    return {
        "baseline": results[0]["label"],
        "time_ratio": [
            {"label": result["label"], **asdict(ratio(entrant.totals, entrants[0].totals))}
            for entrant, result in zip(entrants, results, strict=True)
        ],
    }
