"""Latency and parity of every way to run a model on this machine's NVIDIA GPU. See gpu.sh.

    python benchmarks/gpu.py [--rounds 200] [CHECKPOINT|MODEL.onnx ...]

Without arguments: the released model and the trained recipes; where there is no PyTorch (a Jetson), the
released ONNX file alone. Export others elsewhere and name them.

The ways take turns, one slice each, so that clocks and temperature are the same for all. One number is the
time of `infer` on the host, from HU in NumPy to results in NumPy; h2d, compute and d2h are the device's own.
Parity is against float32 ONNX Runtime on the CPU. What does not run is listed with the reason.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from n2q_edge import released_models
from n2q_edge.errors import N2QError
from n2q_edge.machine import describe_machine
from n2q_edge.model import checkpoint, export
from n2q_edge.model.engine.build import build
from n2q_edge.model.parity import parity_slices
from n2q_edge.runtimes import cuda, open_model
from n2q_edge.spec import FLOAT_PRECISIONS

RESULTS = Path(__file__).parent / "results"
ONNX_RUNTIMES = ("onnxruntime-cuda", "onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx")
WARM_UP = 20


@dataclass
class Way:
    """One way to run a model."""

    name: str
    run: Callable[[Any], tuple[Any, dict[str, float | None]]]
    facts: dict[str, Any]
    milliseconds: list[float] = field(default_factory=list)
    stages: list[dict[str, float | None]] = field(default_factory=list)


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("models", nargs="*", type=Path)
    options = arguments.parse_args()
    try:
        gpu = cuda.open()
    except N2QError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    device = gpu.device
    gpu.close()
    found = {
        "gpu": vars(device),
        "machine": describe_machine(),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": options.rounds,
        "models": [measure(path, options.rounds) for path in options.models or released()],
    }
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"gpu-{re.sub('[^a-z0-9]+', '-', device.name.lower())}.json"
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(out)
    return 0


def released() -> list[Path]:
    """The released checkpoint and those of the recipes; without PyTorch the released ONNX file."""
    if find_spec("torch") is None:
        return [released_models.released().onnx]
    recipes = Path(__file__).parents[1] / "export"
    paths = {
        path.stem: path for path in (released_models.released().checkpoint, *recipes.glob("*.safetensors"))
    }
    return list(paths.values())


def measure(path: Path, rounds: int) -> dict[str, Any]:
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways, files = [], {"as given": path}
        if path.suffix != ".onnx":
            files = onnx_files(path, Path(folder), skipped)
            ways = torch_ways(checkpoint.load_network(path, path.read_bytes())[1], skipped)
        with open_model(files.get("fp32", path), "onnxruntime") as reference:
            spec = reference.spec
            (hu, *_) = parity_slices(spec.size_multiple)
            expected = reference.infer(hu)
        ways += [*onnx_ways(files, skipped), *engine_ways(files, Path(folder), skipped)]
        for _ in range(rounds):
            for way in ways:
                began = time.perf_counter()
                _, stages = way.run(hu)
                way.milliseconds.append((time.perf_counter() - began) * 1e3)
                way.stages.append(stages)
        rows = [row(way, way.run(hu)[0], expected) for way in ways]
    for entry in sorted(rows, key=lambda entry: entry["p50_ms"]):
        print(
            f"{spec.name:10} {entry['name']:40} p50 {entry['p50_ms']:8.3f} ms  p90 {entry['p90_ms']:8.3f} ms"
        )
    for name, reason in skipped.items():
        print(f"{spec.name:10} {name:40} not run: {reason}")
    return {
        "model": spec.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "shape": list(hu.shape),
        "ways": rows,
        "not_run": skipped,
    }


def row(way: Way, quality: Any, expected: Any) -> dict[str, Any]:
    difference = np.abs(quality - expected.quality_map)
    stages = {
        name: float(np.median([stage[name] for stage in way.stages]))
        for name in ("h2d", "compute", "d2h")
        if all(stage.get(name) is not None for stage in way.stages)
    }
    return {
        "name": way.name,
        "p50_ms": float(np.percentile(way.milliseconds, 50)),
        "p90_ms": float(np.percentile(way.milliseconds, 90)),
        "min_ms": min(way.milliseconds),
        "stages_p50_ms": stages,
        "map_max_difference": float(difference.max()),
        "map_mean_difference": float(difference.mean()),
        "facts": way.facts,
    }


def onnx_files(path: Path, folder: Path, skipped: dict[str, str]) -> dict[str, Path]:
    """The model as ONNX in each precision its gate lets through."""
    files = {}
    for precision in FLOAT_PRECISIONS:
        out = folder / f"{path.stem}.{precision}.onnx"
        try:
            export.export_model(path, out, precision=precision)
            files[precision] = out
        except Exception as error:
            skipped[f"export {precision}"] = str(error)
    return files


def attempt(name: str, make: Callable[[], Way], skipped: dict[str, str]) -> list[Way]:
    """The way, warmed up, or nothing and the reason."""
    try:
        way = make()
        (hu, *_) = parity_slices(32)
        for _ in range(WARM_UP):
            way.run(hu)
        return [way]
    except Exception as error:  # whatever it is, the others are measured
        skipped[name] = " ".join(str(error).split())[:300] or type(error).__name__
        return []


def runtime_way(name: str, file: Path, runtime: str) -> Way:
    opened = open_model(file, runtime)

    def run(hu: Any) -> tuple[Any, dict[str, float | None]]:
        result = opened.infer(hu)
        timing = result.timing
        return result.quality_map, {"h2d": timing.h2d, "compute": timing.compute, "d2h": timing.d2h}

    return Way(name, run, opened.describe())


def onnx_ways(files: dict[str, Path], skipped: dict[str, str]) -> list[Way]:
    ways = []
    for runtime in ONNX_RUNTIMES:
        for precision, file in files.items():
            name = f"{runtime} {precision}"
            ways += attempt(name, lambda n=name, f=file, r=runtime: runtime_way(n, f, r), skipped)  # type: ignore[misc]
    return ways


def engine_ways(files: dict[str, Path], folder: Path, skipped: dict[str, str]) -> list[Way]:
    """Engines of both libraries, built here."""
    ways = []
    for flavor in ("tensorrt", "tensorrt-rtx"):
        for precision, file in files.items():

            def make(flavor: str = flavor, precision: str = precision, file: Path = file) -> Way:
                report = build(file, folder / f"{file.stem}.{flavor}.engine", flavor=flavor)
                way = runtime_way(f"{flavor} {precision}", report.path, "tensorrt")
                way.facts["build_seconds"] = report.sidecar.build_seconds
                return way

            ways += attempt(f"{flavor} {precision}", make, skipped)
    return ways


def torch_ways(network: Any, skipped: dict[str, str]) -> list[Way]:
    """PyTorch eager in float32 and float16, compiled, and as a CUDA graph."""
    return [
        way
        for name in ("eager fp32", "eager fp16", "compile fp16", "graph fp16")
        for way in attempt(f"torch {name}", lambda name=name: torch_way(network, name), skipped)  # type: ignore[misc]
    ]


def torch_way(network: Any, name: str) -> Way:
    import copy

    import torch

    from n2q_edge.model.precision import in_precision

    kind, precision = name.split()
    model: Any = in_precision(copy.deepcopy(network).eval(), precision).cuda()
    if kind == "compile":
        model = torch.compile(model, mode="max-autotune-no-cudagraphs")
    facts = {"name": "torch", "version": torch.__version__, "kind": kind, "precision": precision}
    with torch.inference_mode():
        if kind == "graph":
            return Way(f"torch {name}", torch_graph(torch, model), facts)

    def run(hu: Any) -> tuple[Any, dict[str, float | None]]:
        with torch.inference_mode():
            return model(torch.from_numpy(hu).cuda())[0].cpu().numpy(), {}

    return Way(f"torch {name}", run, facts)


def torch_graph(torch: Any, model: Any) -> Callable[[Any], tuple[Any, dict[str, float | None]]]:
    (example, *_) = parity_slices(32)
    static = torch.from_numpy(example).cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = model(static)

    def run(hu: Any) -> tuple[Any, dict[str, float | None]]:
        with torch.inference_mode():
            static.copy_(torch.from_numpy(hu))
            graph.replay()
            return outputs[0].cpu().numpy(), {}

    return run


if __name__ == "__main__":
    sys.exit(main())
