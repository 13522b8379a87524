"""Small CT slices for the tests of the node: 64 x 64 phantoms written with pydicom."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498"


def slice_dataset(number: int, series: int = 1, size: int = 64, noise: float = 20.0) -> Dataset:
    """Slice `number` (from 1) of series `series`: a water disk with noise, HU as stored value - 1024."""
    random = np.random.default_rng(1000 * series + number)
    y, x = np.mgrid[:size, :size] - size / 2
    hu = np.where(x**2 + y**2 < (0.4 * size) ** 2, random.normal(40, noise, (size, size)), -1000)
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{ROOT}.1.{series}.{number}"
    dataset.StudyInstanceUID = f"{ROOT}.2.1"
    dataset.SeriesInstanceUID = f"{ROOT}.3.{series}"
    dataset.FrameOfReferenceUID = f"{ROOT}.4.1"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName, dataset.PatientID = "Phantom^Water", "WATER"
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260101", "120000", "1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "", ""
    dataset.Manufacturer, dataset.ManufacturerModelName = "ACME", "CT 1"
    dataset.StationName, dataset.ProtocolName = "CT1", "Abdomen"
    dataset.BodyPartExamined, dataset.KVP = "ABDOMEN", "120"
    dataset.SeriesNumber, dataset.InstanceNumber = series, number
    dataset.ImagePositionPatient = [-size / 2 * 5.0, -size / 2 * 5.0, 5.0 * number]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [5.0, 5.0], 5
    dataset.Rows = dataset.Columns = size
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"
    dataset.PixelData = np.clip(np.rint(hu) + 1024, 0, 4095).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset


def encoded(dataset: Dataset) -> bytes:
    """The data set alone, as Explicit VR Little Endian."""
    from pynetdicom.dsutils import encode

    data = encode(dataset, is_implicit_vr=False, is_little_endian=True)
    assert data is not None
    return data


def write_series(folder: Path, count: int, series: int = 1, size: int = 64) -> list[Path]:
    """Files of a series."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{series}-{number:04d}.dcm" for number in range(1, count + 1)]
    for number, path in enumerate(paths, start=1):
        buffer = BytesIO()
        slice_dataset(number, series, size).save_as(buffer, enforce_file_format=True)
        path.write_bytes(buffer.getvalue())
    return paths
