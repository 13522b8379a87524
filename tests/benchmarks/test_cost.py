from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cost import Cost, Layer, cost
from n2q_edge.errors import ModelError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """conv 1 -> 8 with 3x3, stride 2; mean over the image; 8 -> 5."""
    weights = [
        numpy_helper.from_array(np.zeros((8, 1, 3, 3), np.float32), "kernel"),
        numpy_helper.from_array(np.zeros((8, 5), np.float32), "matrix"),
    ]
    nodes = [
        helper.make_node("Conv", ["hu", "kernel"], ["features"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("Gemm", ["vector", "matrix"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("hu", TensorProto.FLOAT, ["N", 1, "H", "W"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 5])],
        weights,
    )
    file = tmp_path / "small.onnx"
    file.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
        ).SerializeToString()
    )
    return file


def test_counts(model: Path) -> None:
    found = cost(model, np.zeros((1, 1, 64, 32), np.float32))
    conv, product = found.layers
    assert conv.flops == 2 * (8 * 32 * 16) * 9  # outputs x kernel
    assert conv.bytes == 4 * (64 * 32 + 8 * 9 + 8 * 32 * 16)
    assert product.flops == 2 * 8 * 5
    assert found.io_bytes == 4 * (64 * 32 + 5)
    assert found.compulsory_bytes == 4 * (64 * 32 + 5 + 8 * 9 + 8 * 5)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "junk.onnx"
    file.write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"junk\.onnx"):
        cost(file, np.zeros((1, 1, 16, 16), np.float32))


def test_rooflines() -> None:
    counted = Cost((Layer("a", 10_000, 10), Layer("b", 100, 1000)), compulsory_bytes=500, io_bytes=0)
    # 1000 FLOP/s, 100 B/s: 10.1 s of arithmetic, 5 s of traffic; by layers 10 s and 10 s.
    assert counted.floor_ms(1000, 100) == pytest.approx(10_100)
    assert counted.layerwise_ms(1000, 100) == pytest.approx(20_000)
