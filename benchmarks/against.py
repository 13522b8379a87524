"""n2q-edge against what people would use instead. Every competitor in a fresh process; all take turns.

    python -m benchmarks.against --work runs/bench --json benchmarks/results/against.json

The faithful N2Q is run by everybody, the released models by n2q-edge and the default one also by the two
libraries it may use.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare
from n2q_edge import released_models
from n2q_edge.bench import document, sensors
from n2q_edge.bench.inputs import middle_slice
from n2q_edge.bench.process import Process
from n2q_edge.bench.statistics import ratio, summarise

BASELINE = "a"


@dataclass(frozen=True)
class Entry:
    """One row of the table."""

    key: str
    module: str
    model: str  # "n2q" or the name of a released one
    what: str
    side: int = 512


ENTRIES = (
    Entry("a", "eager", "n2q", "the authors' way: PyTorch eager, scikit-image"),
    Entry("a256", "eager", "n2q", "the same at the authors' 256x256 (another task)", 256),
    Entry("b", "compiled", "n2q", "torch.compile"),
    Entry("c", "onnxruntime_default", "n2q", "ONNX Runtime, defaults"),
    Entry("d", "openvino_default", "n2q", "OpenVINO, defaults"),
    Entry("e", "ours", "n2q", "n2q-edge"),
    Entry("cs", "onnxruntime_default", "n2q-small", "ONNX Runtime, defaults"),
    Entry("ds", "openvino_default", "n2q-small", "OpenVINO, defaults"),
    Entry("ep", "ours", "n2q-plus", "n2q-edge"),
    Entry("es", "ours", "n2q-small", "n2q-edge"),
)


@dataclass
class Runner:
    """An entry at work: samples by round."""

    entry: Entry
    process: Process
    infer: list[list[float]] = field(default_factory=list)
    end_to_end: list[list[float]] = field(default_factory=list)

    def turn(self, slices: int) -> None:
        began = time.monotonic()
        self.process.ask("infer", slices=1)
        while time.monotonic() - began < 0.3:  # caches and threads come back
            self.process.ask("infer", slices=1)
        self.infer.append(self.process.ask("infer", slices=slices)["total"])
        self.end_to_end.append(self.process.ask("end_to_end", slices=slices)["total"])


def measure(work: Path, rounds: int, slices: int) -> dict[str, Any]:
    files = prepare.all_of_it(work)
    state = sensors.state()
    with ExitStack() as stack:
        runners = []
        for entry in ENTRIES:
            print(f"starting {entry.key}: {entry.model}, {entry.what}", flush=True)
            options = {
                "checkpoint": str(files.checkpoint),
                "onnx": str(
                    files.onnx if entry.model == "n2q" else released_models.released(entry.model).onnx
                ),
                "series": str(files.series),
                "input": str(_input(files.series, work)),
                "threads": prepare.threads(),
                "side": entry.side,
            }
            process = Process(options, f"benchmarks.competitors.{entry.module}", prepare.ROOT)
            runners.append(Runner(entry, stack.enter_context(process)))
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}, load {sensors.state()['load_average']}", flush=True)
            for runner in runners:
                runner.turn(slices)
        maps = {runner.entry.key: _map(runner, work) for runner in runners}
        rows = [_row(runner, runners, maps) for runner in runners]
    return {
        **document.header("n2q-edge against others"),
        "state_before": state,
        "state_after": sensors.state(),
        "weights": files.weights,
        "slices_a_round": slices,
        "rounds": rounds,
        "baseline": BASELINE,
        "rows": rows,
    }


def _input(series: Path, work: Path) -> Path:
    file = work / "slice.npy"
    np.save(file, middle_slice(series))
    return file


def _map(runner: Runner, work: Path) -> np.ndarray:
    file = work / "map.npy"
    runner.process.ask("save", path=str(file))
    return np.load(file)


def _row(runner: Runner, runners: list[Runner], maps: dict[str, np.ndarray]) -> dict[str, Any]:
    entry = runner.entry
    others = {other.entry.key: other for other in runners}
    return {
        **asdict(entry),
        "library": runner.process.ready["library"],
        "start_ms": runner.process.cold_start_ms,
        "peak_mib": runner.process.ask("memory")["peak_mib"],
        "infer_ms": asdict(summarise([time for block in runner.infer for time in block])),
        "end_to_end_ms": asdict(summarise([statistics.median(block) for block in runner.end_to_end])),
        "times_faster_infer": {
            key: asdict(ratio(other.infer, runner.infer)) for key, other in others.items()
        },
        "times_faster_end_to_end": {
            key: asdict(ratio(other.end_to_end, runner.end_to_end)) for key, other in others.items()
        },
        "map_difference": _difference(entry, maps),
    }


def _difference(entry: Entry, maps: dict[str, np.ndarray]) -> dict[str, float] | None:
    """How far a row's map is from PyTorch's, SSIM; None for another model or resolution."""
    if entry.model != "n2q" or entry.side != 512:
        return None
    difference = np.abs(maps[entry.key] - maps[BASELINE])
    return {"mean": float(difference.mean()), "max": float(difference.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=prepare.WORK)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=6, help="of every competitor in a round")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    document.write(measure(options.work, options.rounds, options.slices), options.json)


if __name__ == "__main__":
    main()
