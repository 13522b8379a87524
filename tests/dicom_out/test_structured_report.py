"""The structured report says what the assessment found, in codes that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage

pytest.importorskip("highdicom")

from n2q_edge.quality.policy import load_policy
from tests.helpers.fakes import FakeRuntime
from tests.helpers.report_content import groups, name_of, numbers
from tests.helpers.result_files import NoisyRuntime, along_z, program, read, results, run, write_source


def test_a_model_without_a_dose_head_reports_no_dose(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", along_z(0, 5))
    results(source, tmp_path / "out", FakeRuntime(dose=None))
    (report,) = read(tmp_path / "out", "report.dcm")
    codes = {code for group in groups(report).values() for code, _ in numbers(group)}
    assert "N2Q-SSIM" in codes
    assert "N2Q-DOSE" not in codes


@pytest.fixture
def made(tmp_path: Path) -> tuple[Dataset, Any, Path]:
    writer, assessment = results(write_source(tmp_path / "in", along_z(0, 5, 10)), tmp_path)
    assert writer.series[0].not_written == []
    (dataset,) = read(tmp_path, "report.dcm")
    return dataset, assessment.series[0], tmp_path


def test_scores_of_the_series(made: tuple[Dataset, Any, Path]) -> None:
    dataset, report, _ = made
    means = [result.quality.mean for result in report.slices]
    assert dataset.SOPClassUID == ComprehensiveSRStorage
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    found = numbers(groups(dataset)["series"])
    assert found["N2Q-SLICES", None] == 3
    assert found["N2Q-SSIM", "Mean"] == pytest.approx(np.mean(means), abs=1e-6)
    assert found["N2Q-SSIM", "Minimum"] == pytest.approx(min(means), abs=1e-6)
    assert found["N2Q-DOSE", "Mode"] == 25  # the fake's most probable level
    noise = sorted(result.noise_hu for result in report.slices)[1]
    assert found["N2Q-GNL", "Median"] == pytest.approx(noise, abs=1e-3)


def test_worst_slices_name_their_images(made: tuple[Dataset, Any, Path]) -> None:
    dataset, report, _ = made
    worst = min(report.slices, key=lambda result: result.quality.mean)
    group = groups(dataset)[f"worst slice 1: number {worst.number}"]
    found = numbers(group)
    assert found["N2Q-SSIM", "Mean"] == pytest.approx(worst.quality.mean, abs=1e-6)
    assert found["N2Q-SSIM", "5th Percentile Value of population"] == pytest.approx(
        worst.quality.p05, abs=1e-6
    )
    (image,) = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == worst.ref.sop_instance_uid


def test_regions_have_finding_sites(made: tuple[Dataset, Any, Path]) -> None:
    dataset, report, _ = made
    group = groups(dataset)["region soft tissue"]
    (site,) = [item for item in group.ContentSequence if name_of(item) == "Finding Site"]
    assert site.ConceptCodeSequence[0].CodeValue == "87784001"  # SNOMED CT, soft tissue
    weights = [result.regions[0] for result in report.slices]
    assert [region.name for region in weights] == ["soft tissue"] * 3  # the phantom has no other
    mean = np.average(
        [region.quality.mean for region in weights], weights=[region.area_mm2 for region in weights]
    )
    assert numbers(group)["N2Q-SSIM", "Mean"] == pytest.approx(mean, abs=1e-6)


def test_standard_codes_verdict_and_algorithm(made: tuple[Dataset, Any, Path]) -> None:
    dataset, report, _ = made
    group = groups(dataset)["series"]
    content = {name_of(item): item for item in group.ContentSequence}
    finding = content["Finding"].ConceptCodeSequence[0]
    assert (finding.CodeValue, finding.CodingSchemeDesignator) == ("111101", "DCM")  # PS3.16 D: Image Quality
    assessment = content["Quality Assessment"]
    assert assessment.ConceptNameCodeSequence[0].CodeValue == "111050"
    verdict = load_policy().judge({}, [result.quality.mean for result in report.slices]).verdict
    assert assessment.ConceptCodeSequence[0].CodeValue == verdict.dicom_code
    assert content["Algorithm Name"].TextValue == NoisyRuntime().spec.name
    assert "model sha256 0000" in content["Algorithm Parameters"].TextValue
    assert dataset.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99N2QEDGE"


def test_evidence_holds_every_source_image_and_the_maps(made: tuple[Dataset, Any, Path]) -> None:
    dataset, report, out = made
    evidence = {
        instance.ReferencedSOPInstanceUID
        for study in dataset.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    expected = {result.ref.sop_instance_uid for result in report.slices}
    expected |= {each.SOPInstanceUID for each in read(out, "*_map_*.dcm")}
    assert evidence == expected


def test_the_group_of_the_series_names_every_image(made: tuple[Dataset, Any, Path]) -> None:
    dataset, report, _ = made
    named = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in groups(dataset)["series"].ContentSequence
        if item.ValueType == "IMAGE"
    ]
    assert named == [result.ref.sop_instance_uid for result in report.slices]


@pytest.mark.peer
def test_dsrdump_reads_it(made: tuple[Dataset, Any, Path]) -> None:
    _, _, out = made
    text = run(program("dsrdump"), out / "dicom" / "series001" / "report.dcm")
    assert "Comprehensive SR Document" in text
    assert '(111101,DCM,"Image Quality")' in text
    assert '(87784001,SCT,"Soft tissue")' in text


@pytest.mark.peer
def test_tid1500reader_reads_it(made: tuple[Dataset, Any, Path]) -> None:
    """dcmqi's reader of TID 1500."""
    dataset, _, out = made
    run(
        program("tid1500reader"),
        "--inputDICOM", out / "dicom" / "series001" / "report.dcm",
        "--outputMetadata", out / "report.json",
    )  # fmt: skip
    read_back = json.loads((out / "report.json").read_text())
    by_label = {group["TrackingIdentifier"]: group for group in read_back["Measurements"]}
    assert set(by_label) == set(groups(dataset))
    values = [float(item["value"]) for item in by_label["series"]["measurementItems"]]
    assert values == pytest.approx(list(numbers(groups(dataset)["series"]).values()))
