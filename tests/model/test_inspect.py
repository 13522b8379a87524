"""`explain`, which `n2q-edge inspect` prints. For engines and ONNX files see tests/model/engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from n2q_edge.cli import main
from n2q_edge.errors import ModelError
from n2q_edge.model.inspect import explain, lines
from n2q_edge.spec import SPEC_KEY, ModelSpec

SPEC = ModelSpec(name="some", version="2", network={"class": "unet", "inputs": ["slice"]})


def write_safetensors(path: Path, spec: ModelSpec | None = SPEC, cut: int = 0) -> Path:
    """A safetensors file by its format: length, JSON header, data. Two tensors, 6 + 4 numbers."""
    header: dict[str, Any] = {
        "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "a.bias": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
    }
    if spec:
        header["__metadata__"] = {SPEC_KEY: spec.to_json()}
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(32)
    path.write_bytes(data[: len(data) - cut])
    return path


def test_a_checkpoint_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    found = explain(write_safetensors(tmp_path / "some.safetensors"))
    assert (found["kind"], found["tensors"], found["parameters"]) == ("checkpoint", 2, 10)
    assert found["types"] == ["F16", "F32"]
    assert ModelSpec.from_json(json.dumps(found["spec"])) == SPEC
    assert found["problems"] == []
    page = "\n".join(lines(found))
    assert "parameters: 10" in page
    assert found["sha256"] in page


def test_the_authors_weights(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from n2q_edge.network import build

    path = tmp_path / "authors.pth"
    torch.save(build(SPEC).state_dict(), path)
    found = explain(path)
    assert found["spec"]["name"] == "u-ssl"  # one input channel
    # The authors' notebook has 1,963,622 parameters in its 1-channel version; 36 of the tensors are weights
    # and biases of the 18 convolutions, 4 those of conv_last and fc
    assert found["parameters"] == 1_963_622
    assert found["tensors"] == 40


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("none.onnx", None, "does not exist"),
        ("text.txt", b"hello", "not a model file: unknown file extension"),
        ("empty.engine", b"", "empty"),
        ("junk.onnx", b"junk", "not a whole ONNX file"),
        ("junk.safetensors", b"\x10\0\0\0\0\0\0\0junk", "not a whole safetensors"),
        ("junk.engine", b"junk", "no TensorRT engine"),
    ],
)
def test_what_is_no_model(
    tmp_path: Path, name: str, data: bytes | None, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.endswith(".onnx"):
        pytest.importorskip("onnx")
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ModelError, match=complaint):
        explain(path)
    assert main(["inspect", str(path)]) == 5
    assert capsys.readouterr().err.count("\n") == 1


def test_damaged_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="truncated"):
        explain(write_safetensors(tmp_path / "cut.safetensors", cut=5))
    with pytest.raises(ModelError, match="no n2q-edge model spec"):
        explain(write_safetensors(tmp_path / "plain.safetensors", spec=None))


def test_page_and_json_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_safetensors(tmp_path / "some.safetensors")
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().out == "\n".join(lines(found)) + "\n"
