from __future__ import annotations

import io
import json
import platform
import subprocess
import types
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from n2q_edge import doctor, released_models
from n2q_edge.errors import ModelError
from n2q_edge.report.doctor_table import render
from n2q_edge.runtimes import RUNTIMES, cuda, tensorrt_library


@pytest.fixture(scope="module")
def findings() -> dict[str, Any]:
    return doctor.examine()


def page(findings: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    render(findings, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_findings_are_json_and_name_every_runtime(findings: dict[str, Any]) -> None:
    assert json.loads(json.dumps(findings, allow_nan=False)) == findings
    assert [runtime["name"] for runtime in findings["runtimes"]] == list(RUNTIMES)
    for runtime in findings["runtimes"]:
        assert runtime["installed"] == RUNTIMES[runtime["name"]].is_available()
        assert runtime["usable"] or runtime["why_not"]
        assert bool(runtime["version"]) == runtime["installed"]


def test_the_page_says_the_same(findings: dict[str, Any]) -> None:
    text = page(findings)
    for runtime in findings["runtimes"]:
        assert runtime["name"] in text
    assert findings["machine"]["python"] in text


def test_every_ct_transfer_syntax_is_named(findings: dict[str, Any]) -> None:
    # DICOM PS3.6 table A-1: explicit little endian, JPEG lossless SV1, JPEG 2000 lossless, RLE
    uids = {row["transfer_syntax"]: row for row in findings["decoders"]}
    for uid in (
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.5",
    ):
        assert uid in uids
    assert uids["1.2.840.10008.1.2.1"]["usable"]
    assert all(row["decoders"] or row["why_not"] for row in uids.values())


def test_the_host_is_not_named(findings: dict[str, Any]) -> None:
    host = platform.node()
    if len(host) < 4:
        pytest.skip("the host's name is too short to search for")
    assert host not in json.dumps(findings)


def test_without_a_released_model_it_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModelError("no released model: lost")

    monkeypatch.setattr(released_models, "released", missing)
    findings = doctor.examine()
    assert findings["model"] == {
        "usable": False,
        "verified": False,
        "why_not": "no released model: lost",
    }
    assert not any(runtime["usable"] for runtime in findings["runtimes"])
    assert "lost" in page(findings)


def test_with_a_released_model_every_installed_runtime_works(findings: dict[str, Any]) -> None:
    if not findings["model"]["usable"]:
        pytest.skip(findings["model"]["why_not"])
    assert findings["model"]["verified"]
    for runtime in findings["runtimes"]:
        if runtime["name"] in ("onnxruntime", "openvino", "torch") and runtime["installed"]:
            assert runtime["usable"], runtime["why_not"]
    assert findings["auto"]["name"] in RUNTIMES


def test_it_survives_a_part_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("a driver\nfell over")

    for name in ("_gpu", "_auto", "describe_machine", "_model"):
        monkeypatch.setattr(doctor, name, broken)
    findings = doctor.examine()
    assert findings["gpu"] == {"why_not": "RuntimeError: a driver"}
    assert "a driver" in page(findings)


# --- GPU


def nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> dict[str, Any]:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return doctor._gpu()


def test_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu = nvidia_smi(monkeypatch, tmp_path, 'echo "NVIDIA L4, 550.54.15, 23034, 8.9"')
    device = {"name": "NVIDIA L4", "driver": "550.54.15", "memory_mib": "23034", "compute_capability": "8.9"}
    assert gpu["devices"] == [device]
    assert gpu["why_not"] is None
    on_cpu = [{"device": "cpu"}, {"why_not": "not installed"}]
    assert any("no runtime uses it" in warning for warning in doctor._warnings(gpu, on_cpu))
    # ONNX Runtime names the kind of device, TensorRT the product
    for device in ("cuda", "NVIDIA L4"):
        assert not any("GPU" in warning for warning in doctor._warnings(gpu, [*on_cpu, {"device": device}]))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", "NVIDIA-SMI has failed: no driver"),
        ("exit 0", "lists no GPU"),
    ],
)
def test_gpu_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, why: str
) -> None:
    gpu = nvidia_smi(monkeypatch, tmp_path, script)
    assert gpu["devices"] == []
    assert why in gpu["why_not"]


def test_gpu_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setattr(subprocess, "run", hang)
    assert "does not answer" in nvidia_smi(monkeypatch, tmp_path, "exit 0")["why_not"]


def test_no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "no NVIDIA driver" in doctor._no_driver(None, tmp_path)
    (tmp_path / "nvidia0").touch()
    assert "no nvidia-smi" in doctor._no_driver(None, tmp_path)
    assert "JetPack" in doctor._no_driver("Jetson AGX Orin", tmp_path)


def test_jetson(tmp_path: Path) -> None:
    release, model = tmp_path / "nv_tegra_release", tmp_path / "model"
    assert doctor._jetson(release, model) is None
    model.write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    assert doctor._jetson(release, model) is None
    model.write_text("NVIDIA Jetson AGX Orin Developer Kit\0")
    release.write_text("# R36 (release), REVISION: 3.0, GCID: 36191598, BOARD: generic\n# more\n")
    described = doctor._jetson(release, model)
    assert described is not None
    assert described.startswith("NVIDIA Jetson AGX Orin Developer Kit, R36 (release), REVISION: 3.0")


# --- TensorRT


def tensorrt_here(
    monkeypatch: pytest.MonkeyPatch, *names: str, gpu: str | None = None, broken: bool = False
) -> dict[str, Any]:
    """What `examine` finds with these libraries installed and, with `gpu`, a GPU of that name."""
    capabilities = types.SimpleNamespace(__members__={"NONE": 0, "SM86": 1, "SM120": 2})

    def load(flavor: tensorrt_library.Flavor) -> Any:
        if broken:
            raise ModelError(f"{flavor.package} is installed but does not load (libnvinfer.so.10)")
        return types.SimpleNamespace(__version__="1.2.3.4", ComputeCapability=capabilities)

    def open_cuda() -> Any:
        if gpu is None:
            raise cuda.no_gpu("no NVIDIA driver")
        return types.SimpleNamespace(device=types.SimpleNamespace(name=gpu), close=lambda: None)

    monkeypatch.setattr(tensorrt_library, "is_installed", lambda flavor: flavor.name in names)
    monkeypatch.setattr(tensorrt_library, "installed_versions", lambda: "1.2.3.4")
    monkeypatch.setattr(tensorrt_library, "load", load)
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "open", open_cuda)
    for name in ("_model", "_auto", "_runtime"):  # the slow rest
        monkeypatch.setattr(doctor, name, lambda *_: {"usable": False, "why_not": "left out of this test"})
    return doctor.examine()


def row(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = (found for found in rows if found.get("name") == name)
    return found


def test_with_tensorrt_and_a_gpu_only_an_engine_is_wanting(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = tensorrt_here(monkeypatch, "tensorrt-rtx", gpu="NVIDIA GeForce RTX 4090")
    runtime = row(findings["runtimes"], "tensorrt")
    assert (runtime["installed"], runtime["usable"], runtime["ready"]) == (True, False, True)
    assert runtime["device"] == "NVIDIA GeForce RTX 4090"
    assert "n2q-edge build" in runtime["why_not"]
    library = row(findings["tensorrt"], "tensorrt-rtx")
    assert (library["usable"], library["version"]) == (True, "1.2.3.4")
    assert "compute capability 8.6, 12.0" in library["builds_for"]
    assert not row(findings["tensorrt"], "tensorrt")["installed"]
    assert "[tensorrt]" in row(findings["tensorrt"], "tensorrt")["why_not"]
    text = page(findings)
    assert "ready" in text
    assert "needs an engine: n2q-edge build MODEL.onnx" in text
    gpu = {"devices": [{"name": "NVIDIA GeForce RTX 4090"}]}
    assert not any("no runtime uses it" in warning for warning in doctor._warnings(gpu, findings["runtimes"]))


def test_with_tensorrt_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = tensorrt_here(monkeypatch, "tensorrt")
    runtime = row(findings["runtimes"], "tensorrt")
    assert (runtime["installed"], runtime["ready"]) == (True, False)
    assert "no NVIDIA GPU can be used here (no NVIDIA driver)" in runtime["why_not"]
    assert "doctor" not in runtime["why_not"]
    assert row(findings["tensorrt"], "tensorrt")["builds_for"] == "the GPU present only"
    assert "1.2.3.4, builds engines for the GPU present only" in page(findings)


def test_a_tensorrt_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = tensorrt_here(monkeypatch, "tensorrt", gpu="NVIDIA L4", broken=True)
    library = row(findings["tensorrt"], "tensorrt")
    assert (library["installed"], library["usable"]) == (True, False)
    assert "libnvinfer.so.10" in library["why_not"]
    assert not row(findings["runtimes"], "tensorrt")["ready"]
    assert "libnvinfer.so.10" in page(findings)


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = tensorrt_here(monkeypatch)
    assert [library["installed"] for library in findings["tensorrt"]] == [False, False]
    assert "not installed" in row(findings["runtimes"], "tensorrt")["why_not"]
    assert json.loads(json.dumps(findings, allow_nan=False)) == findings


def test_a_tensorrt_that_breaks_every_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("fell over")

    monkeypatch.setattr(tensorrt_library, "is_installed", broken)
    monkeypatch.setattr(cuda, "is_available", broken)
    for name in ("_model", "_auto", "_runtime"):
        monkeypatch.setattr(doctor, name, lambda *_: {"usable": False, "why_not": "left out of this test"})
    findings = doctor.examine()
    assert row(findings["tensorrt"], "tensorrt-rtx")["why_not"] == "RuntimeError: fell over"
    assert row(findings["runtimes"], "tensorrt")["why_not"] == "fell over"
    assert "fell over" in page(findings)


def test_two_onnxruntimes_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: name in ("onnxruntime", "onnxruntime-gpu"))
    assert any("overwrite each other" in warning for warning in doctor._warnings({}, []))
    monkeypatch.setattr(doctor, "_installed", lambda name: name == "onnxruntime")
    assert not any("overwrite" in warning for warning in doctor._warnings({}, []))
