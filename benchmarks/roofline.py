"""How far the runtimes are from this machine's own limits.

Limits are measured, not read off a data sheet: the rate of large float32 matrix products (the faster of
numpy's and PyTorch's) and the bandwidth of a copy too large for any cache. The floor of a model is the larger
of its operations over that rate and its compulsory bytes over that bandwidth (benchmarks/cost.py).

A library may go below it: Winograd convolutions need fewer multiplications than the count assumes.

    python -m benchmarks.roofline --json benchmarks/results/roofline-NAME.json
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from n2q_edge.runtimes.threads import physical_cores

THREADS = physical_cores()
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = str(THREADS)  # before numpy loads

from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from time import perf_counter  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks import prepare  # noqa: E402
from benchmarks.cost import cost  # noqa: E402
from n2q_edge import released_models  # noqa: E402
from n2q_edge.bench import document, sensors  # noqa: E402
from n2q_edge.bench.inputs import made_up_slice  # noqa: E402
from n2q_edge.bench.measure import Candidate, Plan, measure  # noqa: E402

SIDE = 2048  # of the matrices
COPY_BYTES = 256 * 2**20  # of each array
ROUNDS = 7


def best(step: Any, work: float) -> float:
    """Work per second of the fastest of `ROUNDS` calls: a limit is what was reached once."""
    step()
    times = []
    for _ in range(ROUNDS):
        start = perf_counter()
        step()
        times.append(perf_counter() - start)
    return work / min(times)


def sgemm() -> dict[str, float]:
    """FLOP/s of float32 matrix products, by library."""
    import torch

    torch.set_num_threads(THREADS)
    random = np.random.default_rng(0)
    left, right = (random.standard_normal((SIDE, SIDE), dtype=np.float32) for _ in range(2))
    out = np.empty_like(left)
    first, second, third = (torch.from_numpy(array) for array in (left, right, out))
    flops = 2.0 * SIDE**3
    return {
        "numpy": best(lambda: np.matmul(left, right, out=out), flops),
        "torch": best(lambda: torch.mm(first, second, out=third), flops),
    }


def bandwidth() -> float:
    """Bytes/s read and written by a copy with all threads."""
    source = np.ones(COPY_BYTES // 4, dtype=np.float32)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(source, THREADS), np.array_split(target, THREADS), strict=True))
    with ThreadPoolExecutor(THREADS) as pool:
        return best(lambda: list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts)), 2.0 * COPY_BYTES)


def run(work: Path, slices: int) -> dict[str, Any]:
    files = prepare.all_of_it(work)
    named = {name: released_models.released(name).onnx for name in released_models.names()} | {
        "n2q": files.onnx
    }
    before = sensors.state()
    limits = [(sgemm(), bandwidth())]
    candidates = [Candidate(file, runtime) for file in named.values() for runtime in prepare.CPU_RUNTIMES]
    measured = measure(candidates, Plan(modes=("throughput",), slices=slices, rounds=3, batches=(1,)))
    limits.append((sgemm(), bandwidth()))  # again: the higher counts
    rates = {name: max(found[name] for found, _ in limits) for name in limits[0][0]}
    rate, bytes_per_s = max(rates.values()), max(found for _, found in limits)
    rows = []
    for index, result in enumerate(measured["candidates"]):
        name = list(named)[index // len(prepare.CPU_RUNTIMES)]
        figures = cost(named[name], made_up_slice())
        floor, layerwise = figures.floor_ms(rate, bytes_per_s), figures.layerwise_ms(rate, bytes_per_s)
        p50 = result["latency_ms"]["saturated"]["compute"]["p50"]
        full = 1000 / result["throughput"][0]["slices_per_s"]["p50"]
        rows.append(
            {
                "model": name,
                "runtime": result["runtime"]["name"],
                "compute_p50_ms": p50,
                "cv": result["latency_ms"]["saturated"]["compute"]["cv"],
                "gflop": figures.flops / 1e9,
                "compulsory_mb": figures.compulsory_bytes / 1e6,
                "layer_mb": figures.layer_bytes / 1e6,
                "io_mb": figures.io_bytes / 1e6,
                "floor_ms": floor,
                "layerwise_ms": layerwise,
                "of_floor": p50 / floor,
                "of_layerwise": p50 / layerwise,
                "lanes": result["throughput"][0]["lanes"],
                "full_load_ms": full,
                "full_load_of_floor": full / floor,
            }
        )
    return {
        **document.header("n2q-edge roofline"),
        "threads": THREADS,
        "state_before": before,
        "state_after": sensors.state(),
        "sgemm_gflops": {name: value / 1e9 for name, value in rates.items()},
        "bandwidth_gb_s": bytes_per_s / 1e9,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=prepare.WORK)
    parser.add_argument("--slices", type=int, default=30)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    document.write(run(options.work, options.slices), options.json)


if __name__ == "__main__":
    main()
