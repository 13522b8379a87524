"""What is installed, and what an import costs."""

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


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "n2q_edge").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    tracked |= {f"n2q_edge/{path.relative_to(ROOT)}" for path in (ROOT / "engines").glob("*.toml")}
    assert names == tracked
    assert "n2q_edge/py.typed" in names
    assert "n2q_edge/report/schema.json" in names
    assert any(name.startswith("n2q_edge/released_models/") and name.endswith(".onnx") for name in names)


def test_no_file_of_the_wheel_is_large(tmp_path: Path) -> None:
    """A few MB for a model; nothing else comes near."""
    sizes = {
        path: path.stat().st_size
        for path in (ROOT / "n2q_edge").rglob("*")
        if "__pycache__" not in path.parts
    }
    assert max(sizes.values()) < 9e6
