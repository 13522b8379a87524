"""Real engines, built by TensorRT for RTX on whatever machine the tests run on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from n2q_edge.cli import main
from n2q_edge.errors import MissingDependencyError, ModelError, OutputError, UsageError
from n2q_edge.model.engine.build import BuildReport, build
from n2q_edge.model.engine.targets import find_target, profiles
from n2q_edge.model.inspect import explain
from n2q_edge.runtimes import cuda, open_model, tensorrt_library
from n2q_edge.runtimes.cuda import Device
from n2q_edge.runtimes.engine_header import read_header
from n2q_edge.runtimes.sidecar import read_sidecar, sidecar_path
from tests.helpers import tiny

pytest.importorskip("onnx", reason="needs the package onnx")
trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu12 (extra rtx; x86-64 or arm64 Linux)")


@pytest.fixture(scope="module")
def report(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    out = tmp_path_factory.mktemp("engine") / "tiny.engine"
    return build(tiny_onnx, out, targets=[find_target("rtx-3060"), find_target("rtx-4090")])


def test_engine_and_sidecar_belong_together(report: BuildReport, tiny_onnx: Path) -> None:
    import hashlib

    data = report.path.read_bytes()
    sidecar = read_sidecar(report.path)
    assert sidecar == report.sidecar
    assert sidecar.engine_sha256 == hashlib.sha256(data).hexdigest()
    assert sidecar.onnx_sha256 == hashlib.sha256(tiny_onnx.read_bytes()).hexdigest()
    assert sidecar.spec == tiny.SPEC
    assert sidecar.flavor == "tensorrt-rtx"
    assert sidecar.version == trt.__version__
    assert sidecar.capabilities == ("8.6", "8.9")  # of an RTX 3060 and an RTX 4090
    assert sidecar.shapes == {
        "hu": (1, 1, 512, 512),
        "quality_map": (1, 1, 512, 512),
        "dose_probabilities": (1, 5),
    }
    assert sorted(path.name for path in report.path.parent.iterdir()) == ["tiny.engine", "tiny.engine.json"]


def test_a_model_without_a_dose_head(tmp_path: Path) -> None:
    onnx = tiny.write_onnx(tmp_path / "map.onnx", spec=tiny.MAP_ONLY)
    report = build(onnx, tmp_path / "map.engine", targets=[find_target("rtx-4090")], size=(64, 64))
    assert report.sidecar.spec == tiny.MAP_ONLY
    assert report.sidecar.shapes == {"hu": (1, 1, 64, 64), "quality_map": (1, 1, 64, 64)}


def test_the_header_tells_library_version_and_length(report: BuildReport) -> None:
    data = report.path.read_bytes()
    assert data[:4] == b"vtrt"
    assert int.from_bytes(data[16:24], "little") == len(data)
    assert str(read_header(data)) == f"tensorrt-rtx {trt.__version__}"


def test_identity_is_of_the_inputs_not_of_the_bytes(
    report: BuildReport, tiny_onnx: Path, tmp_path: Path
) -> None:
    targets = [find_target("rtx-4090"), find_target("rtx-3060")]
    again = build(tiny_onnx, tmp_path / "again.engine", targets=targets)
    assert again.sidecar.identity == report.sidecar.identity
    other = build(tiny_onnx, tmp_path / "other.engine", targets=targets, size=(256, 256))
    assert other.sidecar.identity != report.sidecar.identity
    assert other.sidecar.shapes["quality_map"] == (1, 1, 256, 256)


def test_progress_rises_to_one_and_nothing_is_printed(
    tiny_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[float] = []
    build(
        tiny_onnx,
        tmp_path / "t.engine",
        targets=[find_target("l4")],
        on_progress=lambda done, _: seen.append(done),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert capfd.readouterr().out == ""


def test_ctrl_c_stops_the_build_and_leaves_nothing(tiny_onnx: Path, tmp_path: Path) -> None:
    def interrupt(done: float, label: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tiny_onnx, tmp_path / "t.engine", targets=[find_target("l4")], on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


# --- what cannot be built


@pytest.mark.parametrize("name", [target.name for target in profiles() if target.flavors == ("tensorrt",)])
def test_targets_of_tensorrt_alone_say_where_to_build(tiny_onnx: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "t.engine"
    with pytest.raises(
        ModelError, match=r"copy the ONNX file there and run: n2q-edge build .*--flavor tensorrt"
    ):
        build(tiny_onnx, out, targets=[find_target(name)], flavor="tensorrt-rtx")
    with pytest.raises(ModelError, match=r"copy the ONNX file to the NVIDIA .*run this command there"):
        build(tiny_onnx, out, targets=[find_target(name)])
    assert list(tmp_path.iterdir()) == []


def test_every_rtx_target_is_one_the_library_compiles_for() -> None:
    known = tensorrt_library.capabilities(tensorrt_library.RTX, trt)
    assert known is not None
    assert set(known) >= set(tensorrt_library.RTX_CAPABILITIES)
    for target in profiles():
        assert ("tensorrt-rtx" in target.flavors) == (target.compute_capability in known), target.name


def test_float32_on_turing_is_refused_before_the_build(tiny_onnx: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="n2q-edge export --precision fp16-norm32 -o MODEL"):
        build(tiny_onnx, tmp_path / "t.engine", targets=[find_target("t4")])


def test_a_float32_model_is_built_and_the_faster_way_is_said(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", str(tiny_onnx), "--target", "rtx-4090", "-o", str(tmp_path / "t.engine")]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "tiny.onnx does. Faster, with fp16-norm32 as recommended" in said
    assert "first 'n2q-edge export --precision fp16-norm32 -o MODEL.onnx', then build" in said
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    half = replace(tiny.SPEC, precision="fp16-norm32")
    onnx = tmp_path / "half.onnx"
    onnx.write_bytes(tiny.onnx_bytes(half))
    assert main(["build", str(onnx), "--target", "rtx-4090", "-o", str(tmp_path / "h.engine")]) == 0
    assert "float32" not in capsys.readouterr().err


def test_the_list_of_targets_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for words in ("rtx-4090", "jetson-thor", "CUDA compute capability", "Recommended precision: fp16-norm32"):
        assert words in page


def test_no_target_and_no_gpu(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> cuda.Cuda:
        raise cuda.no_gpu("none in this test")

    monkeypatch.setattr(cuda, "open", none)
    with pytest.raises(ModelError, match=r"none in this test.*--target"):
        build(tiny_onnx, tmp_path / "t.engine")


def test_no_target_builds_for_the_gpu_present(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Present:
        device = Device("NVIDIA Test 8000", "8.9", 8.0, False, "13.0")

        def close(self) -> None:
            pass

    monkeypatch.setattr(cuda, "open", Present)
    copied = tmp_path / "model.onnx"
    copied.write_bytes(tiny_onnx.read_bytes())
    made = build(copied)
    assert made.path == tmp_path / "model.this-gpu.engine"
    assert made.sidecar.capabilities == ("8.9",)
    assert made.sidecar.device == "NVIDIA Test 8000"
    assert made.sidecar.rebuild_command(made.path).startswith(
        "n2q-edge build model.onnx --flavor tensorrt-rtx -o"
    )
    monkeypatch.setattr(Present, "device", replace(Present.device, capability="9.0"))
    with pytest.raises(ModelError, match=r"cannot build for compute capability 9\.0"):
        build(copied, flavor="tensorrt-rtx")


def test_parser_errors_name_the_node(tmp_path: Path) -> None:
    import onnx

    model = onnx.load_model_from_string(tiny.onnx_bytes())
    model.graph.node[2].op_type = "NoSuchOperator"
    model.graph.node[2].name = "the_bad_node"
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelError, match=r"bad\.onnx: tensorrt-rtx cannot parse it: .*the_bad_node.*NoSuch"
    ) as failure:
        build(path, tmp_path / "bad.engine", targets=[find_target("l4")])
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("data", [b"", b"no model at all", tiny.onnx_bytes()[:200]])
def test_files_that_are_no_onnx(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"junk\.onnx"):
        build(path, tmp_path / "t.engine", targets=[find_target("l4")])


def test_an_onnx_file_without_a_spec(tmp_path: Path) -> None:
    path = tiny.write_onnx(tmp_path / "plain.onnx", spec=None)
    with pytest.raises(ModelError, match="no n2q-edge model spec"):
        build(path, tmp_path / "t.engine", targets=[find_target("l4")])


def test_wrong_arguments(tiny_onnx: Path, tmp_path: Path) -> None:
    l4 = find_target("l4")
    with pytest.raises(UsageError, match=r"\*\.engine"):
        build(tiny_onnx, tmp_path / "model.plan", targets=[l4])
    with pytest.raises(UsageError, match="multiples of 16"):
        build(tiny_onnx, tmp_path / "t.engine", targets=[l4], size=(500, 512))
    with pytest.raises(UsageError, match="no flavor"):
        build(tiny_onnx, tmp_path / "t.engine", targets=[l4], flavor="cuda")
    with pytest.raises(UsageError, match="--size"):
        build(tiny_onnx, tmp_path / "t.engine", targets=[l4, replace(l4, height=768)])
    with pytest.raises(OutputError):
        build(tiny_onnx, tmp_path / "none" / "t.engine", targets=[l4])


def test_a_library_that_is_not_installed(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_library, "is_installed", lambda flavor: False)
    with pytest.raises(MissingDependencyError, match=r"\[rtx\]"):
        build(tiny_onnx, tmp_path / "t.engine", targets=[find_target("l4")])


# --- engines that must not be loaded


def damaged(report: BuildReport, folder: Path, data: bytes) -> Path:
    path = folder / "tiny.engine"
    path.write_bytes(data)
    sidecar_path(path).write_bytes(report.sidecar_path.read_bytes())
    return path


def refusal(path: Path) -> str:
    """What opening says, which `inspect` says, too, and both without a GPU."""
    with pytest.raises(ModelError) as failure:
        open_model(path)
    message = str(failure.value)
    assert "\n" not in message
    assert explain(path)["problems"] == [message]
    assert main(["inspect", str(path)]) == 5
    return message


REBUILD = "n2q-edge build tiny.onnx --flavor tensorrt-rtx --target rtx-3060 --target rtx-4090 -o "


def test_a_truncated_engine(report: BuildReport, tmp_path: Path) -> None:
    data = report.path.read_bytes()
    path = damaged(report, tmp_path, data[: len(data) // 2])
    assert "truncated" in refusal(path)
    assert REBUILD + str(path) in refusal(path)


def test_a_corrupted_engine(report: BuildReport, tmp_path: Path) -> None:
    data = bytearray(report.path.read_bytes())
    data[len(data) // 2] ^= 1
    path = damaged(report, tmp_path, bytes(data))
    assert "SHA-256" in refusal(path)
    assert REBUILD + str(path) in refusal(path)


def test_an_engine_of_another_version(report: BuildReport, tmp_path: Path) -> None:
    """As after an update of the library: engine and sidecar agree, the library is newer."""
    path = damaged(report, tmp_path, report.path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trt, "__version__", "1.99.0.1")
        with pytest.raises(
            ModelError, match=r"built with tensorrt-rtx 1\.\d.*installed is 1\.99\.0\.1"
        ) as failure:
            open_model(path)
    assert REBUILD in str(failure.value)


def test_an_engine_of_the_other_library(report: BuildReport, tmp_path: Path) -> None:
    """A header of TensorRT 10.3 under a sidecar of TensorRT for RTX."""
    data = bytearray(report.path.read_bytes())
    data[24:28] = bytes([10, 3, 0, 26])
    path = damaged(report, tmp_path, bytes(data))
    import hashlib

    sidecar = replace(report.sidecar, engine_sha256=hashlib.sha256(bytes(data)).hexdigest())
    sidecar_path(path).write_text(sidecar.to_json())
    assert "written by tensorrt 10.3.0.26, its sidecar says tensorrt-rtx" in refusal(path)


def test_an_engine_from_nowhere(report: BuildReport, tmp_path: Path) -> None:
    path = tmp_path / "lonely.engine"
    path.write_bytes(report.path.read_bytes())
    assert "no sidecar lonely.engine.json" in refusal(path)
    sidecar_path(path).write_text("{}")
    assert "damaged" in refusal(path)
    fields = json.loads(report.sidecar_path.read_text())
    fields["capabilities"] = ["9.0"]  # forged: the identity no longer fits
    sidecar_path(path).write_text(json.dumps(fields))
    assert "identity" in refusal(path)


@pytest.mark.parametrize("data", [b"junk" * 100, b"vtrt", b"vtrt" + bytes(100)])
def test_files_that_are_no_engine(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "junk.engine"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"junk\.engine"):
        open_model(path)
    assert main(["inspect", str(path)]) == 5


def test_no_gpu_is_said_last(report: BuildReport) -> None:
    if cuda.is_available():
        try:
            cuda.open().close()
        except ModelError:
            with pytest.raises(ModelError, match="no NVIDIA GPU"):
                open_model(report.path)
            return
        pytest.skip("there is a GPU here")
    with pytest.raises(MissingDependencyError, match="cuda"):
        open_model(report.path)


# --- the command line


def test_the_commands(tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = tmp_path / "cli.engine"
    arguments = ["build", str(tiny_onnx), "--target", "rtx-5090", "--size", "256x512", "-o", str(engine)]
    assert main(arguments) == 0
    assert "compute capability 12.0" in capsys.readouterr().out
    assert main(["inspect", str(engine), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "TensorRT engine"
    assert found["sidecar"]["shapes"]["hu"] == [1, 1, 256, 512]
    assert found["rebuild"].endswith(f"--target rtx-5090 --size 256x512 -o {engine}")
    assert main(["inspect", str(tiny_onnx), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["operators"]["Softmax"] == 1
    assert found["inputs"] == ["hu float[N,1,H,W]"]
    assert main(["targets", "--json"]) == 0
    assert {target["name"] for target in json.loads(capsys.readouterr().out)} >= {"rtx-4090", "jetson-thor"}
    assert main(["build", str(tiny_onnx), "--target", "l4", "--size", "512"]) == 2
    assert main(["build", str(tiny_onnx), "--target", "h100", "-o", str(engine)]) == 5
