"""The node under load: slices per second on one and three associations while assessing, response times.

    python -m benchmarks.service [--slices 400] [--associations 1 3] [--kill]

dcmtk's storescu sends 512 x 512 slices to `n2q-edge listen` on this machine. With --kill the node's processes
are killed at random while three senders send, and the account at the end says what was lost: nothing may be.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from n2q_edge.machine import describe_machine
from tests.helpers.node import Node, storescu, wait_for
from tests.helpers.node_files import write_series

RESULT = Path(__file__).parent / "results" / "service.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=400)
    parser.add_argument("--associations", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--kill", action="store_true", help="kill processes while three senders send")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = [Path(folder) / f"in{number}" for number in range(1, 4)]
        for number, path in enumerate(inputs, start=1):
            write_series(path, options.slices, number, size=512)
        if options.kill:
            rows = [killed(Path(folder), inputs, options.slices)]
        else:
            rows = [
                throughput(Path(folder), inputs[:count], options.slices) for count in options.associations
            ]
    for row in rows:
        print(json.dumps(row))
    kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    kept[("kill" if options.kill else "throughput")] = rows
    kept["machine"] = describe_machine()
    RESULT.write_text(json.dumps(kept, indent=1) + "\n")


def throughput(folder: Path, inputs: list[Path], slices: int) -> dict[str, Any]:
    """Send, and wait for all results."""
    place = folder / f"node{len(inputs)}"
    place.mkdir()
    with Node(place, assess={"nice": 10, "worst": 5}, series={"quiet_s": 10}) as node:
        node.start()
        began = time.monotonic()
        acknowledged = run_senders(node, inputs)
        seconds = time.monotonic() - began
        count = sum(map(len, acknowledged))
        wait_for("all results", lambda: sum(len(m.slices) for m in node.latest()) == count, 600)
        latencies = sorted(manifest.latency_s for manifest in node.latest())
        p50, p95 = response_quantiles(node.get("metrics"), (0.5, 0.95))
    return {
        "associations": len(inputs),
        "slices": count,
        "lost": slices * len(inputs) - count,
        "slices_per_s": round(count / seconds, 1),
        "response_p50_ms": p50,
        "response_p95_ms": p95,
        "last_slice_to_result_s": [round(value, 1) for value in latencies],
    }


def run_senders(node: Node, inputs: list[Path]) -> list[set[str]]:
    """All at the same time."""
    acknowledged: list[set[str]] = [set() for _ in inputs]

    def send(number: int) -> None:
        acknowledged[number] |= storescu(inputs[number], node.port)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return acknowledged


def response_quantiles(metrics: str, quantiles: tuple[float, ...]) -> list[float | None]:
    """Upper bounds (ms) of the histogram's bucket that a quantile is in."""
    buckets = []
    for line in metrics.splitlines():
        if line.startswith("n2q_edge_response_seconds_bucket"):
            bound = line.partition('le="')[2].partition('"')[0]
            buckets.append((float(bound.replace("+Inf", "inf")), float(line.split()[-1])))
    total = buckets[-1][1]
    bounds = [next(bound for bound, count in buckets if count >= q * total) for q in quantiles]
    return [bound * 1000 for bound in bounds]


def killed(folder: Path, inputs: list[Path], slices: int) -> dict[str, Any]:
    """Three senders that send again what failed, while one process after the other is killed."""
    place, done = folder / "killed", threading.Event()
    place.mkdir()
    kills = 0
    with Node(place, assess={"nice": 10, "worst": 1}) as node:
        node.start()
        acknowledged: list[set[str]] = [set() for _ in inputs]

        def send(number: int) -> None:
            while len(acknowledged[number]) < slices:
                acknowledged[number] |= storescu(inputs[number], node.port)
                time.sleep(0.5)

        senders = [threading.Thread(target=send, args=(number,)) for number in range(len(inputs))]
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            done.wait(random.uniform(2, 6))
            victim = random.choice(("receiver", "worker", "outbox", "supervisor"))
            node.kill(victim)
            kills += 1
            if victim == "supervisor":
                node.start(ready=False)
        covered = 0
        end = time.monotonic() + 300
        while covered < slices * len(inputs) and time.monotonic() < end:
            time.sleep(1)
            covered = sum(len({each.sop_uid for each in manifest.slices}) for manifest in node.latest())
        doubles = sum(len(m.slices) - len({each.sop_uid for each in m.slices}) for m in node.latest())
    acknowledged_count = sum(map(len, acknowledged))
    return {
        "kills": kills,
        "acknowledged": acknowledged_count,
        "in_results": covered,
        "lost": acknowledged_count - covered,
        "twice_in_a_result": doubles,
    }


if __name__ == "__main__":
    main()
