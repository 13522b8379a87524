"""The inference libraries, one module each, and the one function that opens a model with one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from n2q_edge import released_models
from n2q_edge.errors import MissingDependencyError, ModelError, UsageError
from n2q_edge.install import install_command
from n2q_edge.runtimes import (
    openvino_cpu,
    ort,
    ort_cuda,
    ort_tensorrt,
    ort_tensorrt_rtx,
    tensorrt,
    tensorrt_pycuda,
    torch_cpu,
)
from n2q_edge.runtimes.base import Inference, InferTiming, Runtime
from n2q_edge.runtimes.checks import Choice
from n2q_edge.runtimes.model_file import ModelFile, read_model_file
from n2q_edge.runtimes.threads import physical_cores

__all__ = ["RUNTIMES", "InferTiming", "Inference", "Runtime", "RuntimeModule", "open_model"]


class RuntimeModule(Protocol):
    """What a module must offer to be a runtime. To add one: write such a module and name it in `RUNTIMES`."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """Its name on the command line."""

    @property
    def EXTRA(self) -> str:  # noqa: N802
        """The extra that installs its library."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:  # noqa: N802
        """The files it opens."""

    def is_available(self) -> bool:
        """Its library is installed; says nothing about a GPU."""

    def version(self) -> str:
        """Version of its library."""

    def open(self, model: ModelFile, threads: int, choice: Choice) -> Runtime:
        """Open a model file."""


RUNTIMES: dict[str, RuntimeModule] = {
    "onnxruntime": ort,
    "onnxruntime-cuda": ort_cuda,
    "onnxruntime-tensorrt": ort_tensorrt,
    "onnxruntime-tensorrt-rtx": ort_tensorrt_rtx,
    "openvino": openvino_cpu,
    "tensorrt": tensorrt,
    "tensorrt-pycuda": tensorrt_pycuda,
    "torch": torch_cpu,
}

AUTO = "auto"
CPU_RUNTIMES = ("onnxruntime", "openvino")  # those that open ONNX files; the first is the default
# The measured fastest of them by the class of the network (`spec.network`): ms a slice of 512x512, float32,
# 2 threads, on two machines (the second an EPYC 9004).
FASTEST = {
    "unet": "openvino",  # 301 and 171, against 399 and 228 for ONNX Runtime
    "compact": "onnxruntime",  # 33.5 and 20, against 57 and 24 for OpenVINO
}


def open_model(path: Path | None = None, runtime: str = AUTO, threads: int | None = None) -> Runtime:
    """Open a model.

    Args:
        path: an ONNX file, a TensorRT engine, a checkpoint or the name of a released model; None is the
            default one of these.
        runtime: a name of `RUNTIMES`, or `auto`: `tensorrt` for an engine; for an ONNX file the CPU runtime,
            among those installed, that was measured fastest for its network. ONNX files get a GPU only by
            name. `describe()` says which it is, and why.
        threads: CPU threads; None is one for each physical core.

    Raises:
        UsageError: no such runtime, a runtime that does not open such files, or `threads` < 1.
        MissingDependencyError: the runtime, or any for this file, is not installed.
        ModelError: the file is missing, damaged, foreign or without a spec, or it should be the released
            one and has another hash.
    """
    if threads is None:
        threads = physical_cores()
    if threads < 1:
        raise UsageError(f"threads is {threads}, must be 1 or more")
    if runtime != AUTO and runtime not in RUNTIMES:
        raise UsageError(f"no runtime {runtime!r}: choose {AUTO} or one of {', '.join(RUNTIMES)}")
    model = _read(path, runtime)
    if runtime == AUTO:
        return _open_fastest(model, threads)
    module = RUNTIMES[runtime]
    if model.path.suffix.lower() not in module.SUFFIXES:
        hint = ": build one with 'n2q-edge build'" if module.SUFFIXES == tensorrt.SUFFIXES else ""
        raise UsageError(
            f"runtime {runtime!r} opens {', '.join(module.SUFFIXES)} files, not {model.path}{hint}"
        )
    return module.open(model, threads, Choice("user", "named by the caller"))


def _read(path: Path | None, runtime: str) -> ModelFile:
    if path is None or str(path) in released_models.names():
        released = released_models.released(None if path is None else str(path))
        if runtime == torch_cpu.NAME:
            return read_model_file(released.checkpoint, released.checkpoint_sha256)
        return read_model_file(released.onnx, released.sha256)
    suffix = path.suffix.lower()
    known = sorted({suffix for module in RUNTIMES.values() for suffix in module.SUFFIXES})
    if suffix not in known:
        raise ModelError(
            f"{path} is not a model file: unknown file extension, expected one of {', '.join(known)}"
        )
    return read_model_file(path)


def _open_fastest(model: ModelFile, threads: int) -> Runtime:
    if model.path.suffix.lower() in torch_cpu.SUFFIXES:
        return torch_cpu.open(model, threads, Choice(AUTO, "only torch opens checkpoints"))
    if model.path.suffix.lower() in tensorrt.SUFFIXES:
        return tensorrt.open(model, threads, Choice(AUTO, "only TensorRT opens engines"))
    installed = [name for name in CPU_RUNTIMES if RUNTIMES[name].is_available()]
    if not installed:
        raise MissingDependencyError(f"no runtime for ONNX files is installed: {install_command('cpu')}")
    if len(installed) == 1:
        return RUNTIMES[installed[0]].open(model, threads, Choice(AUTO, "the only CPU runtime installed"))
    # The network's class is known once the file is open; opening it twice costs a tenth of a second, once.
    first = RUNTIMES[installed[0]].open(model, threads, _why(installed[0], None))
    network = str(first.spec.network.get("class"))
    fastest = FASTEST.get(network, CPU_RUNTIMES[0])
    first.close()
    return RUNTIMES[fastest].open(model, threads, _why(fastest, network))


def _why(name: str, network: str | None) -> Choice:
    if network in FASTEST:
        return Choice(AUTO, f"measured fastest on CPUs for networks of class {network!r}")
    return Choice(AUTO, f"the default: no measurement for networks of class {network!r}")
