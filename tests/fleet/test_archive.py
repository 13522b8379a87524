"""Shards, resuming after a kill, and the merged table."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from n2q_edge.cli import main
from n2q_edge.errors import UsageError
from n2q_edge.fleet.rows import COLUMNS
from n2q_edge.fleet.shard import Shard
from tests.helpers import tiny
from tests.helpers.dicom_files import SERIES, ct_dataset, save, stored_values
from tests.helpers.paths import ROOT

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

Capture = pytest.CaptureFixture[str]
N_SERIES, N_SLICES, KILLS = 10, 3, 6


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for series in range(N_SERIES):
        uid = f"{SERIES}.7{series}"
        for number in range(1, N_SLICES + 1):
            values = stored_values(256, 256, seed=series * 100 + number)
            data = ct_dataset(values, number, SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.{number}")
            data.ProtocolName, data.ConvolutionKernel = "Secret thorax", "Br40"
            save(data, folder / f"{series}-{number}.dcm")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


def arguments(archive: Path, model: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--model", str(model), "--runtime", "onnxruntime", "--threads", "1", "--quiet"]
    return ["assess", str(archive), "--resume", str(out), *fixed, *more]


def table(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "slices.jsonl").read_text("utf-8").splitlines()]
    return sorted(rows, key=lambda row: str(row["sop_instance"]))


@pytest.fixture(scope="module")
def whole(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("whole")
    assert main(arguments(archive, model, out, "--with-phi")) == 0
    assert main(["merge", str(out)]) == 0
    return table(out)


def test_every_series_is_in_one_shard() -> None:
    uids = [f"1.2.3.{number}" for number in range(200)]
    for count in (1, 2, 7):
        shards = [Shard(index, count) for index in range(1, count + 1)]
        assert all(sum(shard.has(uid) for shard in shards) == 1 for uid in uids)
    assert 50 < sum(Shard(1, 2).has(uid) for uid in uids) < 150


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1/2 "])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="i from 1 to n"):
        Shard.parse(text)


def test_one_run_has_every_slice_once(whole: list[dict[str, Any]]) -> None:
    wanted = [f"{SERIES}.7{series}.{n}" for series in range(N_SERIES) for n in range(1, N_SLICES + 1)]
    assert [row["sop_instance"] for row in whole] == sorted(wanted)
    for row in whole:
        assert list(row) == list(COLUMNS)
        assert row["schema_version"] == 1
        assert row["kernel"] == "Br40"
        assert row["protocol_name"] == "Secret thorax"
        assert 0 < row["quality_mean"] < 1
        assert all(value is None or type(value) is COLUMNS[name] for name, value in row.items())


@pytest.mark.slow
def test_killed_at_random_times_the_union_equals_one_run(
    archive: Path, model: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    out, dice, killed = tmp_path / "out", random.Random(17), 0
    for turn in range(KILLS):
        before = parts(out)
        command = arguments(archive, model, out, "--with-phi", "--shard", f"{turn % 2 + 1}/2")
        program = f"from n2q_edge.cli import main; import sys; sys.exit(main({command!r}))"
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
        while process.poll() is None and parts(out) == before:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.05))
        process.kill()
        killed += process.wait() == -9
    assert killed >= 2
    for shard in ("1/2", "2/2"):
        assert main(arguments(archive, model, out, "--with-phi", "--shard", shard)) == 0
    assert main(["merge", str(out)]) == 0
    assert table(out) == whole


def parts(out: Path) -> int:
    return len(list((out / "parts").glob("[!.]*.jsonl")))


def test_committed_series_are_not_assessed_again(
    archive: Path, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = arguments(archive, model, tmp_path / "out")
    command.remove("--quiet")
    assert main(command) == 0
    assert f"0 known, {N_SERIES * N_SLICES} slices" in capsys.readouterr().err.replace("\n", " ")
    assert main(command) == 0
    assert f"{N_SERIES} known, 0 slices" in capsys.readouterr().err.replace("\n", " ")


def test_a_series_that_has_grown_is_assessed_again(model: Path, tmp_path: Path) -> None:
    inbox, out = tmp_path / "in", tmp_path / "out"
    for number in (1, 2):
        save(ct_dataset(stored_values(64, 64), number), inbox / f"{number}.dcm")
        assert main(arguments(inbox, model, out, "--with-phi")) == 0
        assert main(["merge", str(out)]) == 0
        assert [row["slice"] for row in table(out)] == list(range(1, number + 1))


def test_another_model_refuses_to_resume(archive: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert main(arguments(archive, model, out, "--shard", "1/2")) == 0
    other = tiny.write_onnx(tmp_path / "other.onnx", offset=0.9)
    assert main(arguments(archive, other, out, "--shard", "2/2")) == 2
    assert "model_sha256" in capsys.readouterr().err
    assert main(arguments(archive, model, out, "--shard", "2/2", "--with-phi")) == 2
    assert "identity" in capsys.readouterr().err


def test_merge_says_which_shard_is_missing(
    archive: Path, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert main(arguments(archive, model, out, "--shard", "1/2")) == 0
    assert main(["merge", str(out)]) == 3
    assert "2/2" in capsys.readouterr().err
    assert "2/2" in (out / "index.html").read_text("utf-8")


def test_nothing_identifies_without_with_phi(archive: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(arguments(archive, model, out)) == 0
    assert main(["merge", str(out)]) == 0
    for path in out.rglob("*"):
        text = path.name + (path.read_text("utf-8") if path.is_file() else "")
        assert SERIES not in text
        assert "Secret" not in text
        assert "SECRET" not in text


def test_a_damaged_part_is_named(archive: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert main(arguments(archive, model, out)) == 0
    part = next((out / "parts").glob("*.jsonl"))
    part.write_bytes(part.read_bytes()[:-20])
    assert main(["merge", str(out)]) == 7
    assert "is damaged" in capsys.readouterr().err.replace("\n", " ")


def test_parquet_has_the_same_rows(archive: Path, model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    assert main(arguments(archive, model, out, "--with-phi")) == 0
    assert main(["merge", str(out), "--parquet"]) == 0
    read = parquet.read_table(out / "slices.parquet")
    assert read.schema.metadata[b"n2q_edge.schema_version"] == b"1"
    assert sorted(read.to_pylist(), key=lambda row: row["sop_instance"]) == table(out)


def test_merge_of_another_folder_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert main(["merge", str(tmp_path)]) == 2
    assert "manifest.json" in capsys.readouterr().err


def test_the_page_documents_every_column() -> None:
    page = (ROOT / "docs" / "how-to" / "archive.md").read_text("utf-8")
    listed = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert listed == list(COLUMNS)


@pytest.mark.parametrize("more", [["--json"], ["--reference-noise", "0"], ["--fail-below", "0"], ["-o", "x"]])
def test_an_archive_takes_no_other_output(
    more: list[str], archive: Path, model: Path, tmp_path: Path
) -> None:
    assert main(arguments(archive, model, tmp_path / "out", *more)) == 2
    assert not (tmp_path / "out").exists()


def test_a_shard_needs_a_folder(archive: Path, capsys: Capture) -> None:
    assert main(["assess", str(archive), "--shard", "1/2"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_the_data_frame_has_the_rows_and_types(archive: Path, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    from n2q_edge.fleet.table import to_dataframe

    out = tmp_path / "out"
    with pytest.raises(UsageError, match="is no archive"):
        to_dataframe(out)
    assert main(arguments(archive, model, out, "--with-phi")) == 0
    frame = to_dataframe(out).sort_values("sop_instance")
    assert main(["merge", str(out)]) == 0
    assert list(frame["quality_mean"]) == [row["quality_mean"] for row in table(out)]
    assert str(frame["slice"].dtype) == "Int64"
    assert frame["frame"].isna().all()
    assert frame["rejected"].isna().all()
