"""The colour overlay: colour where the body is, the CT elsewhere, tied to its slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from matplotlib import colormaps
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

pytest.importorskip("highdicom")

from n2q_edge.dicom_out.overlay import OPACITY, overlay
from tests.helpers.fakes import disk, phantom
from tests.helpers.result_files import along_z, read, results, write_source


def test_colour_is_laid_over_the_body_only() -> None:
    hu, body = phantom(96, 40.0), disk(96, 20)
    picture = overlay(hu, np.full((96, 96), 0.5, np.float32), body, (40.0, 300.0), "")
    assert picture.dtype == np.uint8
    assert (picture[~body] == picture[~body][:, :1]).all()  # grey
    assert (picture[0, 0] == 0).all()  # air is below the window
    # 40 HU is the window's centre, grey 127.5; 0.5 is entry 128 of the palette
    colour = np.array(colormaps["viridis"](128, bytes=True)[:3])
    expected = (1 - OPACITY) * 127.5 + OPACITY * colour
    assert np.abs(picture[48, 48] - expected).max() <= 1


def test_the_colour_bar_runs_from_1_at_the_top_to_0() -> None:
    picture = overlay(phantom(256), np.zeros((256, 256), np.float32), disk(256, 50), (40.0, 300.0), "slice 1")
    bright, dark = (np.array(colormaps["viridis"](end, bytes=True)[:3]) for end in (255, 0))
    column = picture[:, 256 - 10].astype(int)
    rows_bright = np.flatnonzero((column == bright).all(axis=1))
    rows_dark = np.flatnonzero((column == dark).all(axis=1))
    assert rows_bright.size
    assert rows_bright[0] < rows_dark[-1]


def test_it_is_a_secondary_capture_of_its_slice(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", along_z(0, 5))
    results(source, tmp_path)
    for dataset, z, name in zip(
        read(tmp_path, "overlay_*.dcm"), (0, 5), ("0002.dcm", "0001.dcm"), strict=True
    ):
        original = pydicom.dcmread(source / name)
        assert dataset.SOPClassUID == SecondaryCaptureImageStorage
        assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
        assert dataset.ImagePositionPatient == [-38, -38, z]
        assert dataset.FrameOfReferenceUID == original.FrameOfReferenceUID
        assert dataset.PatientOrientation == ["L", "P"]  # PS3.3 C.7.6.1.1.1 for 1,0,0,0,1,0
        assert (dataset.PhotometricInterpretation, dataset.BurnedInAnnotation) == ("RGB", "NO")
        assert dataset.pixel_array.shape == (96, 96, 3)


def test_oblique_orientation_is_named_by_both_letters(tmp_path: Path) -> None:
    def tilt(_: int, dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.8, -0.6]

    results(write_source(tmp_path / "in", along_z(0), tilt), tmp_path)
    (dataset,) = read(tmp_path, "overlay_*.dcm")
    assert dataset.PatientOrientation == ["L", "PF"]  # mostly posterior, and towards the feet
