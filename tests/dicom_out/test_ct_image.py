"""CT images written: what is read back is what was meant."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from uuid import UUID

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from n2q_edge.dicom_out.ct_image import derived_copy, set_pixels, stable_uid, write_dataset
from n2q_edge.errors import OutputError


@pytest.fixture
def real_ct() -> Dataset:
    """A scanner's CT image that ships with pydicom (128 x 128)."""
    return pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))


def _hu(dataset: Dataset) -> np.ndarray:
    return dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)


def test_hu_are_rounded_and_survive_the_file(tmp_path: Path, real_ct: Dataset) -> None:
    hu = np.random.default_rng(0).uniform(-1100, 3100, (40, 60)).astype(np.float32)
    set_pixels(real_ct, hu)
    write_dataset(tmp_path / "a.dcm", real_ct)
    again = pydicom.dcmread(tmp_path / "a.dcm")
    assert np.array_equal(_hu(again), np.rint(hu))
    assert (again.Rows, again.Columns) == (40, 60)
    assert again.file_meta.MediaStorageSOPInstanceUID == again.SOPInstanceUID
    assert again.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"  # Explicit VR Little Endian, PS3.6


def test_values_out_of_reach_are_clipped_not_wrapped(real_ct: Dataset) -> None:
    set_pixels(real_ct, np.array([[-1e6, 1e6], [-1024, 3071]], np.float32))
    stored = np.frombuffer(real_ct.PixelData, "<i2")
    assert stored.tolist() == [-32768, 32767, 0, 4095]  # HU = stored - 1024


def test_a_stable_uid_is_a_uuid_under_2_25() -> None:
    uid = stable_uid("study", 3)
    assert uid == stable_uid("study", 3)
    assert uid != stable_uid("study", 4)
    assert uid.is_valid
    assert len(uid) <= 64
    root, number = uid[:5], int(uid[5:])
    assert root == "2.25."
    assert UUID(int=number).version == 5


def test_a_derived_copy_of_a_real_image_says_so_and_leaves_the_source(
    tmp_path: Path, real_ct: Dataset
) -> None:
    real_ct.LargestImagePixelValue = 2000
    before = real_ct.to_json()
    noisy = _hu(real_ct) + np.random.default_rng(0).normal(0, 30, (128, 128))
    copy = derived_copy(
        real_ct, noisy, series_instance_uid="2.25.1", sop_instance_uid="2.25.2", description="noise inserted"
    )
    write_dataset(tmp_path / "low.dcm", copy)
    again = pydicom.dcmread(tmp_path / "low.dcm")

    assert real_ct.to_json() == before
    assert np.array_equal(_hu(again), np.rint(noisy))
    assert again.ImageType[0] == "DERIVED"
    assert list(again.ImageType)[1:] == list(real_ct.ImageType)[1:]
    assert again.SourceImageSequence[0].ReferencedSOPInstanceUID == real_ct.SOPInstanceUID
    assert (again.SeriesInstanceUID, again.SOPInstanceUID) == ("2.25.1", "2.25.2")
    for kept in ("StudyInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "PixelSpacing"):
        assert again[kept].value == real_ct[kept].value
    assert "LargestImagePixelValue" not in again
    assert "PixelPaddingValue" not in again


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, real_ct: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_dataset(tmp_path / "a.dcm", real_ct)
    assert list(tmp_path.iterdir()) == []
