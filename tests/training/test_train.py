"""The whole way of a model: DICOM folders -> checkpoint -> ONNX -> assessed series, by the command line."""

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("numba")

from n2q_edge.cli import main
from n2q_edge.errors import ExitCode
from n2q_edge.model import checkpoint
from n2q_edge.simulation.series import PhantomScan, write_scan


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two synthetic patients, one to train on and one held out."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for seed, split in ((1, "train"), (2, "test")):
        scan = PhantomScan(slices=2, dose=1.0, seed=seed, size=128)
        paths = [path for files in write_scan(folder / split, scan, full_dose=True) for path in files]
        rows += [{"path": path.relative_to(folder), "patient": f"P{seed}", "split": split} for path in paths]
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "patient", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tiny_recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(tiny_recipe)
    arguments = ["train", str(folder / "tiny.toml"), "--data", str(data), "--runs", str(folder / "runs")]
    assert main([*arguments, "-o", str(folder), "--device", "cpu", "--quiet"]) == ExitCode.OK
    return folder


def test_the_checkpoint_tells_how_it_was_made(trained: Path) -> None:
    spec, _ = checkpoint.load(trained / "tiny.safetensors")
    assert (spec.name, spec.version) == ("tiny", "7")
    assert spec.training["steps"] == 4
    assert spec.training["slices"] == 2
    assert spec.training["patients"] == 1
    assert spec.domain is not None
    assert {"noise_hu", "diameter_mm", "slice_mm"} <= set(spec.domain)


def test_metrics_are_of_the_patient_held_out(trained: Path) -> None:
    metrics = json.loads((trained / "tiny.metrics.json").read_text())["test"]
    assert metrics["patients"] == 1
    assert metrics["slices"] == 2
    assert set(metrics["per_dose"]) == {"0.05", "0.1", "0.25", "0.5", "0.75"}
    assert 0 < metrics["body"]["mae"] < 1


def test_a_finished_training_is_not_done_twice(trained: Path, data: Path) -> None:
    """The state says that the schedule has ended: the second call evaluates and writes, nothing more."""
    before = checkpoint.load(trained / "tiny.safetensors")[1]
    arguments = ["train", str(trained / "tiny.toml"), "--data", str(data), "--runs", str(trained / "runs")]
    assert main([*arguments, "--device", "cpu", "--quiet"]) == ExitCode.OK
    after = checkpoint.load(trained / "tiny.safetensors")[1]
    assert all((before[name] == after[name]).all() for name in before)


def test_it_exports_and_assesses(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    onnx = tmp_path / "tiny.onnx"
    assert main(["export", str(trained / "tiny.toml"), "-o", str(onnx)]) == ExitCode.OK
    capsys.readouterr()
    code = main(
        ["assess", str(data / "test"), "--model", str(onnx), "--runtime", "onnxruntime", "--json", "--quiet"]
    )
    document = json.loads(capsys.readouterr().out)
    assert code == ExitCode.OK
    assert document["model"]["name"] == "tiny"
    assert [len(series["slices"]) for series in document["series"]] == [2]


def test_data_without_a_training_patient_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    only = tmp_path / "only"
    only.mkdir()
    (only / "readme.txt").write_text("no CT here")
    arguments = ["train", str(trained / "tiny.toml"), "--data", str(only), "--runs", str(tmp_path / "runs")]
    assert main([*arguments, "--device", "cpu", "--quiet"]) == ExitCode.USAGE
    assert "no usable training slice" in capsys.readouterr().err


def test_a_training_can_begin_with_a_checkpoint(trained: Path, data: Path) -> None:
    other = (trained / "tiny.toml").read_text().replace('name = "tiny"', 'name = "next"')
    (trained / "next.toml").write_text(other)
    arguments = ["train", str(trained / "next.toml"), "--data", str(data), "--runs", str(trained / "runs")]
    options = [
        "-o",
        str(trained),
        "--start-from",
        str(trained / "tiny.safetensors"),
        "--no-evaluation",
        "--device",
        "cpu",
        "--quiet",
    ]
    assert main([*arguments, *options]) == ExitCode.OK
    spec, weights = checkpoint.load(trained / "next.safetensors")
    assert spec.training["started_from"] == "tiny 7"
    assert spec.training["test"] is None
    # Four small steps away from where it began, and not from fresh weights.
    before = checkpoint.load(trained / "tiny.safetensors")[1]
    distance = max(float((weights[name] - before[name]).abs().max()) for name in before)
    assert 0 < distance < 0.05


def test_a_network_learns_from_a_teacher(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card says so; another kind of network is refused."""
    (trained / "pupil.toml").write_text((trained / "tiny.toml").read_text().replace('"tiny"', '"pupil"'))
    options = ["--data", str(data), "--runs", str(trained / "runs"), "--no-evaluation", "--device", "cpu"]
    options += ["-o", str(trained)]
    teacher = ["--teacher", str(trained / "tiny.safetensors"), "--quiet"]
    assert main(["train", str(trained / "pupil.toml"), *options, *teacher]) == ExitCode.OK
    assert checkpoint.load(trained / "pupil.safetensors")[0].training["teacher"] == "tiny 7"
    unet = {"model": ("name = 'u'", "version = '1'"), "network": ("class = 'unet'",)}
    tables = {**unet, "training": ("steps = 1", "batch = 1")}
    text = "".join("\n".join([f"[{name}]", *lines, ""]) for name, lines in tables.items())
    (trained / "unet.toml").write_text(text)
    capsys.readouterr()
    assert main(["train", str(trained / "unet.toml"), *options, *teacher]) == ExitCode.USAGE
    assert "--teacher takes a checkpoint of a compact network" in capsys.readouterr().err


def test_several_recipes_by_one_command(
    tiny_recipe: str, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each with its own state and checkpoint; a wrong one stops all before the first is trained."""
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(tiny_recipe.replace('"tiny"', f'"{name}"'))
    recipes = [str(tmp_path / f"{name}.toml") for name in ("one", "two")]
    options = ["--data", str(data), "--runs", str(runs), "--no-evaluation", "--device", "cpu"]
    assert main(["train", *recipes, *options, "--quiet"]) == ExitCode.OK
    assert capsys.readouterr().out.splitlines() == [
        str(runs / f"{name}{end}") for name in ("one", "two") for end in (".safetensors", ".metrics.json")
    ]
    assert [checkpoint.load(runs / f"{name}.safetensors")[0].name for name in ("one", "two")] == [
        "one",
        "two",
    ]
    (runs / "one.safetensors").unlink()
    assert main(["train", *recipes, str(tmp_path / "none.toml"), *options, "--overwrite"]) == ExitCode.MODEL
    assert not (runs / "one.safetensors").exists()
