"""The color overlay: color where the tissue is bad, the CT elsewhere, tied to its slice."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

pytest.importorskip("highdicom")

from n2q_edge.arrays import BoolArray, FloatArray
from n2q_edge.assessment.results import SliceImages
from n2q_edge.dicom_out.overlay import caption, overlay_picture
from n2q_edge.quality.overlay import MID_GRAY, bar_colors, gray, overlay
from tests.helpers.fakes import disk, phantom
from tests.helpers.result_files import along_z, read, results, write_source

WINDOW = (40.0, 300.0)


def images(hu: FloatArray, quality: float, body: BoolArray) -> SliceImages:
    return SliceImages(hu, np.full(hu.shape, quality, np.float32), body)


def test_only_bad_tissue_is_colored() -> None:
    body = disk(256, 50)
    good = overlay_picture(images(phantom(256), 0.95, body), WINDOW, [])
    assert (good[body] == good[body][:, :1]).all()  # the patient is not tinted
    bad = overlay_picture(images(phantom(256), 0.2, body), WINDOW, [])
    assert (bad[body] == overlay(gray(phantom(256), WINDOW), np.full((256, 256), 0.2), body)[body]).all()
    assert (bad[body].max(axis=1) - bad[body].min(axis=1) > 100).all()
    assert (bad[128:][~body[128:]] == bad[128:][~body[128:]][:, :1]).all()  # below the bar and the caption


def test_the_color_bar_runs_from_good_at_the_top_to_bad() -> None:
    picture = overlay_picture(images(phantom(256), 0.0, disk(256, 50)), WINDOW, ["slice 1"])
    column = picture[:80, 256 - 8].astype(int)
    bar = np.flatnonzero(column.any(axis=1))
    assert column[bar[0]].tolist() == [MID_GRAY] * 3
    assert tuple(column[bar[-1]]) == tuple(
        int(part, 16) for part in re.findall("..", bar_colors(2)[0][1][1:])
    )


def test_a_small_picture_has_no_room_for_words() -> None:
    picture = overlay_picture(images(phantom(96), 1.0, disk(96, 20)), WINDOW, ["slice 1"])
    assert (picture == gray(phantom(96), WINDOW)[..., None]).all()


def test_the_caption_gives_noise_and_prediction_and_no_dose(tmp_path: Path) -> None:
    """The fake looks like 25 % dose; that is a guess at a class, and nothing to burn into an image."""
    _, assessment = results(write_source(tmp_path / "in", along_z(0)), tmp_path)
    (result,) = assessment.series[0].slices
    assert result.dose
    assert result.quality
    said = caption(replace(result, noise_hu=12.34, flags=("out_of_domain",)))
    assert said == ["slice 1", "noise 12.3 HU", f"predicted SSIM {result.quality.mean:.2f}", "out of domain"]
    assert caption(replace(result, noise_hu=None, quality=None)) == ["slice 1", "no body found"]


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
