from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from fakes import FakeRuntime, phantom, write_series
from rich.console import Console

from n2q_edge import atomic
from n2q_edge.assess import Assessment, assess
from n2q_edge.dicom import scan
from n2q_edge.errors import OutputError
from n2q_edge.report import document, folder, slices_csv, table
from n2q_edge.report.machine import describe_machine
from n2q_edge.report.text import percent, printable, shorten
from n2q_edge.runtimes.base import FloatArray

CtSeries = Callable[..., Path]

AIR = np.full((96, 96), -1000, np.float32)


def by_brightness(hu: FloatArray) -> FloatArray:
    return np.clip(hu / 100, 0, 1)


@pytest.fixture
def mixed(tmp_path: Path) -> Assessment:
    """Slices of quality 0.1, 0.2, 0.3, one of air, an empty file and a text file."""
    write_series(tmp_path, [phantom(96, 10), phantom(96, 20), phantom(96, 30), AIR])
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "note.txt").write_text("hello")
    return assess(scan([tmp_path]), FakeRuntime(by_brightness), keep_worst=2)


def validate(built: dict[str, object]) -> None:
    jsonschema.Draft202012Validator(
        document.schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(built)


def rendered(assessment: Assessment, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    table.render(assessment, console, worst=5)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_schema_is_a_valid_schema_and_strict(mixed: Assessment) -> None:
    jsonschema.Draft202012Validator.check_schema(document.schema())
    built = document.build(mixed, worst=5)
    validate(built)
    with pytest.raises(jsonschema.ValidationError):
        validate({**built, "surprise": 1})


def test_the_issues_fields_are_there(mixed: Assessment) -> None:
    built = document.build(mixed, worst=5)
    assert built["schema_version"] == 1
    assert built["model"]["name"] == "fake"
    assert built["model"]["sha256"] == "0" * 64
    assert built["model"]["runtime"]["name"] == "fake"
    first = built["series"][0]["slices"][0]
    assert {"read", "decode", "infer", "score", "total"} <= set(first["times_ms"])
    body = int((phantom(96, 10) > -1000).sum())  # all of it at 0.1, which is in the bin from 0.1 to 0.15
    histogram = [0, 0, body, *[0] * 17]
    assert first["quality"] == {"mean": 0.1, "p05": 0.1, "below_threshold": 1.0, "histogram": histogram}
    assert first["dose"] == {"level": 25.0, "probabilities": [0.0, 0.1, 0.6, 0.2, 0.1]}
    assert first["frame"] is None
    assert first["position_mm"] == 0
    assert built["model"]["dose_levels_percent"] == [5, 10, 25, 50, 75]


def test_what_was_not_measured_is_null(mixed: Assessment) -> None:
    air = document.build(mixed, worst=5)["series"][0]["slices"][3]
    assert air["quality"] == {"mean": None, "p05": None, "below_threshold": None, "histogram": None}
    assert air["dose"] == {"level": None, "probabilities": None}
    assert air["noise_hu"] is None
    assert air["flags"] == ["no_body"]


def test_summary(mixed: Assessment) -> None:
    (series,) = document.build(mixed, worst=2)["series"]
    assert series["summary"]["slices"] == 4
    assert series["summary"]["slices_scored"] == 3
    assert series["summary"]["quality"] == {"mean": 0.2, "min": 0.1, "p05": 0.1}
    assert series["summary"]["worst"] == [1, 2]
    assert series["summary"]["dose"] == [{"level": 25.0, "slices": 3}]
    assert series["latency"]["samples"] == 4
    assert series["latency"]["stages_ms"]["infer"] == {"p50": 8.0, "p90": 8.0, "p99": None}


def test_every_file_is_in_one_place(mixed: Assessment) -> None:
    built = document.build(mixed, worst=5)
    assert built["files"] == {"seen": 6, "assessed": 4, "rejected": 1, "skipped": 1, "not_reached": 0}
    assert [item["reason"] for item in built["rejected"]] == ["empty_file"]
    assert [item["reason"] for item in built["skipped"]] == ["not_dicom"]


def test_a_file_named_twice_is_counted_twice(ct_series: CtSeries) -> None:
    path = ct_series(slices=1) / "slice000.dcm"
    files = document.count_files(assess(scan([path, path]), FakeRuntime()))
    assert files == {"seen": 2, "assessed": 1, "rejected": 0, "skipped": 1, "not_reached": 0}


def test_files_of_an_interrupted_run(ct_series: CtSeries) -> None:
    def interrupt(hu: FloatArray) -> FloatArray:
        if hu.max() < 15:  # the second slice
            raise KeyboardInterrupt
        return by_brightness(hu)

    folder = ct_series(images=[phantom(96, hu) for hu in (20, 10, 20, 20, 20)])
    built = document.build(assess(scan([folder]), FakeRuntime(interrupt)), worst=5)
    validate(built)
    assert built["complete"] is False
    assert built["exit_code"] == 130
    assert built["files"] == {"seen": 5, "assessed": 1, "rejected": 0, "skipped": 0, "not_reached": 4}


def test_a_slice_the_model_failed_on_is_a_rejected_file(ct_series: CtSeries) -> None:
    folder = ct_series(images=[phantom(96, 10), phantom(96, 50)])
    failing = FakeRuntime(fails_on=lambda hu: bool(hu.max() < 20))
    built = document.build(assess(scan([folder]), failing), worst=5)
    validate(built)
    assert built["files"] == {"seen": 2, "assessed": 1, "rejected": 1, "skipped": 0, "not_reached": 0}
    assert built["rejected"][0]["reason"] == "model_failed"


def test_json_text_is_ascii_and_has_no_nan(mixed: Assessment) -> None:
    mixed.series[0].series.protocol["kvp"] = float("nan")
    mixed.series[0].series.protocol["kernel"] = "FÜR\udcff\x1b[31m"
    text = "".join(document.json_pieces(document.build(mixed, worst=5)))
    assert text.isascii()
    protocol = json.loads(text, parse_constant=pytest.fail)["series"][0]["protocol"]
    assert protocol["kvp"] is None
    assert protocol["kernel"] == "FÜR\\udcff\\x1b[31m"


def test_created_is_utc(mixed: Assessment) -> None:
    created = datetime.fromisoformat(document.build(mixed, worst=5)["created"].replace("Z", "+00:00"))
    assert timedelta(0) <= datetime.now(timezone.utc) - created < timedelta(minutes=5)


def test_no_patient_and_no_host_anywhere(mixed: Assessment, monkeypatch: pytest.MonkeyPatch) -> None:
    import platform

    built = "".join(document.json_pieces(document.build(mixed, worst=5)))
    host = platform.node()
    assert "SECRET" not in built
    assert host not in json.dumps(describe_machine())
    assert "SECRET" not in rendered(mixed)
    assert "SECRET" not in slices_csv.to_csv(mixed)


def test_csv_has_one_row_a_slice(mixed: Assessment) -> None:
    rows = list(csv.DictReader(io.StringIO(slices_csv.to_csv(mixed))))
    assert [row["slice"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[1]["quality_mean"]) == pytest.approx(0.2)
    assert rows[1]["dose_level_percent"] == "25"
    assert float(rows[1]["dose_probability_10"]) == pytest.approx(0.1)
    assert rows[3]["quality_mean"] == rows[3]["dose_level_percent"] == rows[3]["noise_hu"] == ""
    assert rows[3]["flags"] == "no_body"


def test_table_fits_80_columns_and_says_what_matters(mixed: Assessment) -> None:
    text = rendered(mixed)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "mean 0.200" in text
    assert "lowest slice 0.100" in text
    assert "25 % dose: 3" in text
    assert "arrival to result" in text
    assert "6 files: 4 assessed, 1 rejected, 1 skipped" in text
    assert "empty_file" in text
    assert "The file has no bytes." in text
    assert "\x1b" not in text


def test_table_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    text = rendered(assess(scan([tmp_path]), FakeRuntime()))
    assert "1 file: 1 skipped" in text
    assert "not_dicom" in text


def test_names_cannot_drive_a_terminal_or_markup(tmp_path: Path) -> None:
    write_series(tmp_path / "[red]x\x1b[31m\n", [phantom()])
    text = rendered(assess(scan([tmp_path]), FakeRuntime()), width=200)
    assert "\x1b" not in text
    assert "\\x1b[31m\\n/slice000.dcm" in text


def test_folder_has_report_rows_and_pictures(mixed: Assessment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    built = document.build(mixed, worst=2)
    pictures = folder.write_folder(mixed, built, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "report.html",
        "report.json",
        "series001_quality.png",
        "series001_slice0001.png",
        "series001_slice0002.png",
        "slices.csv",
    ]
    assert json.loads((out / "report.json").read_text()) == built
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_pictures_of_an_earlier_run_do_not_stay(mixed: Assessment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("series001_slice0099.png", "series004_quality.png", "series_mine.png"):
        (out / name).touch()
    folder.write_folder(mixed, document.build(mixed, worst=2), out)
    left = {path.name for path in out.glob("*.png")}
    assert left == {
        "series001_quality.png",
        "series001_slice0001.png",
        "series001_slice0002.png",
        "series_mine.png",
    }


def test_quality_map_is_drawn_with_a_fixed_scale_inside_the_body(mixed: Assessment) -> None:
    """Outside the body is the grey of "not scored"; one quality has one colour in every picture."""
    from matplotlib import colormaps, image
    from matplotlib.colors import to_rgb

    from n2q_edge.report.pictures import COLOURS, OUTSIDE, slice_picture

    result = mixed.series[0].worst[0]
    pixels = image.imread(io.BytesIO(slice_picture(result, mixed.spec, "a slice")))[..., :3].reshape(-1, 3)

    def share(colour: tuple[float, ...]) -> float:
        return float(np.mean(np.abs(pixels - np.array(colour[:3])).max(axis=1) < 3 / 255))

    assert share(colormaps[COLOURS](0.1)) > 0.03  # the body, quality 0.1 everywhere
    assert share(to_rgb(OUTSIDE)) > 0.05


def test_a_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    atomic.write_file(target, b"old")

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OutputError, match=r"report\.json: No space left on device"):
        atomic.write_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write into the folder"):
        atomic.make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write into the folder"):
        atomic.make_folder(tmp_path / "file" / "sub")


def test_text_helpers() -> None:
    assert printable("a\tb\x00ü") == "a\\tb\\x00ü"
    assert shorten("/a/very/long/path/slice.dcm", 12) == "…h/slice.dcm"
    assert shorten("short", 12) == "short"
    assert percent(25.0) == "25 %"
    assert percent(2.5) == "2.5 %"
