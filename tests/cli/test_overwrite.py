"""Nothing that exists is replaced unless the user says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from n2q_edge.cli import main
from tests.helpers.paths import ROOT

Capture = pytest.CaptureFixture[str]


def test_export_replaces_no_file(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"mine")
    assert main(["export", str(tmp_path / "any.safetensors"), "-o", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"


def test_train_writes_to_runs_and_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Not beside the recipe, where the released checkpoints are; a checkpoint or metrics there are kept."""
    pytest.importorskip("torch")
    from n2q_edge.training import train as training
    from n2q_edge.training.loop import Progress

    folders = []

    def fake_train(recipe: Path, *_: object, out: Path, **__: object) -> training.TrainResult:
        folders.append(out)
        return training.TrainResult(out / "x", out / "y", None, Progress())

    monkeypatch.setattr(training, "train", fake_train)
    monkeypatch.chdir(tmp_path)
    recipe = str(ROOT / "export" / "n2q.toml")
    assert main(["train", recipe, "--data", "."]) == 0
    assert folders == [Path("runs")]
    Path("runs").mkdir()
    for name in ("n2q.safetensors", "n2q.metrics.json"):
        kept = Path("runs") / name
        kept.write_text("mine")
        assert main(["train", recipe, "--data", "."]) == 2
        assert f"{kept} exists" in capsys.readouterr().err
        assert kept.read_text() == "mine"
        assert main(["train", recipe, "--data", ".", "--overwrite"]) == 0
        kept.unlink()


@pytest.mark.parametrize("command", [["phantom"], ["simulate", ".", "--dose", "25", "-o"]])
def test_folders_of_others_are_not_written_into(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("numba")
    (tmp_path / "mine.txt").touch()
    assert main([*command, str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
