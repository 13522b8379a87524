"""`assess --dicom` as a whole: all objects of a series or none, bounded memory, no names in any message."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

pytest.importorskip("highdicom")

from n2q_edge import errors
from n2q_edge.cli import main
from n2q_edge.dicom_out import objects
from n2q_edge.dicom_out.codes import PRIVATE_CODES
from n2q_edge.dicom_out.source_header import NOT_WRITTEN_REASONS
from n2q_edge.report import document
from tests.helpers.fakes import FakeRuntime
from tests.helpers.paths import ROOT
from tests.helpers.result_files import NoisyRuntime, along_z, dciodvfy_errors, read, results, write_source

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """`open_model` gives this runtime, whatever is asked for."""
    runtime = NoisyRuntime()
    monkeypatch.setattr("n2q_edge.runtimes.open_model", lambda *_, **__: runtime)
    return runtime


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def test_one_command_writes_everything(tmp_path: Path, fake: FakeRuntime, capsys: Capture) -> None:
    source, out = write_source(tmp_path / "in", along_z(0, 5)), tmp_path / "out"
    assert main(["assess", str(source), "-o", str(out), "--dicom", "--json"]) == 0
    captured = capsys.readouterr()
    built = json.loads(captured.out)
    jsonschema.validate(built, document.schema())
    written = built["series"][0]["dicom"]["written"]
    assert built["series"][0]["dicom"]["not_written"] == []
    assert [item["kind"] for item in written] == [
        "quality_map", "noise_map", "overlay", "overlay", "structured_report",
    ]  # fmt: skip
    for item in written:
        dataset = pydicom.dcmread(item["path"])
        assert (dataset.SOPClassUID, dataset.SOPInstanceUID) == (
            item["sop_class_uid"],
            item["sop_instance_uid"],
        )
    assert files(out / "dicom") == [
        "series001/noise_map_001.dcm",
        "series001/overlay_0001.dcm",
        "series001/overlay_0002.dcm",
        "series001/quality_map_001.dcm",
        "series001/report.dcm",
    ]
    assert "5 DICOM objects are in" in captured.err


def test_the_model_without_noise_map_gives_none(tmp_path: Path) -> None:
    writer, _ = results(write_source(tmp_path / "in", along_z(0)), tmp_path, FakeRuntime())
    assert {item.kind for item in writer.series[0].written} == {"quality_map", "overlay", "structured_report"}
    assert writer.series[0].not_written == []


def test_without_out_it_is_ill_usage(fake: FakeRuntime, tmp_path: Path, capsys: Capture) -> None:
    assert main(["assess", str(tmp_path), "--dicom"]) == 2
    assert "-o OUT" in capsys.readouterr().err


def test_without_highdicom_the_extra_is_named(
    tmp_path: Path, fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def missing(module: str) -> Any:
        raise ModuleNotFoundError(name=module)

    monkeypatch.setattr(errors, "import_module", missing)
    source = write_source(tmp_path / "in", along_z(0))
    assert main(["assess", str(source), "-o", str(tmp_path / "out"), "--dicom"]) == 6
    assert "of the extra 'dicom': pip install" in capsys.readouterr().err


def test_objects_of_an_earlier_run_are_replaced(tmp_path: Path) -> None:
    write_source(tmp_path / "a", along_z(0, 5))
    results(tmp_path / "a", tmp_path)
    before = {dataset.SOPInstanceUID for dataset in read(tmp_path, "*.dcm")}
    (tmp_path / "dicom" / "mine.txt").write_text("not ours")
    results(write_source(tmp_path / "b", along_z(0)), tmp_path)
    after = {dataset.SOPInstanceUID for dataset in read(tmp_path, "*.dcm")}
    assert len(after) == 4
    assert not before & after  # other content, other UIDs (PS3.5 B)
    assert (tmp_path / "dicom" / "mine.txt").exists()


def test_an_interrupted_series_leaves_nothing(
    tmp_path: Path, fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    source, out = write_source(tmp_path / "in", along_z(0, 5)), tmp_path / "out"
    monkeypatch.setattr(objects, "structured_report", interrupted)
    assert main(["assess", str(source), "-o", str(out), "--dicom", "--json"]) == 130
    built = json.loads(capsys.readouterr().out)
    jsonschema.validate(built, document.schema())
    assert built["series"][0]["dicom"]["written"] == []
    assert built["series"][0]["dicom"]["not_written"][0]["reason"] == "interrupted"
    assert files(out / "dicom") == []


@pytest.mark.parametrize("when", ["collecting", "writing"])
def test_a_full_disk_leaves_no_half_objects_and_loses_no_result(
    tmp_path: Path, fake: FakeRuntime, monkeypatch: pytest.MonkeyPatch, capsys: Capture, when: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source, out = write_source(tmp_path / "in", along_z(0, 5)), tmp_path / "out"
    if when == "writing":
        monkeypatch.setattr("n2q_edge.dicom_out.parametric_map.os", SimpleNamespace(fsync=full))
    else:
        opened = Path.open

        def open_full(self: Path, *arguments: Any, **options: Any) -> Any:
            return full() if self.suffix == ".raw" else opened(self, *arguments, **options)

        monkeypatch.setattr(Path, "open", open_full)
    assert main(["assess", str(source), "-o", str(out), "--dicom", "--json"]) == 7
    captured = capsys.readouterr()
    built = json.loads(captured.out)
    jsonschema.validate(built, document.schema())
    assert len(built["series"][0]["slices"]) == 2
    assert built["series"][0]["dicom"]["not_written"][0]["reason"] == "output_failed"
    assert "No space left" in captured.err
    assert "Traceback" not in captured.err
    assert files(out / "dicom") == []


def test_no_message_names_the_patient(
    tmp_path: Path, fake: FakeRuntime, capfd: pytest.CaptureFixture[str]
) -> None:
    def named(_: int, dataset: Dataset) -> None:
        dataset.PatientName = "Geheim"  # one component, which highdicom warns about, with the name
        dataset.StudyID = "X" * 70  # too long, which pydicom warns about

    source = write_source(tmp_path / "in", along_z(0, 5), named)
    assert main(["assess", str(source), "-o", str(tmp_path / "out"), "--dicom"]) == 0
    captured = capfd.readouterr()
    assert "Geheim" not in captured.out + captured.err
    assert "XXXX" not in captured.out + captured.err
    assert read(tmp_path / "out", "report.dcm")[0].PatientName == "Geheim"


def test_values_that_break_the_standard_do_not_break_the_result(tmp_path: Path) -> None:
    def wrong(_: int, dataset: Dataset) -> None:
        dataset.StudyID, dataset.StudyDescription = "1" * 20, "two\\values"
        dataset.PatientName = "Müller^Jürgen"  # written as Latin-1 without a Specific Character Set

    results(write_source(tmp_path / "in", along_z(0, 5), wrong), tmp_path)
    for dataset in read(tmp_path, "*.dcm"):
        assert (dataset.StudyID, dataset.PatientName) == ("", "Müller^Jürgen")
        assert dataset.SpecificCharacterSet == "ISO_IR 100"  # so that it can be read
        assert "StudyDescription" not in dataset


@pytest.mark.parametrize(("keyword", "value"), [("PatientID", "1" * 70), ("StudyInstanceUID", "1.2.003")])
def test_without_a_valid_identity_there_is_a_reason_and_no_object(
    tmp_path: Path, keyword: str, value: str
) -> None:
    """It can be neither copied, which gives an invalid object, nor changed, which gives one of nobody."""

    def wrong(_: int, dataset: Dataset) -> None:
        setattr(dataset, keyword, value)

    writer, assessment = results(write_source(tmp_path / "in", along_z(0, 5), wrong), tmp_path)
    assert len(assessment.series[0].slices) == 2
    assert [(item.kind, item.reason) for item in writer.series[0].not_written] == [("all", "invalid_source")]
    assert files(tmp_path / "dicom") == []


def test_memory_does_not_grow_with_the_slices(tmp_path: Path) -> None:
    """Headers and references grow by some kB a slice; the pixels must not."""
    peaks = {}
    results(write_source(tmp_path / "warm", along_z(0)), tmp_path)  # imports and caches
    for count in (4, 12):
        source = write_source(tmp_path / f"in{count}", along_z(*(5.0 * i for i in range(count))), size=128)
        tracemalloc.start()
        results(source, tmp_path / f"out{count}")
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    growth = (peaks[12] - peaks[4]) / 8
    assert growth < 60_000  # bytes a slice; one map of it has 65,536


def test_the_header_is_read_once(tmp_path: Path) -> None:
    """A source that is gone when results are written is still named in them, as it was when it was found."""
    source = write_source(tmp_path / "in", along_z(0))
    original = pydicom.dcmread(source / "0001.dcm")

    class Meddling(NoisyRuntime):
        def infer(self, hu: Any) -> Any:
            (source / "0001.dcm").unlink(missing_ok=True)
            return super().infer(hu)

    writer, _ = results(source, tmp_path, Meddling())
    assert writer.series[0].not_written == []
    paths = sorted((tmp_path / "dicom").rglob("*.dcm"))
    assert paths
    for path in paths:
        written = pydicom.dcmread(path)
        assert written.PatientID == original.PatientID
        assert written.StudyInstanceUID == original.StudyInstanceUID


def test_reasons_are_documented_and_in_the_schema() -> None:
    text = (ROOT / "docs" / "reference" / "dicom-output.md").read_text("utf-8")
    listed = document.schema()["$defs"]["series"]["properties"]["dicom"]["properties"]["not_written"]["items"]
    assert set(listed["properties"]["reason"]["enum"]) == set(NOT_WRITTEN_REASONS)
    for reason in NOT_WRITTEN_REASONS:
        assert f"`{reason}`" in text


def test_private_codes_are_in_the_conformance_statement() -> None:
    text = (ROOT / "docs" / "reference" / "dicom-conformance.md").read_text("utf-8")
    for code in PRIVATE_CODES:
        assert f"| {code.value} | {code.meaning} |" in text
        assert len(code.value) <= 16  # SH
        assert len(code.meaning) <= 64  # LO


def test_a_zip_archive_is_a_source_like_any_other(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", along_z(0, 5))
    shutil.make_archive(str(tmp_path / "all"), "zip", source)
    writer, _ = results(tmp_path / "all.zip", tmp_path)
    assert writer.series[0].not_written == []
    assert len(writer.series[0].written) == 5
    assert read(tmp_path, "report.dcm")[0].PatientID == "SECRET-ID"


FIRST_OF_A_KIND = ("quality_map_001.dcm", "noise_map_001.dcm", "overlay_0001.dcm", "report.dcm")


@pytest.mark.peer
@pytest.mark.slow
def test_the_zoo_gives_valid_objects_or_reasons(tmp_path: Path, shared_dir: Path) -> None:
    """Tilted, duplicated, gapped, multi-frame, mixed, lossy: real files."""
    writer, assessment = results(shared_dir / "zoo", tmp_path)
    assert writer.error is None
    assert len(writer.series) == len(assessment.series)
    for series in writer.series:
        assert series.written or series.not_written
        assert all(missing.reason in NOT_WRITTEN_REASONS for missing in series.not_written)
        for item in series.written:
            if item.path.name in FIRST_OF_A_KIND:
                assert dciodvfy_errors(item.path) == [], item.path


@pytest.mark.slow
def test_a_real_series_keeps_every_value(tmp_path: Path, shared_dir: Path) -> None:
    """Three acquisitions interleaved in one series: every frame lies where its source slice lies."""
    source = tmp_path / "in"
    source.mkdir()
    for path in sorted((shared_dir / "ct" / "tcga-lihc").rglob("*.dcm"))[25:55]:
        (source / path.name).symlink_to(path)
    writer, assessment = results(source, tmp_path)
    assert writer.series[0].not_written == []
    maps = read(tmp_path, "quality_map_*.dcm")
    assert sum(int(dataset.NumberOfFrames) for dataset in maps) == len(assessment.series[0].slices) == 30
    seen = set()
    for dataset in maps:
        z = [
            float(g.PlanePositionSequence[0].ImagePositionPatient[2])
            for g in dataset.PerFrameFunctionalGroupsSequence
        ]
        steps = np.diff(z)
        assert (steps > 0).all()
        assert np.allclose(steps, steps[:1] if steps.size else 0)
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            seen.add(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
    assert seen == {result.ref.sop_instance_uid for result in assessment.series[0].slices}
