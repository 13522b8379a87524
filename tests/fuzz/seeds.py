"""Sound files to mutate: every encoding, syntax and kind of container that is read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.helpers.dicom_files import compress, ct_dataset, dicomdir, enhanced_dataset, item, stored_values

ROWS, COLUMNS = 32, 40
VALUES = stored_values(ROWS, COLUMNS)
FRAMES = np.stack([stored_values(ROWS, COLUMNS, seed=seed) for seed in range(3)])


def seeds() -> dict[str, bytes]:
    """Files by name; the name's suffix is that of the file."""
    files = {f"{name}.dcm": data for name, data in _images().items()}
    files["archive.zip"] = zipped(
        {"a/1": files["explicit.dcm"], "a/2": files["enhanced.dcm"], "note": b"text"}
    )
    files["DICOMDIR"] = _directory()
    return files


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip archive of some files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _images() -> dict[str, bytes]:
    images = {
        "explicit": _bytes(_classic()),
        "implicit": _bytes(_classic(), ImplicitVRLittleEndian),
        "big_endian": _bytes(_classic(), ExplicitVRBigEndian),
        "deflated": _bytes(_classic(), DeflatedExplicitVRLittleEndian),
        "rle": _bytes(compress(_classic(), RLELossless)),
        "jpeg_ls": _bytes(compress(_classic(), JPEGLSLossless)),
        "jpeg2000": _bytes(compress(_classic(), JPEG2000Lossless)),
        "enhanced": _bytes(_enhanced()),
        "enhanced_undefined": _bytes(_undefined(_enhanced())),
        "enhanced_implicit": _bytes(_enhanced(), ImplicitVRLittleEndian),
        "enhanced_jpeg_ls": _bytes(compress(_undefined(_enhanced()), JPEGLSLossless)),
        "enhanced_rle": _bytes(compress(_enhanced(), RLELossless)),
    }
    images["without_meta"] = images["explicit"][images["explicit"].index(b"\x08\x00\x05\x00") :]
    return images


def _classic() -> Any:
    return ct_dataset(
        VALUES,
        SpecificCharacterSet="ISO_IR 100",
        Manufacturer="Acme",
        ManufacturerModelName="Größe 1",
        ProtocolName="Lunge nüchtern",
        FrameOfReferenceUID="1.2.3.4",
        AcquisitionNumber=1,
        KVP="120",
        XRayTubeCurrent="250",
        Exposure="125",
        ExposureTime="500",
        CTDIvol=9.5,
        ConvolutionKernel=["Br40d", "3"],
        PixelPaddingValue=0,
        DeidentificationMethodCodeSequence=[item(CodeValue="113100", CodingSchemeDesignator="DCM")],
    )


def _enhanced() -> Any:
    data = enhanced_dataset(FRAMES, SpecificCharacterSet="ISO_IR 192")
    data.SharedFunctionalGroupsSequence[0].CTTableDynamicsSequence = [item(SpiralPitchFactor=0.8)]
    for groups in data.PerFrameFunctionalGroupsSequence:
        groups.CTExposureSequence = [
            item(XRayTubeCurrentInmA=200.0, ExposureInmAs=100.0, ExposureTimeInms=500.0)
        ]
    return data


def _undefined(data: Any) -> Any:
    """The same with sequences and items of undefined length, so that a changed length breaks nothing else."""
    for element in data:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for part in element.value:
                part.is_undefined_length_sequence_item = True
                _undefined(part)
    return data


def _bytes(data: Any, syntax: str | None = None) -> bytes:
    if syntax is not None:
        data.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _directory() -> bytes:
    with TemporaryDirectory() as folder:
        return dicomdir(Path(folder), [["A", "B"], "GOOD"]).read_bytes()
