"""What this machine can run, and why not the rest.

It names hardware and software, never the host or its user. It asks by trying: a runtime is usable if it ran
the released model here. The released model is an ONNX file; a runtime of engines is tried as far as a GPU and
a library that starts, and is `ready` if there are both: what it then needs is an engine.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from n2q_edge import __version__, released_models
from n2q_edge.arrays import round_up
from n2q_edge.errors import N2QError
from n2q_edge.install import install_command
from n2q_edge.machine import describe_machine
from n2q_edge.runtimes import (
    AUTO,
    RUNTIMES,
    RuntimeModule,
    cuda,
    cuda_pycuda,
    open_model,
    tensorrt,
    tensorrt_library,
    tensorrt_pycuda,
)
from n2q_edge.runtimes.libraries import first_line
from n2q_edge.runtimes.model_file import read_model_file
from n2q_edge.spec import HU_MIN, ModelSpec

if TYPE_CHECKING:
    from rich.console import Console

TRIAL_SIDE = 128  # pixels
# How the runtimes of engines, which cannot open the released model, get at the GPU.
OPEN_CUDA: dict[str, Callable[[], Any]] = {
    tensorrt.NAME: lambda: cuda.open(),
    tensorrt_pycuda.NAME: lambda: cuda_pycuda.open(),
}
NEEDS_ENGINE = "needs an engine: n2q-edge build MODEL.onnx (docs/how-to/gpu.md)"
NVIDIA_SMI_SECONDS = 10
NVIDIA_QUERY = ("name", "driver_version", "memory.total", "compute_cap")
# The transfer syntaxes CT images come in (DICOM PS3.5 section 10 and annex A), by pydicom's keywords.
TRANSFER_SYNTAXES = (
    "ImplicitVRLittleEndian",
    "ExplicitVRLittleEndian",
    "ExplicitVRBigEndian",
    "DeflatedExplicitVRLittleEndian",
    "RLELossless",
    "JPEGBaseline8Bit",
    "JPEGExtended12Bit",
    "JPEGLossless",
    "JPEGLosslessSV1",
    "JPEGLSLossless",
    "JPEGLSNearLossless",
    "JPEG2000Lossless",
    "JPEG2000",
    "HTJ2KLossless",
    "HTJ2KLosslessRPCL",
    "HTJ2K",
)


def examine() -> dict[str, Any]:
    """Look at machine, GPU, model, runtimes and decoders. Never raises: what fails is part of the findings.

    Returns:
        JSON-able; the keys are `n2q_edge` (version), `machine`, `gpu`, `model`, `runtimes`, `tensorrt` (the
        libraries that build and run engines), `auto`, `decoders` and `warnings`.
    """
    model = _safely(_model)
    gpu = _safely(_gpu)
    libraries = [{"name": name, **_safely(_tensorrt, name)} for name in tensorrt_library.FLAVORS]
    runtimes = [
        _safely(_engine_runtime, module, libraries) if name in OPEN_CUDA else _safely(_runtime, module, model)
        for name, module in RUNTIMES.items()
    ]
    return {
        "n2q_edge": __version__,
        "machine": _safely(describe_machine),
        "gpu": gpu,
        "model": model,
        "runtimes": runtimes,
        "tensorrt": libraries,
        "auto": _safely(_auto),
        "decoders": [{"keyword": keyword, **_safely(_decoder, keyword)} for keyword in TRANSFER_SYNTAXES],
        "warnings": _warnings(gpu, runtimes),
    }


def _safely(look: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    try:
        return look(*arguments)
    except Exception as error:  # a doctor that dies of the illness helps nobody
        return {"why_not": f"{type(error).__name__}: {first_line(error)}"}


# --- model and runtimes


def _model() -> dict[str, Any]:
    found: dict[str, Any] = {"usable": False, "verified": False}
    try:
        released = released_models.released()
        read_model_file(released.onnx, released.sha256)
        found.update(path=str(released.onnx), sha256=released.sha256, verified=True)
        with open_model() as opened:
            return {**found, "usable": True, "why_not": None, **_summary(opened.spec)}
    except N2QError as error:
        return {**found, "why_not": str(error)}


def _summary(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "version": spec.version,
        "network": spec.network,
        "precision": spec.precision,
        "outputs": list(spec.outputs),
        "dose_levels": list(spec.predicted_doses),
        "window": {"center": spec.window_center, "width": spec.window_width},
        "size_multiple": spec.size_multiple,
    }


def _runtime(module: RuntimeModule, model: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": module.NAME, "installed": False, "usable": False, "version": None}
    try:
        if not module.is_available():
            return {**found, "why_not": f"not installed: {install_command(module.EXTRA)}"}
        found.update(installed=True, version=module.version())
        if not model.get("usable"):
            return {**found, "why_not": "not tried: there is no released model to try it with"}
        with open_model(runtime=module.NAME) as opened:
            multiple = opened.spec.size_multiple
            side = round_up(TRIAL_SIDE, multiple)
            opened.infer(np.full((1, 1, side, side), HU_MIN, dtype=np.float32))
            return {**found, "usable": True, "why_not": None, "device": opened.describe()["device"]}
    except Exception as error:
        return {**found, "why_not": first_line(error)}


def _engine_runtime(module: RuntimeModule, libraries: list[dict[str, Any]]) -> dict[str, Any]:
    """A runtime of engines: `ready` if all is there but the engine. Never `usable`, for nothing was run."""
    found: dict[str, Any] = {
        "name": module.NAME,
        "installed": False,
        "usable": False,
        "ready": False,
        "version": None,
    }
    try:
        if not module.is_available():
            return {**found, "why_not": f"not installed: {install_command(module.EXTRA)}"}
        found.update(installed=True, version=module.version())
        if not any(library.get("usable") for library in libraries):
            return {**found, "why_not": "no TensorRT library that loads: see 'TensorRT libraries'"}
        access = OPEN_CUDA[module.NAME]()
        device = str(access.device.name)
        access.close()
        return {**found, "ready": True, "device": device, "why_not": NEEDS_ENGINE}
    except Exception as error:
        return {**found, "why_not": first_line(error).replace("'n2q-edge doctor' and ", "")}


def _tensorrt(name: str) -> dict[str, Any]:
    """A TensorRT library: installed, `usable` if it loads, and what it can build here."""
    flavor = tensorrt_library.flavor_named(name)
    found: dict[str, Any] = {"installed": False, "usable": False, "version": None, "builds_for": None}
    if not tensorrt_library.is_installed(flavor):
        hint = " (on a Jetson it comes with JetPack)" if flavor is tensorrt_library.TENSORRT else ""
        return {**found, "why_not": f"not found: {install_command(flavor.extra)}{hint}"}
    found["installed"] = True
    try:
        library = tensorrt_library.load(flavor)
        found.update(version=tensorrt_library.version(library))
        capabilities = tensorrt_library.capabilities(flavor, library)
    except Exception as error:
        return {**found, "why_not": first_line(error)}
    where = "the GPU present only"
    if capabilities is not None:
        where = f"compute capability {', '.join(capabilities)}, with or without a GPU"
    return {**found, "usable": True, "builds_for": where, "why_not": None}


def _auto() -> dict[str, Any]:
    with open_model(runtime=AUTO) as opened:
        facts = opened.describe()
    return {"name": facts["name"], "because": facts["chosen_because"], "threads": facts["threads"]}


# --- GPU


def _gpu() -> dict[str, Any]:
    """NVIDIA GPUs as their driver reports them, or why there is none."""
    found: dict[str, Any] = {"devices": [], "jetson": _jetson(), "why_not": None}
    program = shutil.which("nvidia-smi")
    if program is None:
        return {**found, "why_not": _no_driver(found["jetson"])}
    command = [program, f"--query-gpu={','.join(NVIDIA_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {**found, "why_not": f"nvidia-smi does not answer: {first_line(error)}"}
    if answer.returncode != 0:
        complaint = (answer.stdout + answer.stderr).split("\n")[0].strip()
        return {**found, "why_not": f"nvidia-smi fails: {complaint or answer.returncode}"}
    found["devices"] = [_gpu_device(line) for line in answer.stdout.splitlines() if line.strip()]
    return found if found["devices"] else {**found, "why_not": "nvidia-smi lists no GPU"}


def _gpu_device(line: str) -> dict[str, Any]:
    name, driver, memory, capability = (part.strip() for part in line.split(","))
    return {"name": name, "driver": driver, "memory_mib": memory, "compute_capability": capability}


def _no_driver(jetson: str | None, dev: Path = Path("/dev")) -> str:
    if jetson:
        return "a Jetson without nvidia-smi: its GPU is used through JetPack's own packages"
    if any(dev.glob("nvidia*")):
        return "there is an NVIDIA device, but no nvidia-smi: install the driver's tools, or add them to PATH"
    return "no NVIDIA driver: neither nvidia-smi nor /dev/nvidia* exists"


def _jetson(
    release: Path = Path("/etc/nv_tegra_release"), model: Path = Path("/proc/device-tree/model")
) -> str | None:
    """The Jetson's model and L4T release, or None on any other machine."""
    tegra, board = _first_text(release), _first_text(model)
    if tegra is None and "jetson" not in (board or "").lower():
        return None
    return ", ".join(text for text in (board, tegra) if text)


def _first_text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").split("\n")[0].strip("\0 #") or None
    except OSError:
        return None


# --- decoders and warnings


def _decoder(keyword: str) -> dict[str, Any]:
    from pydicom import uid
    from pydicom.pixels.decoders.base import get_decoder

    syntax = getattr(uid, keyword)
    decoder = get_decoder(syntax)
    with_plugins = syntax.is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian
    return {
        "transfer_syntax": str(syntax),
        "name": syntax.name,
        "usable": bool(decoder.is_available),
        "decoders": sorted(decoder.available_plugins) if with_plugins else ["pydicom"],
        "why_not": None if decoder.is_available else "; ".join(decoder.missing_dependencies),
    }


def _warnings(gpu: dict[str, Any], runtimes: list[dict[str, Any]]) -> list[str]:
    warnings = []
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        warnings.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall both, then install one of the extras cpu and ort-gpu"
        )
    on_gpu = [runtime for runtime in runtimes if runtime.get("device") not in (None, "cpu")]
    if gpu.get("devices") and not on_gpu:
        warnings.append("there is a GPU, but no runtime uses it: see docs/how-to/gpu.md")
    if find_spec("onnxruntime") is None and find_spec("openvino") is None:
        warnings.append(f"no runtime for ONNX models is installed: {install_command('cpu')}")
    return warnings


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


# --- the page


def render(findings: dict[str, Any], console: Console) -> None:
    """Print what `examine` found."""
    from rich.markup import escape
    from rich.table import Table

    machine, gpu, model, auto = (findings[key] for key in ("machine", "gpu", "model", "auto"))
    top = Table.grid(padding=(0, 2))
    for name, value in (
        ("n2q-edge", f"{findings['n2q_edge']}, Python {machine.get('python')}"),
        (
            "machine",
            f"{machine.get('cpu')}, {machine.get('cores_usable')} cores, {machine.get('memory_gib')} GiB",
        ),
        ("system", machine.get("os")),
        ("GPU", "; ".join(_gpu_line(device) for device in gpu.get("devices", [])) or gpu.get("why_not")),
        ("Jetson", gpu.get("jetson")),
        ("model", _model_line(model)),
        ("auto", f"{auto['name']}, {auto['threads']} threads: {auto['because']}" if "name" in auto else None),
    ):
        if value:
            top.add_row(f"[bold]{name}[/]", escape(str(value)))
    console.print(top)
    console.print(_table("runtimes", findings["runtimes"], "name", "version"))
    console.print(
        _table("TensorRT libraries", [_tensorrt_row(row) for row in findings["tensorrt"]], "name", "text")
    )
    console.print(_table("decoders", findings["decoders"], "keyword", "decoders"))
    for warning in findings["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def _gpu_line(device: dict[str, Any]) -> str:
    return (
        f"{device['name']}, {device['memory_mib']} MiB, compute capability {device['compute_capability']}, "
        f"driver {device['driver']}"
    )


def _model_line(model: dict[str, Any]) -> str:
    if not model.get("usable"):
        return f"not usable: {model.get('why_not')}"
    return f"{model['name']} {model['version']}, {model['precision']}, SHA-256 {model['sha256']} verified"


def _tensorrt_row(library: dict[str, Any]) -> dict[str, Any]:
    if not library.get("usable"):
        return library
    return {**library, "text": f"{library['version']}, builds engines for {library['builds_for']}"}


def _table(title: str, rows: list[dict[str, Any]], name: str, detail: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title, "", "", box=SIMPLE_HEAD, title_justify="left")
    for row in rows:
        facts = row.get(detail)
        text = ", ".join(facts) if isinstance(facts, list) else facts
        mark = "[green]yes[/]" if row.get("usable") else "[red]no[/]"
        if row.get("ready"):
            mark, text = "[yellow]ready[/]", f"{text}, {row['why_not']}"
        elif row.get("why_not"):
            text = row["why_not"]
        table.add_row(escape(str(row.get(name))), mark, escape(str(text or "")))
    return table
