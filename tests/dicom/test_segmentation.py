"""Organ scores: from segmentations that highdicom wrote, matched by position, never by index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

hd = pytest.importorskip("highdicom")

from highdicom.seg import SegmentDescription
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from n2q_edge.cli import main
from n2q_edge.dicom import scan
from n2q_edge.dicom.segmentation import Segmentation, open_for
from n2q_edge.errors import UsageError
from tests.helpers.fakes import FakeRuntime
from tests.helpers.result_files import (
    NoisyRuntime,
    along_z,
    dciodvfy_errors,
    quality,
    read,
    results,
    slice_hu,
    write_source,
)

Masks = NDArray[Any]
LIVER, SPLEEN = (30, 50, 30, 60), (50, 60, 40, 70)  # rows from, to, columns from, to


def box(rows_from: int, rows_to: int, columns_from: int, columns_to: int, size: int = 96) -> Masks:
    mask = np.zeros((size, size), bool)
    mask[rows_from:rows_to, columns_from:columns_to] = True
    return mask


def segment(number: int, label: str, code: Any) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=code,
        algorithm_type="MANUAL",
    )


def write_seg(path: Path, sources: list[Dataset], masks: Masks, kind: str = "BINARY", **options: Any) -> Path:
    """A liver and a spleen; `masks` [frames, H, W, 2]."""
    for source in sources:
        for keyword in (
            "PatientBirthDate",
            "PatientSex",
            "AccessionNumber",
            "StudyID",
            "StudyDate",
            "StudyTime",
        ):
            setattr(source, keyword, "")
        source.PositionReferenceIndicator = ""
    dataset = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=masks.astype(np.uint8 if kind != "FRACTIONAL" else np.float32),
        segmentation_type=kind,
        segment_descriptions=[segment(1, "Liver", codes.SCT.Liver), segment(2, "Spleen", codes.SCT.Spleen)],
        series_instance_uid=generate_uid(),
        series_number=100,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def series(tmp_path: Path) -> tuple[Path, list[Dataset]]:
    """A series of four slices, and its images in ascending position."""
    folder = write_source(tmp_path / "in", along_z(0, 5, 10, 15))
    return folder, [pydicom.dcmread(path) for path in sorted(folder.iterdir(), reverse=True)]


def both(count: int) -> Masks:
    return np.stack([np.stack([box(*LIVER), box(*SPLEEN)], axis=-1)] * count)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_organs_are_scored_on_their_own_pixels(
    tmp_path: Path, series: tuple[Path, list[Dataset]], kind: str
) -> None:
    folder, images = series
    # Given in descending order and for two slices only: index and count do not match the series.
    seg = Segmentation(write_seg(tmp_path / "seg.dcm", images[2:0:-1], both(2), kind))
    assert [item.name for item in seg.segments] == ["Liver", "Spleen"]
    _, assessment = results(folder, tmp_path, regions=seg.regions, segments=seg.segments)
    for index, result in enumerate(assessment.series[0].slices):
        found = {region.name: region.quality.mean for region in result.regions}
        expected = quality(slice_hu(index))
        if index in (1, 2):
            assert found == {
                "Liver": pytest.approx(expected[box(*LIVER)].mean(), abs=1e-6),
                "Spleen": pytest.approx(expected[box(*SPLEEN)].mean(), abs=1e-6),
            }
        else:
            assert found == {}


def test_the_report_refers_to_the_segment(tmp_path: Path, series: tuple[Path, list[Dataset]]) -> None:
    folder, images = series
    path = write_seg(tmp_path / "seg.dcm", images, both(4))
    seg = Segmentation(path)
    writer, _ = results(folder, tmp_path, regions=seg.regions, segments=seg.segments)
    assert writer.series[0].not_written == []
    (dataset,) = read(tmp_path, "report.dcm")
    report = hd.sr.ComprehensiveSR.from_dataset(dataset)
    (liver, spleen) = report.content.get_volumetric_roi_measurement_groups()
    for group, number, code in ((liver, 1, codes.SCT.Liver), (spleen, 2, codes.SCT.Spleen)):
        assert group.finding_sites[0].value == code
        (item,) = [
            each for each in group[0].ContentSequence if each.ConceptNameCodeSequence[0].CodeValue == "121191"
        ]
        reference = item.ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID
        assert reference.ReferencedSegmentNumber == number


@pytest.mark.peer
def test_dciodvfy_finds_no_error_in_it(tmp_path: Path, series: tuple[Path, list[Dataset]]) -> None:
    folder, images = series
    seg = Segmentation(write_seg(tmp_path / "seg.dcm", images, both(4)))
    results(folder, tmp_path, regions=seg.regions, segments=seg.segments)
    assert dciodvfy_errors(tmp_path / "dicom" / "series001" / "report.dcm") == []


def test_another_matrix_and_origin_are_sampled_at_the_nearest_pixel(
    tmp_path: Path, series: tuple[Path, list[Dataset]]
) -> None:
    """A segmentation drawn on the right half at half the resolution: 1.6 mm pixels from column 48 on."""
    folder, images = series
    coarse = np.zeros((4, 48, 24, 2), bool)
    coarse[:, 15:25, 0:6, 0] = True  # = rows 30..49, columns 48..59 of the slice
    path = write_seg(
        tmp_path / "seg.dcm",
        images,
        coarse,
        pixel_measures=hd.PixelMeasuresSequence(pixel_spacing=(1.6, 1.6), slice_thickness=5),
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", (1, 0, 0, 0, 1, 0)),
        # The centre of a coarse pixel lies between the centres of the four pixels of 0.8 mm that it covers.
        plane_positions=[
            hd.PlanePositionSequence("PATIENT", (-38 + 48 * 0.8 + 0.4, -38 + 0.4, z)) for z in (0, 5, 10, 15)
        ],
        omit_empty_frames=False,
    )
    seg = Segmentation(path)
    (one,) = scan([folder]).series
    assert np.array_equal(seg.masks(one.slices[1])["Liver"], box(30, 50, 48, 60))


def change_frame_of_reference(dataset: Dataset) -> None:
    dataset.FrameOfReferenceUID = "1.2.3.4"


def change_orientation(dataset: Dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def move_away(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        x, y, z = groups.PlanePositionSequence[0].ImagePositionPatient
        groups.PlanePositionSequence[0].ImagePositionPatient = [x, y, z + 2.4]


@pytest.mark.parametrize("change", [change_frame_of_reference, change_orientation, move_away])
def test_a_segmentation_of_something_else_is_refused(
    tmp_path: Path, series: tuple[Path, list[Dataset]], change: Callable[[Dataset], None]
) -> None:
    folder, images = series
    path = write_seg(tmp_path / "seg.dcm", images, both(4))
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    with pytest.raises(UsageError, match=r"seg\.dcm: no frame of this segmentation lies on a slice"):
        open_for(path, scan([folder]))


def test_what_is_no_segmentation_is_one_line(tmp_path: Path, series: tuple[Path, list[Dataset]]) -> None:
    text = tmp_path / "seg.txt"
    text.write_text("no DICOM")
    for path in (text, next(series[0].iterdir()), tmp_path / "missing.dcm"):
        with pytest.raises(UsageError, match=path.name):
            Segmentation(path)


def test_the_command_line_gives_organs_in_json_report_and_dicom(
    tmp_path: Path,
    series: tuple[Path, list[Dataset]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runtime: FakeRuntime = NoisyRuntime()
    monkeypatch.setattr("n2q_edge.runtimes.open_model", lambda *_, **__: runtime)
    folder, images = series
    path = write_seg(tmp_path / "seg.dcm", images, both(4))
    out = tmp_path / "out"
    assert main(["assess", str(folder), "--seg", str(path), "-o", str(out), "--dicom", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["settings"]["segmentation"] == "seg.dcm"  # where it lay is said with --with-phi
    regions = {item["name"]: item for item in document["series"][0]["summary"]["regions"]}
    assert set(regions) == {"Liver", "Spleen"}
    means = [quality(slice_hu(index))[box(*LIVER)].mean() for index in range(4)]
    assert regions["Liver"]["mean"] == pytest.approx(np.mean(means), abs=1e-5)
    assert regions["Liver"]["worst"]["slice"] == int(np.argmin(means)) + 1
