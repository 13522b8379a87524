"""Damaged structures and hostile values cost their own file, and nothing reaches stderr."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n2q_edge.dicom import LoadedSlice, Reason, Rejected, scan
from tests.helpers.dicom_files import (
    assert_accounted,
    ct_dataset,
    enhanced_dataset,
    item,
    load_all,
    load_one,
    raw_values,
    rejection,
    save,
    stored_values,
)

FRAMES = np.stack([stored_values(seed=seed) for seed in range(3)])


# ------------------------------------------------------------------------------------------ damaged structure


def with_sound_neighbour(tmp_path: Path, raw: bytes) -> Rejected:
    """What becomes of a damaged file; the sound one beside it must be assessed."""
    (tmp_path / "damaged.dcm").write_bytes(raw)
    save(ct_dataset(SeriesInstanceUID="1.2.9"), tmp_path / "sound.dcm")
    inventory = scan([tmp_path])
    assert_accounted(inventory)
    assert [each.ref.path.name for each in load_all(inventory) if isinstance(each, LoadedSlice)] == [
        "sound.dcm"
    ]
    (rejected,) = inventory.rejected
    return rejected


@pytest.mark.parametrize("vr", ["UN", "LO", "US", "FD", "AT", "OB", "UR", "XX", "SQ"])
@pytest.mark.parametrize(
    "element",
    [
        "2800 4591 SQ",  # Pixel Value Transformation
        "2800 1091 SQ",  # Pixel Measures
        "1800 2193 SQ",  # CT Exposure
        "0052 3092 SQ",  # Per-Frame Functional Groups
        "1800 3093 FD",  # X-Ray Tube Current in mA
        "1800 4593 FD",  # CTDIvol
        "1800 6000 DS",  # KVP
    ],
)
def test_another_value_representation_in_functional_groups(tmp_path: Path, element: str, vr: str) -> None:
    """A lazy reader fails at it late, with an exception of another kind each time."""
    tag, right = bytes.fromhex(element[:-2]), element[-2:].encode()
    raw = save(enhanced_dataset(FRAMES), tmp_path / "x.dcm").read_bytes()
    assert tag + right in raw
    (tmp_path / "x.dcm").write_bytes(raw.replace(tag + right, tag + vr.encode()))
    save(ct_dataset(SeriesInstanceUID="1.2.9"), tmp_path / "sound.dcm")
    inventory = scan([tmp_path])
    assert_accounted(inventory)
    assert "sound.dcm" in {ref.path.name for ref in inventory.slices()}


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("place", ["group", "root"])
def test_ten_thousand_nested_sequences(tmp_path: Path, place: str, undefined: bool) -> None:
    tag = b"\x28\x00\x45\x91" if place == "group" else b"\x29\x00\x10\x10"
    inner = b""
    if undefined:
        inner = (tag + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * 10_000
    else:
        for _ in range(10_000):
            body = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
            inner = tag + b"SQ\0\0" + struct.pack("<L", len(body)) + body
    raw = save(enhanced_dataset(FRAMES), tmp_path / "x.dcm").read_bytes()
    (tmp_path / "x.dcm").unlink()
    if place == "group":
        inner = (
            b"\x00\x52\x29\x92SQ\0\0"
            + struct.pack("<L", len(inner) + 8)
            + b"\xfe\xff\x00\xe0"
            + (struct.pack("<L", len(inner)) + inner)
        )
        start = raw.index(b"\x00\x52\x29\x92SQ")
        end = raw.index(b"\x00\x52\x30\x92SQ")
        raw = raw[:start] + inner + raw[end:]
    else:
        start = raw.index(b"\x00\x52\x29\x92SQ")
        raw = raw[:start] + inner + raw[start:]
    (tmp_path / "x.dcm").write_bytes(raw)
    inventory = scan([tmp_path / "x.dcm"])
    assert_accounted(inventory)
    if undefined:
        assert [each.reason for each in inventory.rejected] == [Reason.CORRUPT_HEADER]


def test_a_group_that_reaches_beyond_its_sequence(tmp_path: Path) -> None:
    raw = bytearray(save(enhanced_dataset(FRAMES), tmp_path / "x.dcm").read_bytes())
    (tmp_path / "x.dcm").unlink()
    place = raw.index(b"\x28\x00\x45\x91SQ")
    raw[place + 8 : place + 12] = struct.pack("<L", 1 << 30)
    assert with_sound_neighbour(tmp_path, bytes(raw)).reason is Reason.CORRUPT_HEADER


def test_millions_of_empty_elements_end_soon(tmp_path: Path) -> None:
    head = save(ct_dataset(PixelData=None), tmp_path / "x.dcm").read_bytes()
    (tmp_path / "x.dcm").unlink()
    rejected = with_sound_neighbour(tmp_path, head + b"\x29\x00\x10\x10LO\0\0" * 2_100_000)
    assert rejected.reason is Reason.CORRUPT_HEADER
    assert "elements" in rejected.detail


def test_what_no_check_foresaw_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = sys.modules["n2q_edge.dicom.scan"]  # the package's `scan` is the function
    read_image = module.read_image

    def fail(header: Any, source: Any, stamp: Any) -> Any:
        if source.path.name == "damaged.dcm":
            raise ZeroDivisionError("two\nlines")
        return read_image(header, source, stamp)

    monkeypatch.setattr(module, "read_image", fail)
    raw = save(ct_dataset(), tmp_path / "damaged.dcm").read_bytes()
    rejected = with_sound_neighbour(tmp_path, raw)
    assert rejected.reason is Reason.CORRUPT_HEADER
    assert rejected.detail == "unexpected ZeroDivisionError: two lines"


# --------------------------------------------------------------------------------------------- hostile values


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [
        ("1e39", "-1024"),
        ("1e38", "-1024"),
        ("-1", "1024"),
        ("1e-300", "-1024"),
        ("1e-300", "0"),
        ("1", "1e38"),
        ("1", "-1e39"),
        ("1", "1e308"),
        ("1", "5000"),  # no stored value is below 5000 HU
        ("0.001", "0"),  # 16 bits span 66 HU
        ("1000", "-1024"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_rescale_that_cannot_give_hu_is_a_rejection(tmp_path: Path, slope: str, intercept: str) -> None:
    path = raw_values(tmp_path / "x.dcm", RescaleSlope=slope, RescaleIntercept=intercept)
    assert rejection(path).reason is Reason.IMPLAUSIBLE_RESCALE


@pytest.mark.parametrize(
    ("slope", "intercept"), [("1", "-1024"), ("1", "0"), ("0.01", "-200"), ("0.5", "-8192"), ("2", "-32768")]
)
def test_rescale_of_real_scanners_is_accepted(tmp_path: Path, slope: str, intercept: str) -> None:
    path = raw_values(tmp_path / "x.dcm", RescaleSlope=slope, RescaleIntercept=intercept)
    assert load_one(path).ref.slope == float(slope)


@pytest.mark.parametrize(
    ("keyword", "text", "attribute"),
    [
        ("PixelSpacing", "1e308\\1e308", "pixel_spacing_mm"),
        ("PixelSpacing", "0.7\\-0.7", "pixel_spacing_mm"),
        ("PixelSpacing", "0\\0", "pixel_spacing_mm"),
        ("PixelSpacing", "nan\\nan", "pixel_spacing_mm"),
        ("PixelSpacing", "0.7", "pixel_spacing_mm"),
        ("SliceThickness", "1e308", "slice_thickness_mm"),
        ("SliceThickness", "-5", "slice_thickness_mm"),
        ("SliceThickness", "inf", "slice_thickness_mm"),
        ("ImagePositionPatient", "0\\0\\1e308", "image_position"),
        ("ImagePositionPatient", "nan\\0\\0", "image_position"),
        ("ImageOrientationPatient", "2\\0\\0\\0\\2\\0", "image_orientation"),
        ("ImageOrientationPatient", "1\\0\\0\\1\\0\\0", "image_orientation"),
        ("ImageOrientationPatient", "0\\0\\0\\0\\0\\0", "image_orientation"),
        ("ImageOrientationPatient", "1e308\\0\\0\\0\\1\\0", "image_orientation"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_impossible_geometry_is_left_out_and_flagged(
    tmp_path: Path, keyword: str, text: str, attribute: str
) -> None:
    path = tmp_path / "x.dcm"
    save(ct_dataset(), path)
    raw = path.read_bytes()
    tag = {
        "PixelSpacing": b"\x28\x00\x30\x00DS",
        "SliceThickness": b"\x18\x00\x50\x00DS",
        "ImagePositionPatient": b"\x20\x00\x32\x00DS",
        "ImageOrientationPatient": b"\x20\x00\x37\x00DS",
    }[keyword]
    at = raw.index(tag) + 6
    (length,) = struct.unpack("<H", raw[at : at + 2])
    value = text.encode() + b" " * (len(text) % 2)
    path.write_bytes(raw[:at] + struct.pack("<H", len(value)) + value + raw[at + 2 + length :])
    ref = load_one(path).ref
    assert getattr(ref, attribute) is None
    assert "implausible_geometry" in ref.flags


def test_geometry_of_one_frame_only(tmp_path: Path) -> None:
    data = enhanced_dataset(FRAMES)
    data.PerFrameFunctionalGroupsSequence[1].PixelMeasuresSequence = [item(PixelSpacing=[1e300, 1e300])]
    flags = {ref.frame: ref.flags for ref in scan([save(data, tmp_path / "x.dcm")]).slices()}
    assert "implausible_geometry" in flags[2]
    assert "implausible_geometry" not in flags[1] + flags[3]


@pytest.mark.parametrize(
    "name", ["zlib", "rot13", "hex", "base64", "unicode_escape", "ISO_IR 6\\zlib", "\\\\"]
)
@pytest.mark.filterwarnings("error")
def test_character_set_that_names_a_python_codec(tmp_path: Path, name: str) -> None:
    path = save(
        ct_dataset(SpecificCharacterSet="ISO_IR 100" + " " * 6, ProtocolName="K\xf6rper"), tmp_path / "x.dcm"
    )
    raw = path.read_bytes()
    at = raw.index(b"\x08\x00\x05\x00CS")
    (length,) = struct.unpack("<H", raw[at + 6 : at + 8])
    value = name.encode() + b" " * (len(name) % 2)
    path.write_bytes(raw[: at + 6] + struct.pack("<H", len(value)) + value + raw[at + 8 + length :])
    (series,) = scan([path]).series
    assert series.protocol["protocol_name"] == "K\xf6rper"  # read as Latin-1


def test_numbers_beyond_any_integer(tmp_path: Path) -> None:
    path = raw_values(tmp_path / "x.dcm", InstanceNumber="1e308", AcquisitionNumber="9" * 300)
    ref = load_one(path).ref
    assert (ref.instance_number, ref.acquisition_number) == (None, None)


# ------------------------------------------------------------------------------------------------------ quiet


def test_nothing_reaches_stderr(tmp_path: Path) -> None:
    """Neither pydicom nor numpy has a say about a hostile file."""
    raw_values(tmp_path / "a.dcm", RescaleSlope="1e39", RescaleIntercept="1e38")
    raw_values(tmp_path / "b.dcm", PixelSpacing="1e308", KVP="1e400")
    path = save(ct_dataset(SpecificCharacterSet="ISO_IR 192", ProtocolName="ABCDE"), tmp_path / "c.dcm")
    path.write_bytes(path.read_bytes().replace(b"ABCDE", b"\xff\xfe\x1b$B"))
    raw = save(enhanced_dataset(FRAMES), tmp_path / "d.dcm").read_bytes()
    (tmp_path / "d.dcm").write_bytes(raw.replace(b"\x18\x00\x30\x93FD", b"\x18\x00\x30\x93US"))
    code = (
        "import sys, pathlib; from n2q_edge.dicom import SliceReader, scan;"
        "reader = SliceReader(); [reader.load(ref) for ref in scan([pathlib.Path(sys.argv[1])]).slices()];"
        "reader.close()"
    )
    command = [sys.executable, "-W", "always", "-c", code, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""


@pytest.mark.slow
def test_fuzz(tmp_path: Path) -> None:
    """A short run; `make fuzz` is the long one."""
    root = Path(__file__).parent.parent.parent
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--inputs",
        "1000",
        "--seed",
        "5",
        "--keep",
        str(tmp_path / "k"),
    ]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
