"""Make CT images of every kind for the tests, with pydicom."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from n2q_edge.dicom import Inventory, LoadedSlice, Rejected, SliceReader, scan

STUDY, SERIES = "1.2.826.0.1.3680043.10.1", "1.2.826.0.1.3680043.10.2"


def stored_values(rows: int = 48, columns: int = 64, seed: int = 0, low: int = 0, high: int = 2048) -> Any:
    """Noise on a disc: something that compresses and has every bit in use."""
    y, x = np.mgrid[:rows, :columns]
    disc = (y - rows / 2) ** 2 + (x - columns / 2) ** 2 < (min(rows, columns) / 3) ** 2
    noise = np.random.default_rng(seed).integers(-40, 40, (rows, columns))
    return np.clip(np.where(disc, (low + high) // 2, low + 60) + noise, low, high - 1)


def ct_dataset(values: NDArray[Any] | None = None, number: int = 1, **changes: Any) -> Any:
    """A classic CT image: unsigned 16-bit, slope 1, intercept -1024, at z = 2.5 * `number`.

    `changes` sets keywords; None removes one.
    """
    values = stored_values() if values is None else values
    data: Any = Dataset()
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = f"{SERIES}.{number}"
    data.StudyInstanceUID, data.SeriesInstanceUID = STUDY, SERIES
    data.Modality = "CT"
    data.PatientName, data.PatientID = "Secret^Name", "SECRET1"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.InstanceNumber = number
    data.ImagePositionPatient = [-100, -120, 2.5 * number]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [0.75, 0.5]
    data.SliceThickness = 2.5
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = values.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.RescaleSlope, data.RescaleIntercept = "1", "-1024"
    data.PixelData = values.astype("<u2").tobytes()
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in changes.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    return data


def enhanced_dataset(values: NDArray[Any], **changes: Any) -> Any:
    """An enhanced CT: rescale 2 x + -1000 shared, frame i at z = 10 - i, nothing of that at the root."""
    data = ct_dataset(values, NumberOfFrames=len(values))
    data.SOPClassUID = EnhancedCTImageStorage
    for keyword in ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(data, keyword)
    del data.PixelSpacing, data.SliceThickness
    shared = Dataset()
    shared.PixelValueTransformationSequence = [item(RescaleSlope=2, RescaleIntercept=-1000, RescaleType="HU")]
    shared.PixelMeasuresSequence = [item(PixelSpacing=[0.75, 0.5], SliceThickness=1)]
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.CTImageFrameTypeSequence = [item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])]
    shared.CTXRayDetailsSequence = [item(KVP=100)]
    shared.CTExposureSequence = [item(XRayTubeCurrentInmA=210.5, CTDIvol=7.25)]
    shared.CTReconstructionSequence = [item(ConvolutionKernel="Br40")]
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = [
        item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 10 - index])])
        for index in range(len(values))
    ]
    for keyword, value in changes.items():
        setattr(data, keyword, value)
    return data


def item(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def dicomdir(folder: Path, file_ids: list[Any]) -> Path:
    """Write an index of files."""
    directory: Any = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.FileSetID = "TEST"
    records = [item(DirectoryRecordType="PATIENT")]
    records += [item(DirectoryRecordType="IMAGE", ReferencedFileID=file_id) for file_id in file_ids]
    directory.DirectoryRecordSequence = records
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def save(data: Dataset, path: Path) -> Path:
    """Write as its file meta says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def raw_values(path: Path, **values: str) -> Path:
    """Write an image whose DS and IS values pydicom would not write."""
    placeholders = {keyword: f"7{number}7" for number, keyword in enumerate(values)}
    save(ct_dataset(**placeholders), path)
    raw = path.read_bytes()
    for keyword, placeholder in placeholders.items():
        text = values[keyword].encode()
        text += b" " * (len(text) % 2)
        old = struct.pack("<H", 4) + placeholder.encode() + b" "
        assert raw.count(old) == 1, keyword
        raw = raw.replace(old, struct.pack("<H", len(text)) + text)
    path.write_bytes(raw)
    return path


def dataset_bytes(data: Dataset, syntax: str) -> bytes:
    """The data set alone, without preamble and meta information."""
    out = BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    data.save_as(out, implicit_vr=implicit, little_endian=little)
    return out.getvalue()


def load_all(inventory: Inventory) -> list[LoadedSlice | Rejected]:
    with SliceReader() as reader:
        return [reader.load(ref) for ref in inventory.slices()]


def load_one(path: Path) -> LoadedSlice:
    """The one slice of a file."""
    inventory = scan([path])
    assert not inventory.rejected, inventory.rejected
    assert not inventory.skipped, inventory.skipped
    (loaded,) = load_all(inventory)
    assert isinstance(loaded, LoadedSlice), loaded
    return loaded


def rejection(path: Path) -> Rejected:
    """Why the one slice of a file is rejected, at the scan or when it is loaded."""
    inventory = scan([path])
    outcomes = [*inventory.rejected, *load_all(inventory)]
    assert len(outcomes) == 1, outcomes
    assert isinstance(outcomes[0], Rejected), outcomes
    return outcomes[0]


def assert_accounted(inventory: Inventory) -> None:
    """The invariant: each file is assessed, rejected or skipped, before and after loading."""
    loaded = load_all(inventory)
    assessed = {each.ref.path for each in loaded if isinstance(each, LoadedSlice)}
    failed = [each for each in loaded if isinstance(each, Rejected)]
    for with_slice, rejected in (
        ({ref.path for ref in inventory.slices()}, inventory.rejected),
        (assessed, (*inventory.rejected, *failed)),
    ):
        rejected_files = {each.path for each in rejected} - with_slice
        whole_skips = [each for each in inventory.skipped if each.frame is None]
        assert len(with_slice) + len(rejected_files) + len(whole_skips) == inventory.files_seen


def jpeg2000(data: Dataset, **options: Any) -> Dataset:
    """Compress an image in place; the codestream has the signedness and precision of the header."""
    from openjpeg.utils import encode_pixel_data
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    codestream = encode_pixel_data(
        data.PixelData,
        rows=data.Rows,
        columns=data.Columns,
        samples_per_pixel=1,
        bits_allocated=data.BitsAllocated,
        bits_stored=data.BitsStored,
        pixel_representation=data.PixelRepresentation,
        is_signed=bool(data.PixelRepresentation),
        photometric_interpretation="MONOCHROME2",
        **options,
    )
    data.PixelData = encapsulate([bytes(codestream)])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return data


def compress(data: Dataset, syntax: str) -> Dataset:
    """Compress an image in place."""
    if syntax == "1.2.840.10008.1.2.4.90":
        return jpeg2000(data)
    data.compress(syntax, encoding_plugin="pydicom" if syntax == "1.2.840.10008.1.2.5" else "")
    return data


def gdcm_transcoded(path: Path, syntax: str) -> Path:
    """The file in another transfer syntax (a name of gdcm.TransferSyntax), beside it."""
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    out = path.with_name(f"{syntax}.dcm")
    writer.SetFileName(str(out))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return out
