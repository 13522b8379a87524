from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n2q_edge.errors import ModelError, ParityError, UsageError
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.spec import ModelSpec

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from n2q_edge.model import export, quantize
from n2q_edge.model.parity import parity_slices

SPEC = ModelSpec(name="two-levels", version="1", network={"class": "none"})
SOURCE = ModelFile(Path("weights"), b"", "")


def identity() -> Any:
    convolution = torch.nn.Conv2d(1, 1, 1)
    torch.nn.init.ones_(convolution.weight)
    torch.nn.init.constant_(convolution.bias, 0.1)
    return convolution


class TwoLevels(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A convolution at full resolution, then one at half: quality = sigmoid(1.8 - (HU + 1024) / 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = identity(), identity()

    def forward(self, hu: Any) -> tuple[Any, Any]:
        functional = torch.nn.functional
        features = self.fine((hu + 1024) / 512)
        coarse = self.coarse(functional.avg_pool2d(features, 2))
        dose = torch.tensor([0.1, 0.6, 0.1, 0.1, 0.1]).expand(hu.shape[0], 5)
        return (2 - functional.interpolate(coarse, scale_factor=2.0)).sigmoid(), dose + 0 * hu.mean()


class OneLevel(TwoLevels):
    def forward(self, hu: Any) -> tuple[Any, Any]:
        return self.coarse(self.fine(hu / 1000)).sigmoid(), super().forward(hu)[1]


def slices() -> list[Any]:
    return [batch[:1] for batch in parity_slices(16)]


def run(out: Path, calibration: list[Any]) -> export.ExportReport:
    return export.export_network(TwoLevels(), SPEC, out, source=SOURCE, precision="int8", slices=calibration)


def test_calibrated_on_slices_it_passes_the_gate(tmp_path: Path) -> None:
    report = run(tmp_path / "good.onnx", slices())
    assert report.spec.precision == "int8"
    model = onnx.load(report.path)
    (metadata,) = model.metadata_props
    assert ModelSpec.from_json(metadata.value) == report.spec
    makers = {output: node for node in model.graph.node for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    quantized = []
    for node in model.graph.node:
        if node.op_type == "Conv" and makers[node.input[0]].op_type == "DequantizeLinear":
            quantized.append(node.name)
            assert types[makers[node.input[1]].input[0]] == onnx.TensorProto.INT8
            assert types[node.input[2]] == onnx.TensorProto.FLOAT  # TensorRT refuses an int32 bias
    assert len(quantized) == 1  # the one at half resolution


def test_calibrated_on_air_it_is_refused(tmp_path: Path) -> None:
    """Air is 0 to this network and tissue 2: in the range of air all of it saturates, quality .86 for .45."""
    air = [np.full((1, 1, 64, 64), -1010, np.float32)]
    with pytest.raises(ParityError, match=r"mean .* SSIM"):
        run(tmp_path / "bad.onnx", air)
    assert list(tmp_path.iterdir()) == []


def test_a_network_with_one_resolution_has_nothing_to_quantize(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="finest resolution"):
        export.export_network(
            OneLevel(), SPEC, tmp_path / "m.onnx", source=SOURCE, precision="int8", slices=slices()
        )


def test_slices_spread_over_the_series(ct_series: Any, tmp_path: Path) -> None:
    folder = ct_series(slices=40)
    found = quantize.calibration_slices([folder], 16)
    assert len(found) == quantize.CALIBRATION_SLICES
    for hu in found:
        assert hu.dtype == np.float32
        assert hu.shape[:2] == (1, 1)
        assert hu.shape[2] % 16 == hu.shape[3] % 16 == 0
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no CT slice"):
        quantize.calibration_slices([tmp_path / "empty"], 16)
