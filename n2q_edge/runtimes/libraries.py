"""Import ONNX Runtime and OpenVINO, and keep both from phoning home.

A CT scanner's workstation sends nothing anywhere. Both libraries' official wheels do:

- `onnxruntime` >= 1.29 uploads events over HTTPS unless `ORT_DISABLE_TELEMETRY=1` is set before it starts
  (its Privacy.md, "Disabling Telemetry").
- `import openvino` sends an "import" event through the package `openvino_telemetry` and writes an identifier
  to `~/intel`; without that package it uses its own stub.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

from n2q_edge.errors import ModelError, require
from n2q_edge.install import install_command


def import_onnxruntime(extra: str = "cpu") -> ModuleType:
    """ONNX Runtime, telemetry off.

    Raises:
        MissingDependencyError: not installed.
        ModelError: installed, but it does not load.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return _import("onnxruntime", extra)


def import_openvino() -> ModuleType:
    """OpenVINO, telemetry off.

    Raises:
        MissingDependencyError: not installed.
        ModelError: installed, but it does not load.
    """
    if "openvino" in sys.modules or "openvino_telemetry" in sys.modules:
        return _import("openvino", "cpu")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # "not installed", so the stub is used
    try:
        return _import("openvino", "cpu")
    finally:
        del sys.modules["openvino_telemetry"]


def _import(package: str, extra: str) -> ModuleType:
    try:
        return require(package, extra)
    except (ImportError, OSError, AttributeError) as error:  # a broken or mismatched binary
        raise ModelError(
            f"{package} is installed but does not load ({first_line(error)}): reinstall it, "
            f"{install_command(extra)} --force-reinstall"
        ) from None


def first_line(error: BaseException) -> str:
    """The first line that says something, without the C++ source positions some libraries put first."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith("Exception from ")]
    return (telling or [type(error).__name__])[0]
