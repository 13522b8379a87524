"""A model whose answers are known by arithmetic, as an ONNX graph made by hand and in NumPy.

quality_map = 1 - GAIN * w, with w the windowed slice; dose_probabilities = softmax(mean(w) * SLOPES).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.spec import SPEC_KEY, ModelSpec

SPEC = ModelSpec(name="tiny", version="1", network={"class": "tiny"}, size_multiple=16)
MAP_ONLY = replace(SPEC, outputs=("quality_map",))
GAIN = 0.75
SLOPES = np.array([1.0, -2.0, 4.0, 0.5, -1.0], dtype=np.float32)
LOW, WIDTH = np.float32(40 - 150), np.float32(300)


def expected(hu: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What the model must answer."""
    windowed = np.clip((hu.astype(np.float64) - LOW) / WIDTH, 0, 1)
    logits = windowed.mean(axis=(1, 2, 3))[:, None] * SLOPES
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    quality = 1 - GAIN * windowed
    return quality.astype(np.float32), (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def onnx_bytes(
    spec: ModelSpec | None = SPEC,
    *,
    input_name: str = "hu",
    input_shape: tuple[Any, ...] = ("N", 1, "H", "W"),
    output_names: tuple[str, str] = ("quality_map", "dose_probabilities"),
    levels: int = 5,
    offset: float = 1.0,
) -> bytes:
    """The model as an ONNX file, for `MAP_ONLY` without its dose; the arguments are ways to get it wrong."""
    from onnx import TensorProto, checker, helper, numpy_helper

    quality, dose = output_names
    constants = {
        "low": LOW,
        "width": WIDTH,
        "zero": np.float32(0),
        "one": np.float32(1),
        "gain": np.float32(GAIN),
        "offset": np.float32(offset),
        "slopes": np.repeat(SLOPES[None, :levels], int(input_shape[1]), axis=0),
    }
    nodes = [
        helper.make_node("Sub", [input_name, "low"], ["shifted"]),
        helper.make_node("Div", ["shifted", "width"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "zero", "one"], ["windowed"]),
        helper.make_node("Mul", ["windowed", "gain"], ["loss"]),
        helper.make_node("Sub", ["offset", "loss"], [quality]),
        helper.make_node("GlobalAveragePool", ["windowed"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
        helper.make_node("MatMul", ["mean", "slopes"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [dose], axis=1),
    ]
    outputs = [
        helper.make_tensor_value_info(quality, TensorProto.FLOAT, input_shape),
        helper.make_tensor_value_info(dose, TensorProto.FLOAT, (input_shape[0], levels)),
    ]
    if spec == MAP_ONLY:
        nodes, outputs = nodes[:5], outputs[:1]
        del constants["slopes"]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, input_shape)],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if spec is not None:
        helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
    checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def write_onnx(path: Path, **arguments: Any) -> Path:
    path.write_bytes(onnx_bytes(**arguments))
    return path


def write_checkpoint(path: Path, spec: ModelSpec = SPEC) -> Path:
    """The same model as a checkpoint of the class `tiny`; see the fixture `tiny_network`."""
    import torch

    from n2q_edge.model import checkpoint

    checkpoint.save(path, spec, {"gain": torch.tensor(GAIN), "slopes": torch.from_numpy(SLOPES.copy())})
    return path
