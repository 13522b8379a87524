"""What a model costs by arithmetic: floating-point operations and bytes, and the time no machine can beat.

Roofline model (Williams, Waterman, Patterson 2009): time >= max(operations / rate, bytes / bandwidth).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.errors import ModelError, require
from n2q_edge.runtimes.checks import INPUT_NAME
from n2q_edge.runtimes.libraries import first_line, import_onnxruntime
from n2q_edge.spec import REFERENCE_INPUT

EXTRA = "train"
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Layer:
    """One convolution or matrix product.

    Attributes:
        name: of the node.
        flops: two a multiply-add.
        bytes: of its inputs, weights and outputs, each once, at 4 bytes a number.
    """

    name: str
    flops: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    """What one inference costs.

    Attributes:
        layers: convolutions and matrix products; everything else is not counted.
        compulsory_bytes: input, weights and outputs of the whole graph, each once: all that would cross the
            memory bus if every intermediate value stayed in a cache.
        io_bytes: input and outputs alone: what goes to a GPU and back.
    """

    layers: tuple[Layer, ...]
    compulsory_bytes: int
    io_bytes: int

    @property
    def flops(self) -> int:
        """Of all layers."""
        return sum(layer.flops for layer in self.layers)

    @property
    def layer_bytes(self) -> int:
        """Of all layers: what crosses the bus if nothing stays in a cache from one layer to the next."""
        return sum(layer.bytes for layer in self.layers)

    def floor_ms(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The roofline of the whole graph in ms: the larger of arithmetic and compulsory traffic."""
        return 1000 * max(self.flops / flops_per_s, self.compulsory_bytes / bytes_per_s)

    def layerwise_ms(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The sum of the layers' rooflines in milliseconds: no layer's values stay in a cache."""
        return 1000 * sum(max(layer.flops / flops_per_s, layer.bytes / bytes_per_s) for layer in self.layers)


def cost(model: Path, hu: FloatArray) -> Cost:
    """Count one inference of an ONNX file on a float32 input [N,1,H,W].

    Raises:
        MissingDependencyError: onnx or onnxruntime is not installed.
        ModelError: the file cannot be read or run.
    """
    onnx: Any = require("onnx", EXTRA)
    try:
        graph = onnx.load(model)
        outputs = [port.name for port in graph.graph.output]
        shapes = _shapes(graph, hu, onnx)
    except Exception as error:  # onnx and ONNX Runtime share no base class of errors
        raise ModelError(f"{model}: its shapes cannot be found: {first_line(error)}") from None
    layers = [_layer(node, shapes, onnx) for node in graph.graph.node if node.op_type in _FLOPS]
    weights = sum(prod(tensor.dims) for tensor in graph.graph.initializer)
    numbers = hu.size + sum(prod(shapes[name]) for name in outputs)
    return Cost(tuple(layers), 4 * (weights + numbers), 4 * numbers)


def _shapes(model: Any, hu: FloatArray, onnx: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every value: the graph is run once with all of them as outputs."""
    library = import_onnxruntime()
    names = [name for node in model.graph.node for name in node.output if name]
    known = {port.name for port in model.graph.output}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = library.SessionOptions()
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = library.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {INPUT_NAME: hu}
    if any(port.name == REFERENCE_INPUT for port in model.graph.input):
        inputs[REFERENCE_INPUT] = np.zeros(len(hu), dtype=np.float32)
    values = session.run(names, inputs)
    found = {name: np.shape(value) for name, value in zip(names, values, strict=True)}
    found.update({name: array.shape for name, array in inputs.items()})
    found.update({tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer})
    return found


def _layer(node: Any, shapes: Shapes, onnx: Any) -> Layer:
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    values = [name for name in (*node.input, *node.output) if name]
    return Layer(
        name=node.name or node.output[0],
        flops=_FLOPS[node.op_type](node, shapes, attributes),
        bytes=4 * sum(prod(shapes[name]) for name in values),
    )


def _conv(node: Any, shapes: Shapes, attributes: Mapping[str, Any]) -> int:
    """Weights are [out, in / groups, kernel...]: every output is a sum over all but the first."""
    return 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])


def _conv_transpose(node: Any, shapes: Shapes, attributes: Mapping[str, Any]) -> int:
    """Weights are [in, out / groups, kernel...]: every input goes into all but the first."""
    return 2 * prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _matmul(node: Any, shapes: Shapes, attributes: Mapping[str, Any]) -> int:
    """[..., m, k] x [..., k, n]; of a Gemm the first may be transposed."""
    inner = shapes[node.input[0]][0 if attributes.get("transA") else -1]
    return 2 * prod(shapes[node.output[0]]) * inner


_FLOPS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _matmul}
