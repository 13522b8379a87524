"""How fast the headers of a large tree are read: `dicom.scan` on one core, with the files in the page cache.

The files are made here: CT slices of 512x512 with the header of a scanner (161 elements, private ones and
sequences among them, 8 kB), in folders of patients, studies and series. Their pixels are holes in the file,
which take no room on the disk; the scan does not read them anyway.

    python -m benchmarks.scan --json benchmarks/results/scan-NAME.json
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from n2q_edge.bench import document, sensors
from n2q_edge.bench.statistics import summarise
from n2q_edge.dicom import scan

FILES = 20_000
A_SERIES = 250
SERIES_A_STUDY = 4
SIDE = 512
ROUNDS = 3

ROOT = "1.2.826.0.1.3680043.8.498."
SERIES_MARK, SLICE_MARK, PLACE_MARK = f"{ROOT}{'8' * 20}", f"{ROOT}{'9' * 20}", "-77777.777"


def template() -> bytes:
    """A whole header up to the value of Pixel Data; UIDs and position are marks of the same length."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = UID(SLICE_MARK)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    _identity(ds)
    _acquisition(ds)
    _private(ds)
    ds.PixelData = b"\0\0"
    written = io.BytesIO()
    pydicom.dcmwrite(written, ds, enforce_file_format=True)
    length = SIDE * SIDE * 2
    return written.getvalue()[: -len(b"\0\0") - 4] + length.to_bytes(4, "little")


def _identity(ds: Dataset) -> None:
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, SLICE_MARK
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260102"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101112.131000"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "0000000000000042", "CT", "Maker of scanners"
    ds.InstitutionName, ds.StationName = "A hospital", "CT0042"
    ds.StudyDescription, ds.SeriesDescription = "CT abdomen with contrast", "Abdomen 3.0 Br40"
    ds.ManufacturerModelName, ds.SoftwareVersions = "Model 7", ["syngo CT 2012B", "VA44A"]
    ds.PatientName, ds.PatientID = "Nobody^Made Up", "0000000042"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge, ds.PatientWeight = "19500101", "O", "076Y", "75"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{SERIES_MARK}.1", SERIES_MARK
    ds.FrameOfReferenceUID = f"{SERIES_MARK}.2"
    for keyword in ("ReferencedStudySequence", "ReferencedImageSequence", "SourceImageSequence"):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, f"{ROOT}{'5' * 20}"
        setattr(ds, keyword, Sequence([item] * 3))
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTABD", "99HOSP", "CT abdomen"
    ds.ProcedureCodeSequence = Sequence([code])
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "42", "4242"
    request.ScheduledProtocolCodeSequence = Sequence([code])
    ds.RequestAttributesSequence = Sequence([request])


def _acquisition(ds: Dataset) -> None:
    ds.BodyPartExamined, ds.ProtocolName, ds.PatientPosition = "ABDOMEN", "AbdRoutine", "HFS"
    ds.SliceThickness, ds.KVP, ds.DataCollectionDiameter = "3", "120", "500"
    ds.ReconstructionDiameter, ds.GantryDetectorTilt, ds.TableHeight = "380", "0", "142"
    ds.RotationDirection, ds.ExposureTime, ds.XRayTubeCurrent, ds.Exposure = "CW", "500", "210", "140"
    ds.FilterType, ds.GeneratorPower, ds.ConvolutionKernel = "0", "25", "Br40d"
    ds.FocalSpots, ds.SingleCollimationWidth, ds.TotalCollimationWidth = ["1.2"], 0.6, 38.4
    ds.SpiralPitchFactor, ds.CTDIvol = 0.8, 9.7
    ds.ContrastBolusAgent, ds.ContrastBolusVolume = "Agent", "100"
    ds.AcquisitionNumber, ds.SeriesNumber, ds.InstanceNumber, ds.StudyID = "1", "4", "1", "1"
    ds.ImagePositionPatient = ["-190.000000", "-190.000000", PLACE_MARK]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SliceLocation, ds.PositionReferenceIndicator = PLACE_MARK, ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = SIDE
    ds.PixelSpacing = ["0.7421875", "0.7421875"]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SmallestImagePixelValue, ds.LargestImagePixelValue = 0, 2617
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "-1024", "1", "HU"
    ds.WindowCenter, ds.WindowWidth = ["40", "50"], ["300", "350"]
    ds.WindowCenterWidthExplanation = ["WINDOW1", "WINDOW2"]


def _private(ds: Dataset) -> None:
    """What vendors add: many short elements, and a few of some hundred bytes."""
    for group in (0x0019, 0x0021, 0x0029):
        block = ds.private_block(group, "MAKER CT HEADER", create=True)
        for number in range(24):
            block.add_new(number, "LO", f"value {number}")
        block.add_new(0x40, "OB", bytes(1200))


def make_tree(folder: Path, files: int) -> None:
    """`files` slices in folders of patients, studies and series."""
    header = template()
    for first in range(0, files, A_SERIES):
        number = first // A_SERIES
        place = folder / f"patient{number // SERIES_A_STUDY:04d}" / "study" / f"series{number:05d}"
        place.mkdir(parents=True)
        series = header.replace(SERIES_MARK.encode(), f"{ROOT}{number:020d}".encode())
        for index in range(first, min(first + A_SERIES, files)):
            of_slice = series.replace(SLICE_MARK.encode(), f"{ROOT}{index:020d}".encode())
            position = f"{(index - first) * 3.0:010.3f}".encode()
            with (place / f"IM{index:06d}").open("wb") as file:
                file.write(of_slice.replace(PLACE_MARK.encode(), position))
                file.truncate(file.tell() + SIDE * SIDE * 2)


def on_one_core() -> None:
    """Neither the scan nor what it calls may use another."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def run(folder: Path, files: int) -> dict[str, Any]:
    make_tree(folder, files)
    on_one_core()
    before = sensors.state()
    rates, cpu_rates = [], []
    for round_ in range(ROUNDS + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        inventory = scan([folder])
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        if sum(1 for _ in inventory.slices()) != files or len(inventory.series) != -(-files // A_SERIES):
            raise SystemExit("the scan did not find every slice")
        if round_:  # the first fills the page cache
            rates.append(files / seconds)
            cpu_rates.append(files / cpu_seconds)
    return {
        **document.header("n2q-edge scan"),
        "state_before": before,
        "state_after": sensors.state(),
        "files": files,
        "header_kb": len(template()) / 1000,
        "elements": len(pydicom.dcmread(next(p for p in folder.rglob("IM*")), stop_before_pixels=True)),
        "files_per_second": asdict(summarise(rates)),
        "files_per_cpu_second": asdict(summarise(cpu_rates)),  # without what other programs took of the core
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        document.write(run(Path(scratch), options.files), options.json)


if __name__ == "__main__":
    main()
