"""What is installed, and what an import costs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "numba",
    "scipy",
    "matplotlib",
    "pydicom",
    "gdcm",
    "openjpeg",
    "imagecodecs",
}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that are loaded after running `code` in a fresh interpreter."""
    command = (
        f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import n2q_edge",
        "from n2q_edge.cli import main; main(['--help'])",
        "from n2q_edge.cli import main; main(['assess', '--help'])",
    ],
)
def test_start_up_loads_nothing_heavy(code: str) -> None:
    assert not loaded_by(code) & HEAVY


def test_dicom_and_runtimes_do_not_load_torch() -> None:
    loaded = loaded_by("import n2q_edge.dicom, n2q_edge.runtimes, n2q_edge.assessment.run, n2q_edge.report")
    assert "torch" not in loaded


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Size by name of what is in the wheel, but for its metadata."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {
            each.filename: each.file_size for each in archive.infolist() if ".dist-info/" not in each.filename
        }


def git(*arguments: str, folder: Path = ROOT) -> str:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout


def test_the_wheel_holds_what_git_tracks_of_the_package_and_nothing_else(wheel: dict[str, int]) -> None:
    listed = git("ls-files", "n2q_edge", "engines/*.toml").split()
    expected = {name for name in listed if (ROOT / name).is_file()}
    assert set(wheel) == {name if name.startswith("n2q_edge/") else f"n2q_edge/{name}" for name in expected}


def test_the_wheel_holds_what_is_not_python(wheel: dict[str, int]) -> None:
    for name in ("py.typed", "report/schema.json", "engines/rtx-4090.toml", "released_models/n2q-small.onnx"):
        assert wheel[f"n2q_edge/{name}"] > 0 or name == "py.typed"


def test_only_models_are_large(wheel: dict[str, int]) -> None:
    """The largest of the others is the JSON schema, some 40 kB; a model has one or two MB."""
    models = {name for name in wheel if name.startswith("n2q_edge/released_models/n2q-")}
    assert max(wheel[name] for name in models) < 4e6
    assert max(size for name, size in wheel.items() if name not in models) < 1e5


@pytest.mark.parametrize(
    ("name", "size", "code"),
    [
        ("notes.bin", 1_000_000, 0),
        ("notes.bin", 1_000_001, 1),
        ("export/mine.safetensors", 1_000_001, 1),
        ("export/n2q.safetensors", 7_900_000, 0),  # one of the paper's systems
        ("export/n2q.safetensors", 8_000_001, 1),
    ],
)
def test_large_files_are_refused_by_name(tmp_path: Path, name: str, size: int, code: int) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(bytes(size))
    git("init", "--quiet", folder=tmp_path)
    git("add", "--all", folder=tmp_path)
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "large_files.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert (name in done.stderr) == bool(code)
