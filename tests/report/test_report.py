from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from n2q_edge import files
from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.results import RunReport
from n2q_edge.assessment.run import assess
from n2q_edge.dicom import scan
from n2q_edge.errors import OutputError
from n2q_edge.machine import describe_machine
from n2q_edge.report import document, folder, slices_csv, table
from n2q_edge.report.text import percent, printable, shorten
from n2q_edge.runtimes import Runtime, open_model
from n2q_edge.spec import FeatureLimits
from tests.helpers import tiny
from tests.helpers.fakes import FakeRuntime, phantom, write_series

CtSeries = Callable[..., Path]

AIR = np.full((96, 96), -1000, np.float32)


def by_brightness(hu: FloatArray) -> FloatArray:
    return np.clip(hu / 100, 0, 1)


@pytest.fixture(params=["fake", "onnxruntime"])
def without_dose(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunReport]:
    """Two slices of 10 and 40 HU, assessed by models without a dose head."""
    write_series(tmp_path / "series", [phantom(96, 10), phantom(96, 40)])
    if request.param == "fake":
        runtime: Runtime = FakeRuntime(by_brightness, dose=None)
    else:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        runtime = open_model(tiny.write_onnx(tmp_path / "map.onnx", spec=tiny.MAP_ONLY), "onnxruntime")
    with runtime:
        yield assess(scan([tmp_path / "series"]), runtime, worst=2, keep_images=True)


@pytest.fixture
def mixed(tmp_path: Path) -> RunReport:
    """Slices of quality 0.1, 0.2, 0.3, one of air, an empty file and a text file."""
    write_series(tmp_path, [phantom(96, 10), phantom(96, 20), phantom(96, 30), AIR])
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "note.txt").write_text("hello")
    return assess(scan([tmp_path]), FakeRuntime(by_brightness), worst=2, keep_images=True)


def validate(built: dict[str, object]) -> None:
    jsonschema.Draft202012Validator(
        document.schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(built)


def rendered(assessment: RunReport, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    table.render(assessment, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_schema_is_a_valid_schema_and_strict(mixed: RunReport) -> None:
    jsonschema.Draft202012Validator.check_schema(document.schema())
    built = document.build(mixed)
    validate(built)
    with pytest.raises(jsonschema.ValidationError):
        validate({**built, "surprise": 1})


def test_the_issues_fields_are_there(mixed: RunReport) -> None:
    built = document.build(mixed)
    assert built["schema_version"] == 2
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


def test_what_was_not_measured_is_null(mixed: RunReport) -> None:
    air = document.build(mixed)["series"][0]["slices"][3]
    assert air["quality"] == {"mean": None, "p05": None, "below_threshold": None, "histogram": None}
    assert air["dose"] == {"level": None, "probabilities": None}
    assert air["noise_hu"] is None
    assert air["flags"] == ["no_body"]


def test_a_model_without_a_dose_head_names_no_dose_anywhere(without_dose: RunReport, tmp_path: Path) -> None:
    """Not null for want of a body: every slice has a quality, and none a dose."""
    built = document.build(without_dose)
    validate(built)
    assert built["model"]["dose_levels_percent"] == []
    (series,) = built["series"]
    assert series["summary"]["dose"] == []
    assert series["summary"]["slices_scored"] == 2
    assert [item["dose"] for item in series["slices"]] == [{"level": None, "probabilities": None}] * 2
    (first, _) = csv.DictReader(io.StringIO(slices_csv.to_csv(without_dose)))
    assert first["dose_level_percent"] == ""
    assert first["quality_mean"] != ""
    assert not [name for name in first if name.startswith("dose_probability")]
    assert "looks like" not in rendered(without_dose)
    folder.write_folder(without_dose, built, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Dose it looks like" not in page
    assert "about 25 %" not in page
    assert (tmp_path / "series001_along.svg").read_bytes().startswith(b"<svg")


def test_summary(mixed: RunReport) -> None:
    (series,) = document.build(mixed)["series"]
    assert series["summary"]["slices"] == 4
    assert series["summary"]["slices_scored"] == 3
    assert series["summary"]["quality"] == {"mean": 0.2, "min": 0.1, "p05": 0.1}
    assert series["summary"]["worst"] == [1, 3]  # 2 is beside 1
    assert series["summary"]["dose"] == [{"level": 25.0, "slices": 3}]
    assert series["latency"]["samples"] == 4
    assert series["latency"]["stages_ms"]["infer"] == {"p50": 8.0, "p90": 8.0, "p99": None}


def test_every_file_is_in_one_place(mixed: RunReport) -> None:
    built = document.build(mixed)
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
    built = document.build(assess(scan([folder]), FakeRuntime(interrupt)))
    validate(built)
    assert built["complete"] is False
    assert built["exit_code"] == 130
    assert built["files"] == {"seen": 5, "assessed": 1, "rejected": 0, "skipped": 0, "not_reached": 4}


def test_a_slice_the_model_failed_on_is_a_rejected_file(ct_series: CtSeries) -> None:
    folder = ct_series(images=[phantom(96, 10), phantom(96, 50)])
    failing = FakeRuntime(fails_on=lambda hu: bool(hu.max() < 20))
    built = document.build(assess(scan([folder]), failing))
    validate(built)
    assert built["files"] == {"seen": 2, "assessed": 1, "rejected": 1, "skipped": 0, "not_reached": 0}
    assert built["rejected"][0]["reason"] == "model_failed"


def test_json_text_is_ascii_and_has_no_nan(mixed: RunReport) -> None:
    mixed.series[0].series.protocol["kvp"] = float("nan")
    mixed.series[0].series.protocol["kernel"] = "FÜR\udcff\x1b[31m"
    text = "".join(document.json_pieces(document.build(mixed)))
    assert text.isascii()
    protocol = json.loads(text, parse_constant=pytest.fail)["series"][0]["protocol"]
    assert protocol["kvp"] is None
    assert protocol["kernel"] == "FÜR\\udcff\\x1b[31m"


def test_created_is_utc(mixed: RunReport) -> None:
    created = datetime.fromisoformat(document.build(mixed)["created"].replace("Z", "+00:00"))
    assert timedelta(0) <= datetime.now(timezone.utc) - created < timedelta(minutes=5)


def test_no_patient_and_no_host_anywhere(mixed: RunReport, monkeypatch: pytest.MonkeyPatch) -> None:
    import platform

    built = "".join(document.json_pieces(document.build(mixed)))
    host = platform.node()
    assert "SECRET" not in built
    assert host not in json.dumps(describe_machine())
    assert "SECRET" not in rendered(mixed)
    assert "SECRET" not in slices_csv.to_csv(mixed)


def test_csv_has_one_row_a_slice(mixed: RunReport) -> None:
    rows = list(csv.DictReader(io.StringIO(slices_csv.to_csv(mixed))))
    assert [row["slice"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[1]["quality_mean"]) == pytest.approx(0.2)
    assert rows[1]["dose_level_percent"] == "25"
    assert float(rows[1]["dose_probability_10"]) == pytest.approx(0.1)
    assert rows[3]["quality_mean"] == rows[3]["dose_level_percent"] == rows[3]["noise_hu"] == ""
    assert rows[3]["flags"] == "no_body"


def test_table_fits_80_columns_and_says_what_matters(mixed: RunReport) -> None:
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


@pytest.fixture
def strange(tmp_path: Path) -> RunReport:
    """Two slices of 5 mm, of a model that was trained on 1 to 3 mm, and one of air."""
    write_series(tmp_path, [phantom(96, 10), phantom(96, 20), AIR])
    domain = {"slice_mm": FeatureLimits((1.0, 3.0), (0.9, 3.3))}
    return assess(scan([tmp_path]), FakeRuntime(by_brightness, domain=domain), worst=2, keep_images=True)


STRANGE = "thick slice: slice thickness 5 mm, training 1 to 3 mm"


def test_out_of_domain_in_the_document(strange: RunReport) -> None:
    built = document.build(strange)
    validate(built)
    assert built["model"]["domain"] == {"slice_mm": {"training": [1.0, 3.0], "limits": [0.9, 3.3]}}
    (series,) = built["series"]
    reason = {"code": "thick_slice", "feature": "slice_mm", "training": [1.0, 3.0]}
    assert series["slices"][0]["out_of_domain"] == [{**reason, "value": 5.0, "text": STRANGE}]
    assert series["slices"][2]["out_of_domain"] == []
    text = "thick slice (slice thickness 5 mm, training 1 to 3 mm)"
    assert series["summary"]["out_of_domain"] == {
        "slices": 2,
        "share": 1.0,  # of the two with a body
        "text": f"2 of 3 slices are out of domain: {text}",
        "reasons": [{**reason, "slices": 2, "values": [5.0, 5.0], "text": text}],
    }


def test_a_model_that_cannot_tell_is_null_everywhere(mixed: RunReport) -> None:
    built = document.build(mixed)
    assert built["model"]["domain"] is None
    assert built["series"][0]["summary"]["out_of_domain"] is None
    assert built["series"][0]["slices"][0]["out_of_domain"] is None


def test_out_of_domain_in_csv_and_table(strange: RunReport) -> None:
    rows = list(csv.DictReader(io.StringIO(slices_csv.to_csv(strange))))
    assert [row["out_of_domain"] for row in rows] == [STRANGE, STRANGE, ""]
    assert rows[0]["flags"] == "out_of_domain"
    text = rendered(strange)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "2 of 3 slices are out of domain: thick slice" in text


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


def test_folder_has_report_rows_and_pictures(mixed: RunReport, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    built = document.build(mixed)
    pictures = folder.write_folder(mixed, built, out)
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        "report.html",
        "report.json",
        "series001_along.svg",
        "series001_slice0001.png",
        "series001_slice0003.png",
        "slices.csv",
    ]
    assert json.loads((out / "report.json").read_text()) == built
    assert {path.name for path in pictures} == {path.name for path in out.glob("series*")}


def test_a_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    files.write_file(target, b"old")

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OutputError, match=r"report\.json: No space left on device"):
        files.write_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write into the folder"):
        files.make_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write into the folder"):
        files.make_folder(tmp_path / "file" / "sub")


def test_text_helpers() -> None:
    assert printable("a\tb\x00ü") == "a\\tb\\x00ü"
    assert shorten("/a/very/long/path/slice.dcm", 12) == "…h/slice.dcm"
    assert shorten("short", 12) == "short"
    assert percent(25.0) == "25 %"
    assert percent(2.5) == "2.5 %"
