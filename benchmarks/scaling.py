"""How the time grows: with the number of slices, with the matrix size, with the cores.

python -m benchmarks.scaling --json benchmarks/results/scaling-NAME.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import prepare
from benchmarks.memory import make_slices
from n2q_edge.bench import document, sensors
from n2q_edge.bench.inputs import made_up_slice
from n2q_edge.bench.measure import Candidate, Plan, measure
from n2q_edge.bench.process import Process
from n2q_edge.bench.statistics import summarise

SLICES = (25, 100, 400)
SIDES = (256, 512, 768, 1024)
ROUNDS = 3


def against_slices(work: Path) -> list[dict[str, Any]]:
    """Whole slices, from files to scores, in series of several lengths."""
    import numpy as np

    source = next(iter(sorted(prepare.series(work).rglob("*.dcm"))))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        np.save(root / "slice.npy", made_up_slice())
        for count in SLICES:
            make_slices(source, root / str(count), count, of_one_series=True)
        options = {"model": None, "runtime": "auto", "threads": None, "input": str(root / "slice.npy")}
        rates: dict[int, list[float]] = {count: [] for count in SLICES}
        with Process(options) as process:
            for _ in range(ROUNDS):
                for count in SLICES:
                    done = process.ask("stream", series=str(root / str(count)))
                    rates[count].append(1000 * done["seconds"] / done["slices"])
    return [{"slices": count, "ms_a_slice": _plain(rates[count])} for count in SLICES]


def against_size(onnx: Path, slices: int) -> list[dict[str, Any]]:
    """Inference alone, by matrix size and model."""
    rows = []
    for side in SIDES:
        plan = Plan(slices=slices, rounds=ROUNDS, size=side)
        measured = measure([Candidate(), Candidate(onnx)], plan)
        rows += [_row(result, side=side) for result in measured["candidates"]]
    return rows


def against_cores(onnx: Path, slices: int) -> list[dict[str, Any]]:
    """Inference alone, by threads and model; threads take turns."""
    counts = range(1, prepare.threads() + 1)
    candidates = [Candidate(model, threads=count) for model in (None, onnx) for count in counts]
    plan = Plan(slices=slices, rounds=ROUNDS)
    return [_row(result) for result in measure(candidates, plan)["candidates"]]


def _row(result: dict[str, Any], **more: Any) -> dict[str, Any]:
    total = result["latency_ms"]["saturated"]["total"]
    runtime = result["runtime"]
    return {
        "model": result["model"]["name"],
        "runtime": runtime["name"],
        "threads": runtime["threads"],
        **more,
        "ms_a_slice": {key: total[key] for key in ("p50", "minimum", "maximum", "cv", "n")},
    }


def _plain(values: list[float]) -> dict[str, Any]:
    figures = summarise(values)
    return {"p50": figures.p50, "minimum": figures.minimum, "maximum": figures.maximum, "n": figures.n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=prepare.WORK)
    parser.add_argument("--slices", type=int, default=9, help="of a candidate, in all rounds together")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    files = prepare.all_of_it(options.work)
    before = sensors.state()
    result = {
        **document.header("n2q-edge scaling"),
        "slices": against_slices(options.work),
        "size": against_size(files.onnx, options.slices),
        "cores": against_cores(files.onnx, options.slices),
        "state_before": before,
        "state_after": sensors.state(),
    }
    document.write(result, options.json)


if __name__ == "__main__":
    main()
