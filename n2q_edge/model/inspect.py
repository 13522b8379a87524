"""What a model file is, whatever its kind, without a GPU and without running anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from n2q_edge.errors import ModelError, N2QError
from n2q_edge.report.text import printable
from n2q_edge.runtimes.model_file import ModelFile, read_model_file
from n2q_edge.spec import SPEC_KEY, ModelSpec

PICKLED = (".pth", ".pt")


def explain(path: Path) -> dict[str, Any]:
    """Describe an ONNX file, an engine or a checkpoint.

    Returns:
        JSON-able: `path`, `kind`, `sha256`, `bytes`, `spec`, what the kind has to say, and `problems`: why
        the file would be refused, empty if it would not.

    Raises:
        ModelError: missing, or no model file.
        MissingDependencyError: for an ONNX file the package `onnx`, for a `.pth` torch.
    """
    model = read_model_file(path)
    kinds = {".onnx": _onnx, ".engine": _engine, ".safetensors": _safetensors}
    kinds.update(dict.fromkeys(PICKLED, _pickled))
    suffix = path.suffix.lower()
    if suffix not in kinds:
        raise ModelError(
            f"{path} is not a model file: unknown file extension, expected one of {', '.join(kinds)}"
        )
    return {
        "path": str(path),
        "sha256": model.sha256,
        "bytes": len(model.data),
        "problems": [],
        **kinds[suffix](model),
    }


def _onnx(model: ModelFile) -> dict[str, Any]:
    from n2q_edge.model.engine.onnx_file import read_onnx

    facts = read_onnx(model)
    return {
        "kind": "ONNX model",
        "spec": _spec(facts.spec),
        "opset": facts.opset,
        "producer": facts.producer,
        "inputs": list(facts.inputs),
        "outputs": list(facts.outputs),
        "parameters": facts.parameters,
        "operators": facts.operators,
    }


def _engine(model: ModelFile) -> dict[str, Any]:
    from n2q_edge.runtimes.sidecar import read_sidecar
    from n2q_edge.runtimes.tensorrt import check_engine, engine_header

    header = engine_header(model)
    found: dict[str, Any] = {
        "kind": "TensorRT engine",
        "header": str(header) if header else "of an unknown layout",
        "spec": None,
        "sidecar": None,
    }
    try:
        sidecar = read_sidecar(model.path)
        found.update(spec=_spec(sidecar.spec), sidecar=json.loads(sidecar.to_json()))
        found["sidecar"].pop("spec")
        found["rebuild"] = sidecar.rebuild_command(model.path)
        check_engine(model)
    except N2QError as error:
        found["problems"] = [str(error)]
    return found


def _safetensors(model: ModelFile) -> dict[str, Any]:
    """Read from the file's header alone: 8 bytes of little-endian length, then that much JSON."""
    length = int.from_bytes(model.data[:8], "little")
    try:
        header: dict[str, Any] = json.loads(model.data[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        tensors = {name: [*entry["shape"]] for name, entry in header.items()}
        end = max(entry["data_offsets"][1] for entry in header.values())
        types = sorted({entry["dtype"] for entry in header.values()})
        if not all(isinstance(side, int) for shape in tensors.values() for side in shape):
            raise TypeError
        whole = len(model.data) == 8 + length + end
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ModelError(f"{model.path} is not a whole safetensors file: copy it again") from None
    if not whole:
        raise ModelError(f"{model.path} is truncated: copy it again")
    return _checkpoint(metadata, str(model.path), tensors, types)


def _pickled(model: ModelFile) -> dict[str, Any]:
    from n2q_edge.model.checkpoint import parse

    spec, state = parse(model.path, model.data)
    tensors = {name: list(tensor.shape) for name, tensor in state.items()}
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})
    return _checkpoint({SPEC_KEY: spec.to_json()}, str(model.path), tensors, types)


def _checkpoint(
    metadata: dict[str, str], source: str, tensors: dict[str, list[int]], types: list[str]
) -> dict[str, Any]:
    parameters = 0
    for shape in tensors.values():
        size = 1
        for side in shape:
            size *= side
        parameters += size
    return {
        "kind": "checkpoint",
        "spec": _spec(ModelSpec.from_metadata(metadata, source)),
        "tensors": len(tensors),
        "types": types,
        "parameters": parameters,
    }


def _spec(spec: ModelSpec) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(spec.to_json())
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """The same as a page of text: one `name: value` per line, nested values as JSON, all of it printable."""
    page = []
    for name, value in found.items():
        if name == "problems":
            continue
        if isinstance(value, dict):
            page.append(f"{name}:")
            page += [f"  {printable(key)}: {_text(item)}" for key, item in value.items()]
        else:
            page.append(f"{name}: {_text(value)}")
    return page + [f"PROBLEM: {printable(problem)}" for problem in found["problems"]]


def _text(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)
