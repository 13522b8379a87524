"""Feed damaged files to the reader: nothing may crash, hang, or get past the checks.

    python -m tests.fuzz --inputs 30000 --seed 1

Input N of a seed is always the same. Every input is scanned, every slice decoded. From time to time the
command line assesses a folder of such files with one sound slice among them, which must have its result.
Prints JSON and ends with 1 if there were findings; the inputs of findings are kept in `--keep`.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

CHUNK = 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=900, help="stop when so much time has passed")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-findings"), help="folder for inputs of findings"
    )
    options = parser.parse_args()
    began = time.monotonic()
    findings: list[dict[str, object]] = []
    counts: Counter[str] = Counter()
    done = 0
    while done < options.inputs and time.monotonic() - began < options.seconds:
        last = min(done + CHUNK, options.inputs)
        done = _chunk(options.seed, done, last, options.keep, findings, counts)
        print(f"{done} inputs, {len(findings)} findings", file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    kinds = Counter(str(finding["kind"]) for finding in findings)
    summary = {
        "inputs": done,
        "seed": options.seed,
        **{kind: kinds[kind] for kind in ("crash", "hang", "wrong", "stderr", "exit")},
        "assessed_runs": counts.pop("assessed_runs", 0),
        "database_rows": counts.pop("database_rows", 0),
        "peak_memory_mb": round(peak),
        "seconds": round(time.monotonic() - began),
        "outcomes": dict(counts.most_common()),
        "findings": findings[:50],
    }
    print(json.dumps(summary, indent=1))
    return 1 if findings else 0


def _chunk(
    seed: int, first: int, last: int, keep: Path, findings: list[dict[str, object]], counts: Counter[str]
) -> int:
    """Run some inputs in a process of their own; return the first input that was not run."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state.json"
        command = [sys.executable, "-m", "tests.fuzz.worker", str(seed), str(first), str(last), str(state)]
        run = subprocess.run([*command, str(keep)], capture_output=True, text=True, check=False)
        report = (
            json.loads(state.read_text()) if state.exists() else {"next": first, "counts": {}, "findings": []}
        )
    findings += report["findings"]
    counts.update(report["counts"])
    if run.returncode == 0:
        if run.stderr:
            findings.append({"kind": "stderr", "input": f"{first}-{last}", "detail": run.stderr[-500:]})
        return last
    reached = int(report["next"])
    kind = "hang" if run.returncode == -signal.SIGPROF else "crash"
    findings.append({"kind": kind, "input": reached, "detail": f"exit {run.returncode}: {run.stderr[-800:]}"})
    return reached + 1


if __name__ == "__main__":
    sys.exit(main())
