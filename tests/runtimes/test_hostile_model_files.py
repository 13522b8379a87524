"""Model files that mean harm or are damaged: refused with one line, before any library sees them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from n2q_edge.errors import ModelError
from n2q_edge.model.inspect import explain
from n2q_edge.model.recipe import load_recipe
from n2q_edge.runtimes.model_file import read_model_file
from n2q_edge.runtimes.sidecar import Sidecar, read_sidecar, sidecar_path
from n2q_edge.spec import SPEC_KEY, ModelSpec
from tests.helpers import tiny

# ------------------------------------------------------------------------------------------ external data


def external(tensor: Any, location: str = "secret.bin") -> Any:
    """Make a tensor of an ONNX file name another file."""
    from onnx import TensorProto

    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def model() -> Any:
    import onnx

    return onnx.load_model_from_string(tiny.onnx_bytes())


def in_initializer() -> Any:
    made = model()
    external(made.graph.initializer[0])
    return made


def in_constant_node() -> Any:
    made = model()
    node = made.graph.node.add(op_type="Constant", output=["c"])
    external(node.attribute.add(name="value", type=4).t)
    return made


def in_subgraph() -> Any:
    made = model()
    node = made.graph.node.add(op_type="If", input=["x"], output=["c"])
    external(node.attribute.add(name="then_branch", type=5).g.initializer.add(name="w", data_type=1))
    return made


def in_function() -> Any:
    made = model()
    node = made.functions.add(name="f", domain="d").node.add(op_type="Constant")
    external(node.attribute.add(name="value", type=4).t)
    return made


def in_sparse_tensor() -> Any:
    made = model()
    external(made.graph.sparse_initializer.add().values)
    return made


def in_training_graph() -> Any:
    made = model()
    external(made.training_info.add().algorithm.initializer.add(name="w", data_type=1))
    return made


def without_location_flag() -> Any:
    """The entry alone: nothing is left to how a library reads it."""
    made = model()
    made.graph.initializer[0].external_data.add(key="location", value="secret.bin")
    return made


PLACES = (
    in_initializer,
    in_constant_node,
    in_subgraph,
    in_function,
    in_sparse_tensor,
    in_training_graph,
    without_location_flag,
)


@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
def test_external_data_is_refused_wherever_it_hides(make: Callable[[], Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(ModelError, match="keeps weights in another file"):
        read_model_file(path)


def test_the_same_model_with_its_weights_inside_is_read(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tiny.write_onnx(tmp_path / "model.onnx")
    assert read_model_file(path).data == path.read_bytes()


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_onnx_file_is_refused_or_read_never_a_traceback(seed: int, tmp_path: Path) -> None:
    """Bits turned, bytes cut out, the end cut off: whatever the walker makes of it, it says so."""
    pytest.importorskip("onnx")
    chance = random.Random(seed)
    data = bytearray(tiny.onnx_bytes())
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(data))
        if chance.random() < 0.5:
            data[place] ^= 1 << chance.randrange(8)
        else:
            del data[place : place + chance.randint(1, 40)]
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(data))
    with suppress(ModelError):
        explain(path)


# ---------------------------------------------------------------------------------------------- sidecars

SIDECAR = Sidecar(
    engine_sha256="0" * 64,
    engine_bytes=6,
    onnx_name="m.onnx",
    onnx_sha256="1" * 64,
    spec=tiny.SPEC,
    flavor="tensorrt-rtx",
    version="1.7.0",
    capabilities=("8.9",),
    shapes={"hu": (1, 1, 512, 512)},
)
SIDECAR_CHANGES: dict[str, dict[str, Any]] = {
    "schema_of_tomorrow": {"schema_version": 2},
    "no_schema": {"schema_version": None},
    "another_identity": {"identity": "x"},
    "another_onnx": {"onnx_sha256": "2" * 64},
    "onnx_is_a_number": {"onnx_sha256": 7},
    "spec_is_text": {"spec": "n2q"},
    "spec_is_missing": {"spec": None},
    "spec_with_a_bad_window": {"spec": {**json.loads(tiny.SPEC.to_json()), "window_width": float("inf")}},
    "spec_with_text_as_network": {"spec": {**json.loads(tiny.SPEC.to_json()), "network": "unet"}},
    "shapes_are_a_list": {"shapes": [1, 1, 512, 512]},
    "shape_of_three": {"shapes": {"hu": [1, 512, 512]}},
    "shape_of_another_input": {"shapes": {"image": [1, 1, 512, 512]}},
    "shape_of_text": {"shapes": {"hu": ["a", "b", "c", "d"]}},
    "shape_of_infinity": {"shapes": {"hu": [1, 1, float("inf"), 512]}},
    "capabilities_are_a_number": {"capabilities": 8.9},
    "bytes_are_text": {"engine_bytes": "6"},
    "flavor_is_a_list": {"flavor": ["tensorrt"]},
    "an_unknown_field": {"surprise": 1},
}


@pytest.mark.parametrize("name", SIDECAR_CHANGES)
def test_a_wrong_sidecar_is_refused(name: str, tmp_path: Path) -> None:
    engine = tmp_path / "m.engine"
    sidecar_path(engine).write_text(json.dumps({**json.loads(SIDECAR.to_json()), **SIDECAR_CHANGES[name]}))
    with pytest.raises(ModelError, match="build the engine again"):
        read_sidecar(engine)


@pytest.mark.parametrize("text", ["", "[]", "null", "7", "{", "[" * 100_000, "\x00", '"hu"'])
def test_a_sidecar_that_is_none(text: str, tmp_path: Path) -> None:
    engine = tmp_path / "m.engine"
    sidecar_path(engine).write_text(text)
    with pytest.raises(ModelError, match="build the engine again"):
        read_sidecar(engine)


# ------------------------------------------------------------------------------------------- safetensors


def safetensors(header: Any, payload: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + payload


def tensor(**changes: Any) -> dict[str, Any]:
    metadata = {SPEC_KEY: tiny.SPEC.to_json()}
    return {"__metadata__": metadata, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}


SAFETENSORS = {
    "empty_header": safetensors(b""),
    "only_the_length": b"\x10\0\0\0\0\0\0\0",
    "three_bytes": b"\x01\x02\x03",
    "length_beyond_the_file": safetensors(tensor(), b"\0" * 4, length=2**40),
    "length_of_all_bits": safetensors(tensor(), b"\0" * 4, length=2**64 - 1),
    "header_is_a_list": safetensors([]),
    "header_is_a_number": safetensors(7),
    "header_is_no_json": safetensors(b"{{{{"),
    "header_is_deep": safetensors(b"[" * 100_000),
    "header_is_not_utf_8": safetensors(b"\xff\xfe{}"),
    "no_tensor": safetensors({"__metadata__": {}}),
    "tensor_is_text": safetensors({"w": "F32"}),
    "no_offsets": safetensors({"w": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    "offsets_of_one": safetensors(tensor(data_offsets=[0]), b"\0" * 4),
    "offsets_of_text": safetensors(tensor(data_offsets=["0", "4"]), b"\0" * 4),
    "offsets_beyond_the_file": safetensors(tensor(data_offsets=[0, 400]), b"\0" * 4),
    "payload_too_long": safetensors(tensor(), b"\0" * 400),
    "shape_is_a_number": safetensors(tensor(shape=1), b"\0" * 4),
    "shape_of_text": safetensors(tensor(shape=["a"]), b"\0" * 4),
    "metadata_is_a_list": safetensors({**tensor(), "__metadata__": []}, b"\0" * 4),
    "spec_is_no_text": safetensors({**tensor(), "__metadata__": {SPEC_KEY: 7}}, b"\0" * 4),
    "spec_is_of_a_bad_window": safetensors(
        {**tensor(), "__metadata__": {SPEC_KEY: tiny.SPEC.to_json().replace("300.0", "NaN")}}, b"\0" * 4
    ),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_bad_safetensors_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(SAFETENSORS[name])
    with pytest.raises(ModelError):
        explain(path)


def test_escapes_in_names_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from n2q_edge.cli import main

    spec = ModelSpec("\x1b[31mred\x07", "\x1b]0;owned\x07", {"class": "tiny"}, training={"note": "\x1b[2J"})
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors({**tensor(), "__metadata__": {SPEC_KEY: spec.to_json()}}, b"\0" * 4))
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "\\x1b[31mred" in said
    assert said.replace("\n", "").isprintable()


# --------------------------------------------------------------------------------------------- engines

ENGINES = {
    "empty": b"",
    "text": b"not an engine",
    "zeros": bytes(4096),
    "magic_alone": b"vtrt",
    "magic_and_ones": b"vtrt" + b"\xff" * 100,
    "length_of_another_file": b"ftrt" + bytes(12) + struct.pack("<Q", 7) + bytes(100),
    "version_of_nobody": b"vtrt" + bytes(12) + struct.pack("<Q", 124) + b"\xfe" * 100,
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("sidecar", [None, "{}", SIDECAR.to_json()], ids=["alone", "empty", "of_another"])
def test_an_engine_that_is_none(name: str, sidecar: str | None, tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    path.write_bytes(ENGINES[name])
    if sidecar:
        sidecar_path(path).write_text(sidecar)
    problems = []
    with suppress(ModelError):
        problems = explain(path)["problems"]
        assert len(problems) == 1
    assert "\n" not in "".join(problems)


# --------------------------------------------------------------------------------------------- recipes

GOOD = '[model]\nname = "x"\nversion = "1"\n[network]\nclass = "unet"\n[training]\nsteps = 1\nbatch = 1\n'
RECIPES = {
    "empty": "",
    "no_toml": "{{{{",
    "binary": "\x00\x01",
    "no_network": GOOD.replace("[network]\nclass", "[other]\nclass"),
    "network_is_text": GOOD.replace('[network]\nclass = "unet"', "") + "[export]\n[network]\nclass = 7\n",
    "class_is_a_number": GOOD.replace('"unet"', "7"),
    "name_is_a_number": GOOD.replace('"x"', "7"),
    "version_is_a_date": GOOD.replace('"1"', "1979-05-27"),
    "model_is_text": 'model = "x"\n' + GOOD.replace('[model]\nname = "x"\nversion = "1"\n', ""),
    "window_is_infinite": GOOD.replace('version = "1"', 'version = "1"\nwindow_width = inf'),
    "window_is_nan": GOOD.replace('version = "1"', 'version = "1"\nwindow_center = nan'),
    "doses_descend": GOOD.replace('version = "1"', 'version = "1"\ndose_levels = [0.5, 0.1]'),
    "doses_are_a_number": GOOD.replace('version = "1"', 'version = "1"\ndose_levels = 0.5'),
    "outputs_are_numbers": GOOD.replace('version = "1"', 'version = "1"\noutputs = [1]'),
    "ssim_is_text": GOOD.replace('version = "1"', 'version = "1"\nssim = "x"'),
    "ssim_of_nan": GOOD.replace('version = "1"', 'version = "1"\nssim = {sigma = nan}'),
    "unknown_setting": GOOD + "surprise = 1\n",
    "steps_are_text": GOOD.replace("steps = 1", 'steps = "many"'),
    "no_steps": GOOD.replace("steps = 1", "steps = 0"),
    "unknown_loss": GOOD + 'map_loss = "magic"\n',
    "training_is_a_list": "training = [1]\n" + GOOD.partition("[training]")[0],
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_wrong_recipe_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(RECIPES[name])
    with pytest.raises(ModelError) as refused:
        load_recipe(path)
    assert str(path) in str(refused.value)


def test_the_recipe_they_are_made_of_is_good(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(GOOD)
    assert load_recipe(path).spec.name == "x"
