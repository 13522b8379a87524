"""The node's assessor against `assess`: the same slices give the same numbers, however they arrive."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pydicom import dcmread

from n2q_edge.service.settings import Assess, Settings
from tests.helpers.node_files import write_series

pytest.importorskip("onnxruntime")
pytest.importorskip("highdicom")

from n2q_edge.service.assessor import open_assessor


def test_slices_that_arrive_in_any_order_give_what_assess_gives(tmp_path: Path) -> None:
    from n2q_edge.assessment.run import assess
    from n2q_edge.dicom import scan
    from n2q_edge.runtimes import open_model

    files = write_series(tmp_path / "in", 7)
    with open_model(None) as runtime:
        expected = assess(scan([tmp_path / "in"]), runtime).series[0]
    random.Random(1).shuffle(files)
    settings = Settings(assess=Assess(worst=2, maps=True))
    with open_assessor(settings) as assessor:
        outcomes = [work.result() for work in [assessor.submit(path) for path in files]]
        written = {}
        for revision in (1, 2):
            folder = tmp_path / f"r{revision}"
            folder.mkdir()
            written[revision] = assessor.write(folder, outcomes, revision, "1.2.3" if revision > 1 else None)
    summary = written[1].summary
    assert summary["slices"] == len(expected.slices) == 7
    assert summary["quality"] == pytest.approx(expected.summary.quality.mean, abs=1e-6)
    assert summary["noise_hu"] == pytest.approx(expected.summary.noise_hu.median, abs=1e-3)
    kinds = [each.kind for each in written[1].objects]
    assert sorted(set(kinds)) == ["noise_map", "overlay", "quality_map", "report"]
    assert kinds.count("overlay") == 2
    first, second = ({each.kind: each for each in written[number].objects} for number in (1, 2))
    for kind in ("overlay", "quality_map", "noise_map"):  # nothing changed: the same objects
        assert first[kind].sop_instance == second[kind].sop_instance
    report = dcmread(tmp_path / "r2" / second["report"].file)
    item = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert item.ReferencedSOPInstanceUID == first["report"].sop_instance
    assert second["report"].sop_instance != first["report"].sop_instance
    for each in written[1].objects:
        assert dcmread(tmp_path / "r1" / each.file).SOPInstanceUID == each.sop_instance


def test_a_series_without_anything_to_assess_says_why(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "in", 1)
    dataset = dcmread(path)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    dataset.save_as(path)
    with open_assessor(Settings()) as assessor:
        outcome = assessor.submit(path).result()
        folder = tmp_path / "out"
        folder.mkdir()
        written = assessor.write(folder, [outcome], 1, None)
    assert outcome.code == "localizer"
    assert written.objects == ()
    assert written.summary["slices"] == 0
    assert "ocalizer" in written.summary["not_assessed"]
