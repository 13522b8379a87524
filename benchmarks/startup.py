"""From the shell to the first result: `n2q-edge assess` on one slice, a fresh process every time.

Files are in the page cache ("warm"). Also `--help`, and the parts of a start-up, measured inside the process.

    python -m benchmarks.startup --json benchmarks/results/startup-NAME.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import prepare
from n2q_edge.bench import document, sensors
from n2q_edge.bench.inputs import middle_slice
from n2q_edge.bench.process import Process
from n2q_edge.bench.statistics import summarise

TIMES = 7


def seconds(*arguments: str) -> float:
    """One run of `n2q-edge`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "n2q_edge", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def run(work: Path) -> dict[str, Any]:
    series = prepare.series(work)
    one = str(sorted(series.rglob("*.dcm"))[prepare.SLICES // 2])
    file = work / "slice.npy"
    np.save(file, middle_slice(series))
    before = sensors.state()
    seconds("assess", one, "--quiet", "--json")  # fills the page cache
    runs: dict[str, list[float]] = {"assess one slice": [], "--help": []}
    parts: dict[str, list[float]] = {"open": [], "first_inference": []}
    for _ in range(TIMES):
        runs["assess one slice"].append(seconds("assess", one, "--quiet", "--json"))
        runs["--help"].append(seconds("--help"))
        with Process({"model": None, "runtime": "auto", "threads": None, "input": str(file)}) as process:
            for name, value in process.ready["start_ms"].items():
                parts[name].append(value)
    return {
        **document.header("n2q-edge start-up"),
        "state_before": before,
        "state_after": sensors.state(),
        "seconds": {name: asdict(summarise(values)) for name, values in runs.items()},
        "parts_ms": {name: asdict(summarise(values)) for name, values in parts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=prepare.WORK)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    document.write(run(options.work), options.json)


if __name__ == "__main__":
    main()
