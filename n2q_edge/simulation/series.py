"""The phantom as a CT series: scanned at full dose, and at a lower dose by noise insertion.

A scan adds noise of the law in `n2q_edge.simulation.noise` to the noise-free slice, in the projection domain.
The low-dose image is the full-dose image plus inserted noise, independent of it and of every other slice, so
the full-dose series is the truth that reference quality is measured against.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from n2q_edge import __version__
from n2q_edge.arrays import FloatArray
from n2q_edge.errors import UsageError, require
from n2q_edge.files import is_new_or_empty, make_folder
from n2q_edge.simulation.phantom import SLICE_THICKNESS_MM, Z_RANGE_MM, Phantom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


SIZE = 512
FIELD_OF_VIEW_MM = 380.0
KERNEL_CUTOFF = 0.9  # Hann apodisation, of the detector's Nyquist frequency: grain as in body CT

# Full dose: about 11 HU of noise in the liver of a middle-sized phantom (docs/explanation/phantom.md).
QUANTA_PER_MM = 1.2e6
FULL_DOSE_TUBE_CURRENT_MA = 200
EXPOSURE_TIME_MS = 500
FULL_DOSE_CTDI_VOL_MGY = 8.0

SCAN_DATE, SCAN_TIME = "20260101", "120000"  # fixed: the same seed gives the same files
FULL_NOISE, INSERTED_NOISE = 1, 2  # streams of random numbers


class Acquisition(NamedTuple):
    """One slice scanned: float32 [size, size] each, HU, not yet rounded."""

    full_dose: FloatArray
    low_dose: FloatArray


@dataclass(frozen=True)
class PhantomScan:
    """What is scanned, and how.

    Attributes:
        slices: they cover `Z_RANGE_MM` evenly, whatever their number.
        dose: dose fraction of the low-dose series, in (0, 1].
        seed: the patient and all noise.
        size: rows and columns.
    """

    slices: int
    dose: float
    seed: int
    size: int = SIZE

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise UsageError(f"a phantom needs at least one slice, not {self.slices}")
        if not (math.isfinite(self.dose) and 0 < self.dose <= 1):
            raise UsageError(f"the dose must be more than 0 and at most 100 percent, not {self.dose * 100:g}")
        if self.seed < 0:
            raise UsageError(f"the seed must not be negative, and {self.seed} is")

    @property
    def pixel_mm(self) -> float:
        """Pixel spacing."""
        return FIELD_OF_VIEW_MM / self.size

    @property
    def spacing_mm(self) -> float:
        """Distance between neighbouring slices."""
        return (Z_RANGE_MM[1] - Z_RANGE_MM[0]) / self.slices

    def z_mm(self, index: int) -> float:
        """Middle of the slice, rising with the index."""
        return Z_RANGE_MM[0] + (index + 0.5) * self.spacing_mm

    def acquire(self, phantom: Phantom, index: int) -> Acquisition:
        """Scan one slice at full dose and at the low dose."""
        hu = phantom.slice_hu(self.z_mm(index), self.size, self.pixel_mm)
        full_noise, inserted = scan_noise(
            hu,
            self.pixel_mm,
            self.dose,
            np.random.default_rng((self.seed, index, FULL_NOISE)),
            np.random.default_rng((self.seed, index, INSERTED_NOISE, round(self.dose * 1e6))),
        )
        full = hu + full_noise
        return Acquisition(full, full + inserted)


def scan_noise(
    hu: FloatArray,
    pixel_mm: float,
    dose: float,
    full_rng: np.random.Generator,
    inserted_rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Noise of a full-dose scan, and the noise that takes it to a dose fraction; float32 [H,H] each, HU.

    With r = exp(p)/N0 per ray, the full-dose variance is r (1 + Ne r), the inserted one
    (1-D)/D r (1 + (1+D)/D Ne r); together they make r/D (1 + Ne r/D), a scan with D N0 quanta
    (Yu et al., J Comput Assist Tomogr 36, 2012).
    """
    from n2q_edge.simulation.noise import (
        DEFAULT_ELECTRONIC_QUANTA,
        WATER_ATTENUATION,
        dose_factors,
        relative_fluence,
    )
    from n2q_edge.simulation.projector import Geometry, filtered_back_projection, forward_project

    geometry = Geometry.for_image(hu.shape[0], pixel_mm)
    rays = forward_project((np.maximum(hu, -1000) / 1000 + 1) * np.float32(WATER_ATTENUATION), geometry)
    quanta = QUANTA_PER_MM * pixel_mm * relative_fluence(geometry)
    inverse_quanta = np.exp(rays) / quanta.astype(np.float32)
    electronic = np.float32(DEFAULT_ELECTRONIC_QUANTA) * inverse_quanta**2

    draws = np.empty((2, *rays.shape), np.float32)
    for draw, rng, (quantum_factor, electronic_factor) in zip(
        draws, (full_rng, inserted_rng), ((1.0, 1.0), dose_factors(dose)), strict=True
    ):
        rng.standard_normal(out=draw, dtype=np.float32)
        draw *= np.sqrt(quantum_factor**2 * inverse_quanta + electronic_factor**2 * electronic)
    images = filtered_back_projection(draws, geometry, KERNEL_CUTOFF) * np.float32(1000 / WATER_ATTENUATION)
    return images[0], images[1]


def write_phantom(
    out: Path,
    *,
    slices: int = 24,
    dose_percent: float = 25,
    full_dose: bool = False,
    seed: int = 0,
    on_slice: Callable[[int], None] | None = None,
) -> list[Path]:
    """Write the phantom as a CT series: `OUT/dose-25/001.dcm`, ...

    Args:
        out: a folder that does not exist yet or is empty.
        slices: how many, over 120 mm from the kidneys to the lower thorax; 24 lie 5 mm apart.
        dose_percent: dose of the series in percent of full dose; 100 inserts no noise.
        full_dose: also write the full-dose twin, `OUT/dose-100/001.dcm`, ...
        seed: which patient and which noise; the same seed gives the same files.
        on_slice: called after each slice with the number of slices done.

    Returns:
        The files written, slice by slice.

    Raises:
        UsageError: an argument out of range, or `out` is not empty.
        MissingDependencyError: numba is not installed.
        OutputError: the files cannot be written.
    """
    scan = PhantomScan(slices, dose_percent / 100, seed)
    require("numba", "sim")
    if not is_new_or_empty(out):
        raise UsageError(f"{out} exists and is not an empty folder: choose another, nothing is overwritten")
    written = []
    for index, files in enumerate(write_scan(out, scan, full_dose=full_dose)):
        written += files
        if on_slice is not None:
            on_slice(index + 1)
    return written


def write_scan(out: Path, scan: PhantomScan, *, full_dose: bool) -> Iterator[list[Path]]:
    """Scan and write slice by slice; yields the files of each.

    Raises:
        OutputError: the files cannot be written.
    """
    from n2q_edge.dicom_out.ct_image import write_dataset

    phantom = Phantom(scan.seed)
    digits = max(3, len(str(scan.slices)))
    for index in range(scan.slices):
        files = []
        for percent, dataset in slice_datasets(scan, phantom, index):
            if percent == 100 and scan.dose < 1 and not full_dose:
                continue
            folder = out / f"dose-{percent:g}"
            make_folder(folder)
            path = folder / f"{index + 1:0{digits}d}.dcm"
            write_dataset(path, dataset)
            files.append(path)
        yield files


def slice_datasets(scan: PhantomScan, phantom: Phantom, index: int) -> list[tuple[float, Dataset]]:
    """The slice's datasets with their dose in percent: full dose first, then, if it is lower, the low dose.

    The full-dose image is ORIGINAL in the sense of PS3.3 C.7.6.1.1.2 (made from no other image), the low-dose
    image is DERIVED from it; Synthetic Data (0008,001C) says of both that no patient was scanned.
    """
    from n2q_edge.dicom_out.ct_image import derived_copy, set_pixels, stable_uid

    images = scan.acquire(phantom, index)
    full = _full_dose_dataset(scan, index)
    set_pixels(full, images.full_dose)
    full.SOPInstanceUID = stable_uid(full.SeriesInstanceUID, index, _digest(full))
    if scan.dose == 1:
        return [(100.0, full)]
    percent = scan.dose * 100
    series_uid = stable_uid(full.StudyInstanceUID, "dose", f"{percent:g}")
    low = derived_copy(
        full,
        images.low_dose,
        series_instance_uid=series_uid,
        sop_instance_uid="",
        description=f"Noise inserted in the projection domain: {percent:g} % of full dose",
    )
    low.SOPInstanceUID = stable_uid(series_uid, index, _digest(low))
    low.SeriesNumber = 2
    _set_dose(low, scan.dose)
    return [(100.0, full), (percent, low)]


def _digest(dataset: Dataset) -> str:
    return hashlib.sha256(dataset.PixelData).hexdigest()


def _full_dose_dataset(scan: PhantomScan, index: int) -> Dataset:
    """Every attribute but the image and its UID."""
    from pydicom.dataset import Dataset
    from pydicom.uid import CTImageStorage

    from n2q_edge.dicom_out.ct_image import stable_uid

    study_uid = stable_uid("phantom", __version__, scan.seed, scan.slices, scan.size)
    z = round(scan.z_mm(index), 4)
    corner = round(-(scan.size - 1) / 2 * scan.pixel_mm, 6)

    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CTImageStorage
    dataset.SyntheticData = "YES"
    for event in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{event}Date", SCAN_DATE)
        setattr(dataset, f"{event}Time", SCAN_TIME)
    dataset.AccessionNumber = ""
    dataset.Modality = "CT"
    dataset.Manufacturer = "n2q-edge"
    dataset.ManufacturerModelName = "phantom"
    dataset.SoftwareVersions = __version__
    dataset.DeviceSerialNumber = "none"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "Synthetic thorax and abdomen"
    dataset.PatientName = "PHANTOM^SYNTHETIC"
    dataset.PatientID = f"PHANTOM-{scan.seed}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.BodyPartExamined = "ABDOMEN"
    dataset.KVP = 120
    dataset.ReconstructionDiameter = FIELD_OF_VIEW_MM
    dataset.GantryDetectorTilt = 0
    dataset.ConvolutionKernel = "SOFT"
    dataset.CTDIPhantomTypeCodeSequence = [_code("113691", "DCM", "IEC Body Dosimetry Phantom")]
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = study_uid
    dataset.SeriesInstanceUID = stable_uid(study_uid, "dose", "100")
    dataset.StudyID = "1"
    dataset.SeriesNumber = 1
    dataset.AcquisitionNumber = 1
    dataset.InstanceNumber = index + 1
    dataset.FrameOfReferenceUID = stable_uid(study_uid, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.ImagePositionPatient = [corner, corner, z]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [scan.pixel_mm, scan.pixel_mm]
    dataset.SliceThickness = SLICE_THICKNESS_MM
    dataset.SpacingBetweenSlices = round(scan.spacing_mm, 6)
    dataset.SliceLocation = z
    dataset.ImageComments = "Synthetic phantom made by n2q-edge; no patient was scanned"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.WindowCenter = 40
    dataset.WindowWidth = 400
    _set_dose(dataset, 1.0)
    return dataset


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _set_dose(dataset: Dataset, dose: float) -> None:
    """Series name and exposure of a scan at a dose fraction; the tube current carries the dose."""
    current = FULL_DOSE_TUBE_CURRENT_MA * dose
    dataset.SeriesDescription = f"Phantom {dose * 100:g} % dose"
    dataset.ExposureTime = EXPOSURE_TIME_MS
    dataset.XRayTubeCurrent = max(1, round(current))
    dataset.Exposure = max(1, round(current * EXPOSURE_TIME_MS / 1000))
    dataset.ExposureInuAs = max(1, round(current * EXPOSURE_TIME_MS))
    dataset.CTDIvol = FULL_DOSE_CTDI_VOL_MGY * dose
