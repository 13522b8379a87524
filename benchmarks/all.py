"""Everything in the README's performance section, one part after the other, each in a fresh process.

    python -m benchmarks.all            # about ten minutes on two cores, after the preparation
    python -m benchmarks.all --quick    # a minute or two: does it run? The figures mean little

The machine should do nothing else; the load average before and after is in every result.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import prepare
from benchmarks.pages import RESULTS
from n2q_edge.bench import sensors

BUSY = 0.5  # load average over a minute


def parts(results: Path, name: str, quick: bool) -> dict[str, list[str]]:
    """Command lines by part."""

    def out(kind: str) -> list[str]:
        return ["--json", str(results / f"{kind}-{name}.json")]

    def script(kind: str, *options: str) -> list[str]:
        return ["-m", f"benchmarks.{kind}", *options, *out(kind)]

    both = ["--runtime", "onnxruntime", "--runtime", "openvino", "--quiet"]
    size = ["--rounds", "1", "--slices", "2"] if quick else ["--slices", "40"]
    bench = ["-m", "n2q_edge", "bench", *both, *size]
    files = prepare.all_of_it()
    modes = ["--mode", "latency", "--mode", "throughput", "--mode", "stream", "--series", str(files.series)]
    plot = ["--plot", str(results / f"bench-{name}.png")]
    return {
        "against": script("against", *(["--rounds", "1", "--slices", "1"] if quick else [])),
        "roofline": script("roofline", *(["--slices", "3"] if quick else [])),
        "decode": script("decode"),
        "startup": script("startup"),
        "bench": [*bench, *modes, *plot, *out("bench")],
        "bench-n2q": [*bench, str(files.onnx), *out("bench-n2q")],
        "scaling": script("scaling", *(["--slices", "3"] if quick else [])),
        "scan": script("scan", *(["--files", "1000"] if quick else [])),
        "memory": script("memory", *(["--slices", "10", "--slices", "20"] if quick else [])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default=prepare.machine_name())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", help="a part; repeatable")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    commands = parts(options.results, options.name, options.quick)
    load = sensors.state()["load_average"]
    if load is not None and load > BUSY:
        print(f"warning: the load average is {load}: end other programs, or the figures mean little")
    failed = []
    for kind in options.only or commands:
        began = time.monotonic()
        print(f"--- {kind}", flush=True)
        done = subprocess.run([sys.executable, *commands[kind]], check=False, cwd=prepare.ROOT)
        if done.returncode:  # the others are still worth having
            failed.append(kind)
        print(f"    {time.monotonic() - began:.0f} s", flush=True)
    pages = ["-m", "benchmarks.pages", "--results", str(options.results), "--name", options.name]
    subprocess.run([sys.executable, *pages], check=True, cwd=prepare.ROOT)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
