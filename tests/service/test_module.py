"""n2q-edge as a processing step of other platforms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from n2q_edge.errors import UsageError
from n2q_edge.service import module
from tests.helpers.node_files import write_series


@pytest.mark.parametrize(
    ("names", "with_folders"),
    [
        (("MERCURE_IN_DIR", "MERCURE_OUT_DIR"), False),
        (("MONAI_INPUTPATH", "MONAI_OUTPUTPATH"), True),
        (("HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH"), True),
    ],
)
def test_the_folders_of_each_platform(names: tuple[str, str], with_folders: bool) -> None:
    environment = dict(zip(names, ("/in", "/out"), strict=True))
    assert module.folders([], environment) == (Path("/in"), Path("/out"), with_folders)
    assert module.folders(["/a", "/b"], environment) == (Path("/a"), Path("/b"), True)


def test_without_folders_it_says_what_to_set() -> None:
    with pytest.raises(UsageError, match="MERCURE_IN_DIR"):
        module.folders([], {})


def test_two_series_in_results_out(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("highdicom")
    write_series(tmp_path / "in" / "a", 3, series=1)
    write_series(tmp_path / "in" / "b", 2, series=2)
    (tmp_path / "in" / "task.json").write_text("{}")
    module.run(tmp_path / "in", tmp_path / "out", with_folders=False)
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    assert sorted(each["slices"] for each in content["series"]) == [2, 3]
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert all(name.endswith(".dcm") or name == "result.json" for name in names)
    assert len([name for name in names if name.endswith("_report.dcm")]) == 2
