"""NVIDIA's plugin provider, as far as it goes without a GPU: it is never replaced by the CPU in silence."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from n2q_edge.errors import MissingDependencyError, ModelError
from n2q_edge.runtimes import open_model, ort, ort_tensorrt_rtx
from n2q_edge.runtimes.checks import Choice
from n2q_edge.runtimes.model_file import read_model_file

pytestmark = pytest.mark.skipif(not ort.is_available(), reason="needs onnxruntime")
PROVIDER = "NvTensorRTRTXExecutionProvider"
PLUGIN: Any = types.SimpleNamespace(get_library_path=lambda: "/none/libplugin.so")


def library(devices: list[Any], **more: Any) -> Any:
    return types.SimpleNamespace(__version__="1.24", get_ep_devices=lambda: devices, **more)


def gpu(name: str = PROVIDER) -> Any:
    return types.SimpleNamespace(ep_name=name)


def test_not_installed(onnx_file: Path) -> None:
    if ort_tensorrt_rtx.is_available():
        pytest.skip("the plugin is installed")
    with pytest.raises(MissingDependencyError, match=r"\[ort-rtx\]"):
        open_model(onnx_file, "onnxruntime-tensorrt-rtx")


def test_the_real_plugin_without_a_driver(onnx_file: Path) -> None:
    if not ort_tensorrt_rtx.is_available():
        pytest.skip("onnxruntime-ep-nv-tensorrt-rtx is not installed (extra ort-rtx)")
    if any(Path("/dev").glob("nvidia*")):
        pytest.skip("there is a GPU here")
    with pytest.raises(ModelError, match="NVIDIA driver"):
        open_model(onnx_file, "onnxruntime-tensorrt-rtx")


def test_it_is_registered_once() -> None:
    devices: list[Any] = [gpu("CPUExecutionProvider")]
    registered = []

    def register(name: str, path: str) -> None:
        registered.append((name, path))
        devices.append(gpu())

    fake = library(devices, register_execution_provider_library=register)
    for _ in range(2):
        (device,) = ort_tensorrt_rtx._devices(fake, PLUGIN, PROVIDER)
        assert device.ep_name == PROVIDER
    assert registered == [(PROVIDER, "/none/libplugin.so")]


def test_what_goes_wrong_is_said() -> None:
    with pytest.raises(ModelError, match=r"1\.24 or later"):
        ort_tensorrt_rtx._devices(library([]), PLUGIN, PROVIDER)

    def broken(name: str, path: str) -> None:
        raise RuntimeError("libcuda.so.1: cannot open shared object file")

    with pytest.raises(ModelError, match=r"libcuda\.so\.1.*driver"):
        ort_tensorrt_rtx._devices(library([], register_execution_provider_library=broken), PLUGIN, PROVIDER)
    quiet = library([gpu("CPUExecutionProvider")], register_execution_provider_library=lambda *_: None)
    with pytest.raises(ModelError, match="no RTX GPU"):
        ort_tensorrt_rtx._devices(quiet, PLUGIN, PROVIDER)


def test_a_session_that_falls_back_is_refused(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real onnxruntime with its own CPU device under the plugin's name: the session lands on the CPU."""
    real = ort.import_onnxruntime()
    devices = [device for device in real.get_ep_devices() if device.ep_name == ort.CPU_PROVIDER]
    with pytest.raises(ModelError, match=f"{PROVIDER} did not start"):
        ort.OnnxRuntimeModel(
            real, "plugin", read_model_file(onnx_file), 1, Choice("test", ""), PROVIDER, devices
        )
