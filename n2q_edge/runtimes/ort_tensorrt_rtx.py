"""ONNX Runtime on an NVIDIA RTX GPU through NVIDIA's plugin provider, which brings its own TensorRT for RTX.

The plugin works with the plain `onnxruntime`. It calls itself an alpha (0.5).
"""

from __future__ import annotations

import contextlib
import ctypes
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from n2q_edge.errors import ModelError, require
from n2q_edge.runtimes import ort
from n2q_edge.runtimes.checks import Choice
from n2q_edge.runtimes.libraries import first_line, import_onnxruntime
from n2q_edge.runtimes.model_file import ModelFile

NAME = "onnxruntime-tensorrt-rtx"
EXTRA = "ort-rtx"
SUFFIXES = ort.SUFFIXES
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


def is_available() -> bool:
    """ONNX Runtime and the plugin are installed; says nothing about a GPU."""
    return ort.is_available() and find_spec(PLUGIN) is not None


def version() -> str:
    """Versions of ONNX Runtime and of the plugin."""
    from importlib.metadata import packages_distributions
    from importlib.metadata import version as distribution_version

    (distribution, *_) = packages_distributions()[PLUGIN]
    return f"{ort.version()}, plugin {distribution_version(distribution)}"


def open(model: ModelFile, threads: int, choice: Choice) -> ort.OnnxRuntimeModel:
    """Open an ONNX file on the GPU, or fail: never on the CPU instead.

    Raises:
        MissingDependencyError: ONNX Runtime or the plugin is not installed.
        ModelError: the plugin does not load (no driver), or it sees no GPU.
    """
    library = import_onnxruntime(EXTRA)
    plugin = require(PLUGIN, EXTRA)
    provider = str(plugin.get_ep_name())
    devices = _devices(library, plugin, provider)
    return ort.OnnxRuntimeModel(library, NAME, model, threads, choice, provider, devices)


def _devices(library: ModuleType, plugin: ModuleType, provider: str) -> list[Any]:
    """The GPUs the plugin offers; it is registered once a process."""
    if not hasattr(library, "register_execution_provider_library"):
        raise ModelError(f"runtime {NAME!r} needs onnxruntime 1.24 or later, here is {library.__version__}")
    if not _offered(library, provider):
        path = Path(plugin.get_library_path())
        for cudart in path.parent.glob(
            "libcudart.so.*"
        ):  # the plugin links it, and does not look beside itself
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(cudart), mode=ctypes.RTLD_GLOBAL)
        try:
            library.register_execution_provider_library(provider, str(path))
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ModelError(
                f"runtime {NAME!r}: its plugin does not load ({first_line(error)}): is there an NVIDIA "
                "driver? See 'n2q-edge doctor'"
            ) from None
    devices = _offered(library, provider)
    if not devices:
        raise ModelError(f"runtime {NAME!r}: {provider} sees no RTX GPU here: see 'n2q-edge doctor'")
    return devices[:1]


def _offered(library: ModuleType, provider: str) -> list[Any]:
    return [device for device in library.get_ep_devices() if device.ep_name == provider]
