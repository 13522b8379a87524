"""Parametric maps: every value where its source pixel is, whatever the geometry of the series."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ParametricMapStorage

pytest.importorskip("highdicom")

from tests.helpers.fakes import SPACING_MM
from tests.helpers.result_files import (
    HEAD_FIRST,
    SERIES_UID,
    TILTED,
    along_z,
    dciodvfy_errors,
    program,
    quality,
    read,
    results,
    run,
    slice_hu,
    write_source,
)


def positions(dataset: Dataset) -> list[list[float]]:
    return [
        [float(value) for value in groups.PlanePositionSequence[0].ImagePositionPatient]
        for groups in dataset.PerFrameFunctionalGroupsSequence
    ]


def frames(dataset: Dataset) -> Any:
    array = np.frombuffer(dataset.FloatPixelData, "<f4")
    return array.reshape(int(dataset.NumberOfFrames), dataset.Rows, dataset.Columns)


def test_every_value_is_where_its_pixel_is(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", along_z(0, 5, 10, 15))
    writer, _ = results(source, tmp_path)
    assert writer.error is None
    assert writer.series[0].not_written == []
    (dataset,) = read(tmp_path, "quality_map_*.dcm")
    assert dataset.SOPClassUID == ParametricMapStorage
    assert positions(dataset) == [[-38, -38, z] for z in (0, 5, 10, 15)]
    for index, frame in enumerate(frames(dataset)):  # bit-exact
        np.testing.assert_array_equal(frame, quality(slice_hu(index)))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == list(HEAD_FIRST)
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [SPACING_MM, SPACING_MM]
    assert shared.PixelMeasuresSequence[0].SliceThickness == 5
    assert shared.PixelMeasuresSequence[0].SpacingBetweenSlices == 5


def test_what_viewers_need(tmp_path: Path) -> None:
    def body_part(_: int, dataset: Dataset) -> None:
        dataset.BodyPartExamined = "ABDOMEN"
        dataset.Laterality = "L"

    results(write_source(tmp_path / "in", along_z(0, 5), body_part), tmp_path)
    (dataset,) = read(tmp_path, "quality_map_*.dcm")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    region = shared.FrameAnatomySequence[0].AnatomicRegionSequence[0]
    assert (region.CodeValue, region.CodingSchemeDesignator) == (
        "818981001",
        "SCT",
    )  # PS3.16 CID 4031: Abdomen
    assert "Laterality" not in dataset
    mapping = shared.RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    units = mapping.MeasurementUnitsCodeSequence[0]
    assert (units.CodeValue, units.CodingSchemeDesignator) == ("1", "UCUM")
    assert dataset.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99N2QEDGE"


def test_noise_map_is_in_hounsfield_units(tmp_path: Path) -> None:
    results(write_source(tmp_path / "in", along_z(0, 5)), tmp_path)
    (dataset,) = read(tmp_path, "noise_map_*.dcm")
    units = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert units.MeasurementUnitsCodeSequence[0].CodeValue == "[hnsf'U]"  # UCUM
    np.testing.assert_array_equal(frames(dataset)[1], (slice_hu(1) + 1024) / np.float32(10))


def test_it_belongs_to_the_source_study_and_patient_and_names_its_images(tmp_path: Path) -> None:
    def named(_: int, dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.PatientName = "Müller^Jürgen"
        dataset.PatientSex = "X"  # not one of M, F, O: must not make the result invalid
        dataset.StudyDate, dataset.AccessionNumber = "20260102", "A1"

    source = write_source(tmp_path / "in", along_z(0, 5), named)
    results(source, tmp_path)
    originals = [pydicom.dcmread(source / name) for name in ("0002.dcm", "0001.dcm")]
    for dataset in read(tmp_path, "*.dcm"):
        assert dataset.PatientName == "Müller^Jürgen"
        assert dataset.PatientSex == ""
        for keyword in ("PatientID", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
            assert dataset[keyword].value == originals[0][keyword].value, keyword
        assert dataset.SeriesInstanceUID != SERIES_UID
    (dataset,) = read(tmp_path, "quality_map_*.dcm")
    assert dataset.FrameOfReferenceUID == originals[0].FrameOfReferenceUID
    for groups, original in zip(dataset.PerFrameFunctionalGroupsSequence, originals, strict=True):
        reference = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == original.SOPInstanceUID
    series = dataset.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == SERIES_UID
    assert len(series.ReferencedInstanceSequence) == 2


def test_a_gap_begins_a_new_map(tmp_path: Path) -> None:
    results(write_source(tmp_path / "in", along_z(0, 5, 20, 25)), tmp_path)
    found = [[z for _, _, z in positions(dataset)] for dataset in read(tmp_path, "quality_map_*.dcm")]
    assert found == [[0, 5], [20, 25]]


def test_slices_at_one_position_come_to_lie_in_different_maps(tmp_path: Path) -> None:
    results(write_source(tmp_path / "in", along_z(0, 5, 10, 0, 5, 10)), tmp_path)
    first, second = read(tmp_path, "quality_map_*.dcm")
    for dataset, offset in ((first, 0), (second, 3)):
        assert [z for _, _, z in positions(dataset)] == [0, 5, 10]
        np.testing.assert_array_equal(frames(dataset)[1], quality(slice_hu(offset + 1)))
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


def test_interleaved_acquisitions_are_one_map_each(tmp_path: Path) -> None:
    def acquisition(index: int, dataset: Dataset) -> None:
        dataset.AcquisitionNumber = 1 if index < 4 else 2

    z = (0, 5, 10, 15, 7.2, 12.2, 17.2)
    results(write_source(tmp_path / "in", along_z(*z), acquisition), tmp_path)
    found = sorted([z for _, _, z in positions(dataset)] for dataset in read(tmp_path, "quality_map_*.dcm"))
    assert found == [[0, 5, 10, 15], [7.2, 12.2, 17.2]]


def test_a_change_of_the_slice_distance_begins_a_new_map(tmp_path: Path) -> None:
    results(write_source(tmp_path / "in", along_z(0, 5, 10, 17, 24, 31, 38)), tmp_path)
    found = [[z for _, _, z in positions(dataset)] for dataset in read(tmp_path, "quality_map_*.dcm")]
    assert found == [[0, 5, 10], [17, 24, 31, 38]]


def test_tilted_gantry_keeps_the_positions_of_the_scanner(tmp_path: Path) -> None:
    def tilt(_: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = list(TILTED)

    results(write_source(tmp_path / "in", along_z(0, 5, 10), tilt), tmp_path)
    (dataset,) = read(tmp_path, "quality_map_*.dcm")
    assert positions(dataset) == [[-38, -38, z] for z in (0, 5, 10)]
    written = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    np.testing.assert_allclose([float(value) for value in written], TILTED, atol=1e-9)


def test_mixed_orientations_give_objects_of_their_own(tmp_path: Path) -> None:
    def coronal(index: int, dataset: Dataset) -> None:
        if index >= 2:
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
            dataset.ImagePositionPatient = [0, 4.0 * index, 0]

    writer, _ = results(write_source(tmp_path / "in", along_z(0, 5, 0, 0), coronal), tmp_path)
    assert [len(series.not_written) for series in writer.series] == [0, 0]
    assert sorted(len(positions(dataset)) for dataset in read(tmp_path, "quality_map_*.dcm")) == [2, 2]


def test_frames_of_an_enhanced_image_are_named_by_number(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "in" / "enhanced.dcm")
    writer, _ = results(tmp_path / "in", tmp_path)
    assert writer.series[0].not_written == []
    (dataset,) = read(tmp_path, "quality_map_*.dcm")
    # Frame 1 is at z = 10, frame 3 at z = 0: the map ascends.
    assert [z for _, _, z in positions(dataset)] == [0, 5, 10]
    references = [
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for groups in dataset.PerFrameFunctionalGroupsSequence
    ]
    assert references == [3, 2, 1]
    np.testing.assert_array_equal(frames(dataset)[0], quality(slice_hu(2)))
    assert len(dataset.SourceImageSequence) == 1  # one instance


def write_enhanced(path: Path) -> None:
    """Three frames from z = 10 down, rescale and geometry in the functional groups."""
    source = write_source(path.parent.parent / "classic", along_z(0))
    data = pydicom.dcmread(source / "0001.dcm")
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelSpacing", "SliceThickness"):
        delattr(data, keyword)
    del data.ImagePositionPatient, data.ImageOrientationPatient
    data.NumberOfFrames = 3
    data.PixelData = b"".join((slice_hu(i) + 1024).astype("<i2").tobytes() for i in range(3))
    shared = Dataset()
    shared.PixelValueTransformationSequence = [Dataset()]
    shared.PixelValueTransformationSequence[0].RescaleSlope = 1
    shared.PixelValueTransformationSequence[0].RescaleIntercept = -1024
    shared.PixelValueTransformationSequence[0].RescaleType = "HU"
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [SPACING_MM, SPACING_MM]
    shared.PixelMeasuresSequence[0].SliceThickness = 5
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(HEAD_FIRST)
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = []
    for z in (10, 5, 0):
        groups = Dataset()
        groups.PlanePositionSequence = [Dataset()]
        groups.PlanePositionSequence[0].ImagePositionPatient = [-38, -38, z]
        data.PerFrameFunctionalGroupsSequence.append(groups)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(
    ("keyword", "reason"),
    [
        ("FrameOfReferenceUID", "no_frame_of_reference"),
        ("ImagePositionPatient", "no_geometry"),
        ("PixelSpacing", "no_geometry"),
    ],
)
def test_without_geometry_there_is_a_reason_and_no_map(tmp_path: Path, keyword: str, reason: str) -> None:
    def lose(_: int, dataset: Dataset) -> None:
        delattr(dataset, keyword)

    writer, _ = results(write_source(tmp_path / "in", along_z(0, 5), lose), tmp_path)
    reasons = {missing.kind: missing.reason for missing in writer.series[0].not_written}
    assert reasons["quality_map"] == reasons["noise_map"] == reason
    assert read(tmp_path, "*_map_*.dcm") == []
    assert len(read(tmp_path, "report.dcm")) == 1  # the numbers need no geometry


def test_slice_thickness_is_not_invented(tmp_path: Path) -> None:
    def lose(_: int, dataset: Dataset) -> None:
        dataset.SliceThickness = None

    results(write_source(tmp_path / "many", along_z(0, 5, 10), lose), tmp_path / "a")
    (dataset,) = read(tmp_path / "a", "quality_map_*.dcm")
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == 5  # their distance
    writer, _ = results(write_source(tmp_path / "one", along_z(0), lose), tmp_path / "b")
    assert {missing.reason for missing in writer.series[0].not_written} == {"no_slice_thickness"}


@pytest.mark.peer
def test_dciodvfy_finds_no_error_in_any_geometry(tmp_path: Path) -> None:
    write_source(tmp_path / "in" / "plain", along_z(0, 5, 10, 5))
    write_enhanced(tmp_path / "in2" / "enhanced.dcm")
    for number, source in enumerate((tmp_path / "in", tmp_path / "in2")):
        results(source, tmp_path / f"out{number}")
        for path in sorted((tmp_path / f"out{number}").rglob("*.dcm")):
            assert dciodvfy_errors(path) == [], path


@pytest.mark.peer
@pytest.mark.parametrize("z", [(0, 5, 10, 15), (0, 2.5, 5, 7.5), (-20, -12, -4)])
def test_dcmqi_reads_every_value_at_its_place(tmp_path: Path, z: tuple[float, ...]) -> None:
    """3D Slicer's converter, an independent implementation; slices of 5 mm that touch, overlap, or do not."""
    import SimpleITK

    reader = program("paramap2itkimage")
    results(write_source(tmp_path / "in", along_z(*z)), tmp_path)
    (path,) = (tmp_path / "dicom").glob("*/quality_map_*.dcm")
    run(reader, "--inputDICOM", path, "--outputDirectory", tmp_path, "-n", "x", "-t", "nrrd")
    image = SimpleITK.ReadImage(str(tmp_path / "x-pmap.nrrd"))
    array = SimpleITK.GetArrayFromImage(image)
    assert array.dtype == np.float32
    for index, position in enumerate(z):
        plane = image.TransformPhysicalPointToIndex((-38.0, -38.0, float(position)))
        assert plane[:2] == (0, 0)
        np.testing.assert_array_equal(array[plane[2]], quality(slice_hu(index)))
    meta = json.loads((tmp_path / "x-meta.json").read_text())
    assert meta["QuantityValueCode"]["CodeValue"] == "N2Q-SSIM"
    assert meta["MeasurementUnitsCode"]["CodeValue"] == "1"
    assert meta["AnatomicRegionSequence"]["CodingSchemeDesignator"] == "SCT"
