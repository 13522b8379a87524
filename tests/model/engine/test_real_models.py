"""The two networks as they are exported and built for every GPU TensorRT for RTX compiles for.

With the trained weights where they lie in export/, else with fresh ones: neither export nor build cares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from n2q_edge import released_models
from n2q_edge.errors import ModelError, UsageError
from n2q_edge.model import export
from n2q_edge.model.engine.build import build
from n2q_edge.model.engine.targets import find_target
from n2q_edge.model.inspect import explain
from n2q_edge.model.parity import parity_slices
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.runtimes.sidecar import read_sidecar

torch = pytest.importorskip("torch", reason="needs torch (extra train)")
onnx = pytest.importorskip("onnx", reason="needs onnx")
pytest.importorskip("onnxscript", reason="needs onnxscript (extra train)")
pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra cpu)")
pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu12 (extra rtx; x86-64 or arm64 Linux)")

from n2q_edge.model import checkpoint
from n2q_edge.model.recipe import load_recipe
from n2q_edge.network import build as build_network
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow
RECIPES = ROOT / "export"
FLOAT32_KERNELS = (".variance.", "kernel", ".pick")  # fixed ones, in front of the first layer
TARGETS = {"t4": "7.5", "rtx-3060": "8.6", "rtx-4090": "8.9", "rtx-5090": "12.0", "dgx-spark": "12.1"}


@dataclass(frozen=True)
class Case:
    system: str
    precision: str


CASES = (Case("n2q-plus", "fp16-norm32"), Case("n2q", "fp16"), Case("n2q", "int8"))


def network_of(system: str) -> tuple[Any, Any]:
    recipe = load_recipe(RECIPES / f"{system}.toml")
    for trained in (recipe.checkpoint, released_models.FOLDER / recipe.checkpoint.name):
        if trained.exists():
            return checkpoint.load_network(trained, trained.read_bytes())
    torch.manual_seed(0)
    return recipe.spec, build_network(recipe.spec)


def phantoms(multiple: int) -> Sequence[Any]:
    return [batch[:1] for batch in parity_slices(multiple)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.system}-{case.precision}")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> export.ExportReport:
    case: Case = request.param
    spec, network = network_of(case.system)
    slices = phantoms(spec.size_multiple) if case.precision == "int8" else ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "hold", lambda *_: None)  # the gate has its own tests
        return export.export_network(
            network,
            spec,
            tmp_path_factory.mktemp("models") / f"{case.system}.{case.precision}.onnx",
            source=ModelFile(Path("weights"), b"", ""),
            precision=case.precision,
            slices=slices,
        )


def test_the_file_says_its_precision(exported: export.ExportReport) -> None:
    found = explain(exported.path)
    assert found["spec"]["precision"] == exported.spec.precision
    assert found["inputs"][0].startswith("hu float[")
    assert all(" float[" in output for output in found["outputs"])
    model = onnx.load(exported.path)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    if exported.spec.precision.startswith("fp16"):
        for node in model.graph.node:
            if node.op_type == "Conv" and not any(part in node.input[1] for part in FLOAT32_KERNELS):
                assert types[node.input[1]] == onnx.TensorProto.FLOAT16, node.input[1]
    assert (found["operators"].get("QuantizeLinear", 0) > 0) == (exported.spec.precision == "int8")


def test_float16_costs_three_casts_and_norm32_no_more_than_it_must(exported: export.ExportReport) -> None:
    casts = explain(exported.path)["operators"].get("Cast", 0)
    if exported.spec.precision == "fp16":
        assert casts == 3  # HU in, map and dose out
    elif exported.spec.precision == "fp16-norm32":
        assert casts <= 9  # one more than with three outputs; the compact net normalises nothing


def test_engines_for_every_gpu_and_one_for_all(exported: export.ExportReport, tmp_path: Path) -> None:
    half = exported.spec.precision != "int8"
    names = [name for name in TARGETS if half or name != "t4"]
    for chosen in ([name] for name in names):
        made = build(exported.path, tmp_path / f"{chosen[0]}.engine", targets=[find_target(chosen[0])])
        assert made.sidecar.capabilities == (TARGETS[chosen[0]],)
    everywhere = build(exported.path, tmp_path / "all.engine", targets=[find_target(name) for name in names])
    assert everywhere.sidecar.capabilities == tuple(TARGETS[name] for name in names)
    for path in tmp_path.glob("*.engine"):
        found = explain(path)
        assert found["problems"] == []
        assert read_sidecar(path).onnx_sha256 == exported.sha256
        assert read_sidecar(path).spec == exported.spec
    if not half:
        with pytest.raises(ModelError, match="--precision fp16"):
            build(exported.path, tmp_path / "t4.engine", targets=[find_target("t4")])


def test_int8_leaves_the_finest_resolution_alone(exported: export.ExportReport) -> None:
    if exported.spec.precision != "int8":
        pytest.skip("not int8")
    model = onnx.load(exported.path)
    makers = {output: node for node in model.graph.node for output in node.output}
    float_weights = set()
    for node in model.graph.node:
        if node.op_type == "Conv" and makers.get(node.input[0], node).op_type != "DequantizeLinear":
            float_weights.add(node.input[1].removeprefix("network."))
    # down1, up1, conv_last and the high-pass of N2Q's U-Net compute at full resolution, nothing else does
    expected = {f"dconv_{name}.{index}.weight" for name in ("down1", "up1") for index in (0, 3)}
    assert float_weights - {"high_pass.kernel"} == expected | {"conv_last.weight"}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in types:
            assert types[node.input[0]] == onnx.TensorProto.INT8  # never an int32 bias


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no precision 'bf16'"):
        export.export_model(None, tmp_path / "m.onnx", precision="bf16")
    with pytest.raises(UsageError, match="--calibrate"):
        export.export_model(None, tmp_path / "m.onnx", precision="int8")
    with pytest.raises(UsageError, match="--calibrate"):
        export.export_model(None, tmp_path / "m.onnx", precision="fp16", calibrate=[tmp_path])
    spec, network = network_of("n2q-small")
    with pytest.raises(ModelError, match="fp32 weights"):
        export.export_network(
            network,
            replace(spec, precision="fp16"),
            tmp_path / "m.onnx",
            source=ModelFile(Path("w"), b"", ""),
        )
