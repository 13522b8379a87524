from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from n2q_edge.errors import ExitCode, MissingDependencyError, ModelError, OutputError
from n2q_edge.model import checkpoint
from n2q_edge.spec import ModelSpec

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

SPEC = ModelSpec(
    name="n2q",
    version="7",
    network={"class": "unet", "inputs": ["slice"], "width": 4},
    size_multiple=32,
    training={"data": "µ-phantom", "steps": 3, "metrics": {"mae": 0.25}},
)


def weights() -> dict[str, Any]:
    return {"conv.weight": torch.arange(12.0).reshape(3, 4), "steps": torch.tensor(5)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, SPEC, weights())
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelError) as error:
        checkpoint.load(path)
    message = str(error.value)
    assert error.value.exit_code == ExitCode.MODEL
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message


def test_what_is_saved_is_loaded(file: Path) -> None:
    spec, tensors = checkpoint.load(file)
    assert spec == SPEC
    assert tensors.keys() == weights().keys()
    for name, tensor in weights().items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype


def test_shared_and_strided_tensors_can_be_saved(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, SPEC, {"a": shared, "b": shared, "c": shared.T})
    assert torch.equal(checkpoint.load(path)[1]["c"], shared.T)


def test_saving_twice_gives_the_same_bytes(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    checkpoint.save(again, SPEC, weights())
    assert again.read_bytes() == file.read_bytes()


def test_a_failed_save_leaves_the_old_file(file: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    before = file.read_bytes()
    file.parent.chmod(0o500)
    try:
        with pytest.raises(OutputError):
            checkpoint.save(file, replace(SPEC, version="8"), weights())
    finally:
        file.parent.chmod(0o700)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_saving_into_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        checkpoint.save(tmp_path / "none" / "model.safetensors", SPEC, weights())


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_truncated(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    refused(file)


def test_missing_foreign_and_unknown_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "does not exist")
    (tmp_path / "text.safetensors").write_text("no tensors here, only a sentence\n")
    refused(tmp_path / "text.safetensors", "no whole safetensors file")
    (tmp_path / "model.bin").write_bytes(b"x")
    refused(tmp_path / "model.bin", ".safetensors")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "cannot be read")


def test_safetensors_without_a_spec(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "plain.safetensors"
    save_file(weights(), path)
    refused(path, "no n2q-edge model spec")


# --- authors' .pth


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (tmp_path / "it ran",)

    path = tmp_path / "weights.pth"
    torch.save({"weight": Evil()}, path)
    refused(path, "can run code")
    path.write_bytes(pickle.dumps(Evil()))
    refused(path)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("kept", [0, 1, 50, 400, -30])
def test_truncated_pth(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "weights.pth"
    torch.save(weights(), path)
    path.write_bytes(path.read_bytes()[:kept])
    refused(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {1: 2}, {"model": {"w": torch.zeros(1)}}])
def test_pth_that_is_no_state_dict(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    refused(path, "state_dict()")


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "model.module."])
@pytest.mark.parametrize("nested", [False, True])
def test_pth_as_training_scripts_save_it(tmp_path: Path, prefix: str, nested: bool) -> None:
    """Wrapped by DataParallel or Lightning, beside the state of an optimizer, or not."""
    network = {"class": "unet", "inputs": ["slice", "high_pass"], "width": 4}
    from n2q_edge.network import build

    state = build(ModelSpec("n2q", "1", network)).state_dict()
    wrapped: dict[str, Any] = {prefix + name: tensor for name, tensor in state.items()}
    path = tmp_path / "weights.pth"
    torch.save({"epoch": 3, "state_dict": wrapped} if nested else wrapped, path)
    spec, loaded = checkpoint.load(path)
    assert spec.network == network
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_pth_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"layer1.conv.weight": torch.zeros(3, 3)}, path)
    refused(path, "not the authors' network")


# --- network and weights


def test_load_network_gives_the_weights_back() -> None:
    from n2q_edge.network import build

    torch.manual_seed(0)
    network = build(SPEC).eval()
    path = Path("memory.safetensors")
    data = _bytes(SPEC, network.state_dict())
    spec, again = checkpoint.load_network(path, data)
    hu = torch.rand(1, 1, 64, 64) * 500 - 250
    with torch.inference_mode():
        for first, second in zip(network(hu), again.eval()(hu), strict=True):
            assert torch.equal(first, second)
    assert spec == SPEC


def test_weights_of_another_size_do_not_load() -> None:
    from n2q_edge.network import build

    data = _bytes(replace(SPEC, network={**SPEC.network, "width": 8}), build(SPEC).state_dict())
    with pytest.raises(ModelError, match=r"memory\.safetensors: its weights do not fit"):
        checkpoint.load_network(Path("memory.safetensors"), data)


def _bytes(spec: ModelSpec, state_dict: dict[str, Any]) -> bytes:
    from safetensors.torch import save

    from n2q_edge.spec import SPEC_KEY

    return bytes(save(state_dict, metadata={SPEC_KEY: spec.to_json()}))


def test_missing_torch_names_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingDependencyError, match=r"\[train\]"):
        checkpoint.load(file)
