"""A runtime without a model, and DICOM series with known pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from n2q_edge.arrays import BoolArray, FloatArray
from n2q_edge.errors import ModelError
from n2q_edge.runtimes.base import Inference, InferTiming
from n2q_edge.spec import HU_MAX, HU_MIN, FeatureLimits, ModelSpec

ROOT_UID = "1.2.826.0.1.3680043.8.498.1"
SPACING_MM = 0.8
TISSUE_HU, AIR_HU = 50, -1000


class FakeRuntime:
    """Satisfies the `Runtime` protocol: a quality map that is a function of HU, and a chosen dose, or none.

    Attributes:
        calls: shape of every inference, warm-ups included.
        closed: whether `close` was called.
    """

    def __init__(
        self,
        quality: Callable[[FloatArray], FloatArray] = lambda hu: np.full_like(hu, 0.75),
        dose: Sequence[float] | None = (0.0, 0.1, 0.6, 0.2, 0.1),
        size_multiple: int = 16,
        fails_on: Callable[[FloatArray], bool] = lambda hu: False,
        domain: dict[str, FeatureLimits] | None = None,
    ) -> None:
        outputs = ("quality_map",) if dose is None else ("quality_map", "dose_probabilities")
        self._spec = ModelSpec(
            "fake", "1", {"class": "Fake"}, size_multiple=size_multiple, outputs=outputs, domain=domain
        )
        self._quality, self._dose, self._fails_on = quality, dose, fails_on
        self.calls: list[tuple[int, ...]] = []
        self.closed = False

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def concurrency(self) -> int:
        return 1

    def describe(self) -> dict[str, Any]:
        return {
            "name": "fake",
            "version": "1.0",
            "device": "cpu",
            "threads": 1,
            "model_path": "fake.onnx",
            "model_sha256": "0" * 64,
            "chosen_by": "auto",
            "chosen_because": "there is no other",
        }

    def infer(self, hu: FloatArray, reference_noise_hu: FloatArray | None = None) -> Inference:
        assert hu.dtype == np.float32
        assert hu.ndim == 4
        assert hu.min() >= HU_MIN
        assert hu.max() <= HU_MAX
        assert hu.shape[2] % self._spec.size_multiple == hu.shape[3] % self._spec.size_multiple == 0
        self.calls.append(hu.shape)
        if self._fails_on(hu):
            raise ModelError("the fake was told to fail")
        dose = None if self._dose is None else np.tile(np.asarray(self._dose, np.float32), (len(hu), 1))
        return Inference(self._quality(hu), dose, InferTiming(total=8.0 * len(hu)))

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def disk(size: int, radius_px: float) -> BoolArray:
    """A filled circle in the middle of a square image."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    inside: BoolArray = np.hypot(rows, columns) <= radius_px
    return inside


def phantom(size: int = 96, hu: float = TISSUE_HU) -> FloatArray:
    """A cylinder of tissue in air, 60 % of the image wide."""
    image = np.full((size, size), AIR_HU, dtype=np.float32)
    image[disk(size, 0.3 * size)] = hu
    return image


def write_slice(
    path: Path, hu: FloatArray, z_mm: float, series_uid: str = "1.2.826.0.1.3680043.8.498.1"
) -> Dataset:
    """Write one valid CT Image Storage file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = f"{series_uid}.1"
    dataset.SeriesInstanceUID = series_uid
    dataset.FrameOfReferenceUID = f"{series_uid}.2"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientName = "SECRET^PATIENT"
    dataset.PatientID = "SECRET-ID"
    dataset.InstanceNumber = 1
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [0, 0, z_mm]
    dataset.PixelSpacing = [SPACING_MM, SPACING_MM]
    dataset.SliceThickness = 5
    dataset.KVP = 120
    dataset.ConvolutionKernel = "STANDARD"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = hu.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleIntercept = -1024
    dataset.RescaleSlope = 1
    dataset.RescaleType = "HU"
    dataset.PixelData = (np.round(hu).astype(np.int16) + 1024).astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return dataset


def write_series(folder: Path, images: Sequence[FloatArray], number: int = 1) -> list[str]:
    """Write images as one series, 5 mm apart, and return the SOP Instance UIDs in z order."""
    uid = f"1.2.826.0.1.3680043.8.498.{number}"
    return [
        str(write_slice(folder / f"slice{index:03d}.dcm", image, 5.0 * index, uid).SOPInstanceUID)
        for index, image in enumerate(images)
    ]
