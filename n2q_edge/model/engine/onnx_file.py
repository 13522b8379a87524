"""What a builder must know of an ONNX file before it parses it: its spec, its inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from n2q_edge.errors import ModelError, require
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.spec import ModelSpec


@dataclass(frozen=True)
class OnnxFacts:
    """What an ONNX file says about itself.

    Attributes:
        spec: the n2q-edge model spec.
        opset: version of the standard operators.
        producer: what wrote it.
        inputs: `name type[shape]` each.
        outputs: `name type[shape]` each.
        operators: how many nodes of each kind, the most frequent first.
        parameters: numbers in its initializers.
    """

    spec: ModelSpec
    opset: int
    producer: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    parameters: int


def read_onnx(model: ModelFile) -> OnnxFacts:
    """Read an ONNX file's facts.

    Raises:
        MissingDependencyError: the package `onnx` is not installed.
        ModelError: not an ONNX file, or one without a spec.
    """
    onnx: Any = require("onnx", "rtx")
    from collections import Counter

    try:
        proto = onnx.load_model_from_string(model.data)
    except Exception:  # protobuf's own error, of a module that moves
        raise ModelError(
            f"{model.path} is not a whole ONNX file: export it again with 'n2q-edge export'"
        ) from None
    if not proto.graph.node:
        raise ModelError(f"{model.path} holds no graph: export it again with 'n2q-edge export'")
    spec = ModelSpec.from_metadata({item.key: item.value for item in proto.metadata_props}, str(model.path))
    opsets = {item.domain: int(item.version) for item in proto.opset_import}
    return OnnxFacts(
        spec=spec,
        opset=opsets.get("", 0),
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        inputs=tuple(_port(onnx, value) for value in proto.graph.input),
        outputs=tuple(_port(onnx, value) for value in proto.graph.output),
        operators=dict(Counter(node.op_type for node in proto.graph.node).most_common()),
        parameters=sum(_size(tensor.dims) for tensor in proto.graph.initializer),
    )


def _port(onnx: Any, value: Any) -> str:
    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    sides = [dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim]
    return f"{value.name} {name}[{','.join(sides)}]"


def _size(dims: Any) -> int:
    size = 1
    for dim in dims:
        size *= int(dim)
    return size
