"""What the benchmarks need and nobody should have to fetch: a series, and faithful N2Q as ONNX.

The series is a phantom of known dose, the same everywhere. Faithful N2Q is export/n2q.safetensors, run on
whole slices as the authors run it, not on tiles as it was trained here; without it, the same network with
fresh weights: its time is the same, its maps mean nothing.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from n2q_edge.machine import describe_machine
from n2q_edge.runtimes.threads import physical_cores

ROOT = Path(__file__).parents[1]
WORK = ROOT / "runs" / "bench"
SLICES = 72  # enough that the last slices, with one core idle, do not count
SIZE_MULTIPLE = 32  # of N2Q's U-Net: four halvings, and one more in its dose head
CPU_RUNTIMES = ("onnxruntime", "openvino")
TRAINED = ROOT / "export" / "n2q.safetensors"


@dataclass(frozen=True)
class Files:
    """Where everything is.

    Attributes:
        series: a folder of uncompressed DICOM slices, 512x512.
        checkpoint: faithful N2Q.
        onnx: the same, exported.
        weights: where the checkpoint came from.
    """

    series: Path
    checkpoint: Path
    onnx: Path
    weights: str


def all_of_it(work: Path = WORK) -> Files:
    """Make what is missing."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, weights = _checkpoint(work)
    return Files(series(work), checkpoint, _onnx(checkpoint, work), weights)


def threads() -> int:
    """What every competitor gets."""
    return physical_cores()


def series(work: Path = WORK) -> Path:
    """A phantom series of `SLICES` slices."""
    folder = work / "phantom"
    if len(list(folder.rglob("*.dcm"))) != SLICES:
        run("phantom", str(folder), "--slices", str(SLICES), "--quiet")
    return folder


def _checkpoint(work: Path) -> tuple[Path, str]:
    if TRAINED.exists():
        return _on_whole_slices(work), "export/n2q.safetensors"
    fresh = work / "n2q-untrained.safetensors"
    if not fresh.exists():
        _write_untrained(fresh)
    return fresh, "untrained"


def _on_whole_slices(work: Path) -> Path:
    from n2q_edge.model import checkpoint

    file = work / f"n2q-{hashlib.sha256(TRAINED.read_bytes()).hexdigest()[:12]}.safetensors"
    if not file.exists():
        spec, weights = checkpoint.load(TRAINED)
        network = {name: value for name, value in spec.network.items() if name != "tile"}
        checkpoint.save(file, replace(spec, network=network, size_multiple=SIZE_MULTIPLE), weights)
    return file


def _write_untrained(file: Path) -> None:
    import torch

    from n2q_edge.model import checkpoint
    from n2q_edge.network import build
    from n2q_edge.spec import ModelSpec

    torch.manual_seed(0)
    network = {"class": "unet", "inputs": ["slice", "high_pass"]}
    spec = ModelSpec("n2q", "untrained", network, size_multiple=SIZE_MULTIPLE)
    checkpoint.save(file, spec, build(spec).state_dict())


def _onnx(checkpoint: Path, work: Path) -> Path:
    """The export of a checkpoint, named by the checkpoint's hash."""
    file = work / f"n2q-{hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:12]}.onnx"
    if not file.exists():
        run("export", str(checkpoint), "-o", str(file))
    return file


def run(*arguments: str) -> None:
    """`n2q-edge` with these arguments."""
    subprocess.run([sys.executable, "-m", "n2q_edge", *arguments], check=True, stdout=subprocess.DEVNULL)


def machine_name() -> str:
    """This machine in a file name, e.g. `amd-epyc-2`: the CPU and the usable cores."""
    machine = describe_machine()
    words = re.findall(r"[a-z0-9]+", re.sub(r"\(.*?\)|@.*", "", machine["cpu"].lower()))
    return "-".join([*words, str(machine["cores_usable"])])
