"""Finding files, telling what they are, and accounting for each."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n2q_edge.dicom import Inventory, LoadedSlice, Reason, scan
from n2q_edge.errors import UsageError
from tests.helpers.dicom_files import (
    SERIES,
    assert_accounted,
    ct_dataset,
    dicomdir,
    item,
    load_all,
    load_one,
    save,
    stored_values,
)


def skips(inventory: Inventory) -> dict[str, str]:
    return {each.path.name: each.reason.value for each in inventory.skipped}


def rejects(inventory: Inventory) -> dict[str, str]:
    return {each.path.name: each.reason.value for each in inventory.rejected}


def one_reason(tmp_path: Path, **changes: Any) -> Reason:
    inventory = scan([save(ct_dataset(**changes), tmp_path / "x.dcm")])
    assert_accounted(inventory)
    (reason,) = [r.reason for r in inventory.rejected] + [s.reason for s in inventory.skipped]
    return reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]}, "secondary_capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary_capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, "secondary_capture"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "secondary_capture"),
        ({"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]}, "not_hu"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "not_hu"),
        ({"RescaleType": "MGML"}, "not_hu"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}, "not_ct"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.20", "Modality": "NM"}, "not_ct"),
        ({"Modality": "PT"}, "not_ct"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "Modality": "SEG"}, "derived_object"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2", "Modality": "RTDOSE"}, "derived_object"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11", "PixelData": None}, "not_an_image"),
        ({"PixelData": None}, "missing_pixel_data"),
        ({"PixelData": b""}, "missing_pixel_data"),
        ({"Rows": None}, "bad_dimensions"),
        ({"Rows": 1, "Columns": 1, "PixelData": b"\0\0"}, "bad_dimensions"),
        ({"Rows": 60000, "Columns": 60000}, "bad_dimensions"),
        ({"NumberOfFrames": "0"}, "bad_dimensions"),
        ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, "unsupported_pixel_format"),
        ({"BitsStored": 17}, "unsupported_pixel_format"),
        ({"HighBit": 15, "BitsStored": 12}, "unsupported_pixel_format"),
        ({"PixelRepresentation": None}, "unsupported_pixel_format"),
        ({"Columns": 63}, "corrupt_pixel_data"),
        ({"Columns": 128}, "corrupt_pixel_data"),
        ({"NumberOfFrames": "2"}, "corrupt_pixel_data"),
    ],
)
def test_kinds_of_object(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    assert one_reason(tmp_path, **changes) == reason


def test_empty_sop_class(tmp_path: Path) -> None:
    ct_dataset(SOPClassUID="").save_as(tmp_path / "x.dcm", enforce_file_format=False)
    assert rejects(scan([tmp_path])) == {"x.dcm": "missing_sop_class"}


def test_sop_class_from_the_meta_information(tmp_path: Path) -> None:
    data = ct_dataset(SOPClassUID="")
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.save_as(tmp_path / "x.dcm", enforce_file_format=False)
    assert load_one(tmp_path / "x.dcm").hu.shape == (48, 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"NumberOfFrames": "1"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "PERFUSION"]},  # the slices of a perfusion scan are in HU
        {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]},
        {"ImageType": None},
        {"RescaleType": "HU"},
        {"RescaleType": "US"},
        {"InstanceNumber": None},
        {"ImagePositionPatient": None},
        {"PixelSpacing": None},
        {"HighBit": None},
    ],
)
def test_slices_that_are_assessed(tmp_path: Path, changes: dict[str, Any]) -> None:
    loaded = load_one(save(ct_dataset(**changes), tmp_path / "x.dcm"))
    np.testing.assert_array_equal(loaded.hu, stored_values() - 1024)
    assert loaded.ref.frame is None


def test_private_transfer_syntax(tmp_path: Path) -> None:
    data = ct_dataset()
    data.compress("1.2.840.10008.1.2.5", encoding_plugin="pydicom")
    path = save(data, tmp_path / "x.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.113619.5.2\0\0"))
    assert rejects(scan([path])) == {"x.dcm": "unsupported_transfer_syntax"}


def test_a_tree_of_everything(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(ct_dataset(number=number), tmp_path / "a" / "deep" / f"IM{number}")
    save(ct_dataset(SeriesInstanceUID=SERIES + ".9"), tmp_path / "a" / "other.dcm")
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "short").write_bytes(b"\x08")
    counted: list[int] = []
    inventory = scan([tmp_path], counted.append)
    assert [len(series.slices) for series in inventory.series] == [1, 3]
    assert skips(inventory) == {"notes.txt": "not_dicom", "short": "not_dicom"}
    assert rejects(inventory) == {"empty.dcm": "empty_file"}
    assert inventory.files_seen == 7
    assert counted == [1, 2, 3, 4, 5, 6, 7]
    assert_accounted(inventory)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such"):
        scan([tmp_path / "no-such"])


def test_files_named_twice_are_assessed_once(tmp_path: Path) -> None:
    path = save(ct_dataset(), tmp_path / "x.dcm")
    inventory = scan([path, path, tmp_path])
    assert len(list(inventory.slices())) == 1
    assert [each.reason for each in inventory.skipped] == [Reason.ALREADY_SEEN, Reason.ALREADY_SEEN]
    assert_accounted(inventory)


def test_links_and_link_loops(tmp_path: Path) -> None:
    save(ct_dataset(), tmp_path / "a" / "x.dcm")
    outside = save(ct_dataset(number=2), tmp_path.with_name(tmp_path.name + "-outside") / "y.dcm")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "again.dcm").symlink_to("x.dcm")
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "a" / "gone.dcm").symlink_to("nowhere.dcm")
    (tmp_path / "a" / "elsewhere").symlink_to(outside.parent)
    inventory = scan([tmp_path])
    assert {ref.path.name for ref in inventory.slices()} == {"x.dcm", "y.dcm"}
    assert skips(inventory) == {"loop": "already_seen", "again.dcm": "already_seen"}
    assert rejects(inventory) == {"self": "missing_file", "gone.dcm": "missing_file"}
    assert inventory.files_seen == 6
    assert_accounted(inventory)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_pipes_and_sockets_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        inventory = scan([tmp_path, tmp_path / "pipe"])
    assert {each.reason for each in inventory.skipped} == {Reason.NOT_DICOM}
    assert inventory.files_seen == 4


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that fails to be read")
def test_io_error_while_reading(tmp_path: Path) -> None:
    (tmp_path / "bad.dcm").symlink_to("/proc/self/mem")  # opens, then read fails with EIO
    inventory = scan([tmp_path])
    assert rejects(inventory) == {"bad.dcm": "unreadable"}
    assert_accounted(inventory)


def test_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(ct_dataset(), tmp_path / "x.dcm")
    real_open = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:  # chmod does not stop root
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    inventory = scan([tmp_path])
    assert rejects(inventory) == {"x.dcm": "unreadable"}
    assert inventory.rejected[0].detail == "Permission denied"


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(ct_dataset(), tmp_path / "open" / "x.dcm")
    (tmp_path / "shut").mkdir()
    real_scandir = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    inventory = scan([tmp_path])
    assert rejects(inventory) == {"shut": "unreadable"}
    assert_accounted(inventory)


def test_odd_names(tmp_path: Path) -> None:
    names = ["Ünïcödé ?.dcm", "no extension", ".hidden", "line\nbreak.dcm"]
    if os.name == "posix":
        names.append(os.fsdecode(b"latin-\xe9.dcm"))
    for number, name in enumerate(names):
        save(ct_dataset(number=number), tmp_path / name)
    inventory = scan([tmp_path])
    assert {ref.path.name for ref in inventory.slices()} == set(names)
    assert_accounted(inventory)


def test_zip_archive(tmp_path: Path) -> None:
    source = save(ct_dataset(), tmp_path / "source.dcm")
    archive = tmp_path / "study.ZIP"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.write(source, "a/IM1")
        out.writestr("../../etc/readme.txt", "junk")
        out.writestr("empty/", "")
        out.writestr("empty.dcm", "")
        out.writestr("inner.zip", b"PK\5\6" + bytes(18))
        out.write(save(ct_dataset(number=2), tmp_path / "second.dcm"), "/abs/IM2")
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.write(save(ct_dataset(number=3), tmp_path / "third.dcm"), "a/IM1")
    source.unlink()
    for given in ([archive], [tmp_path]):
        inventory = scan(given)
        in_zip = [ref for ref in inventory.slices() if ref.source.member is not None]
        assert [ref.position_mm for ref in in_zip] == [2.5, 5.0, 7.5]
        assert [str(ref.path.relative_to(archive)) for ref in in_zip] == ["a/IM1", "abs/IM2", "a/IM1#6"]
        assert all(isinstance(each, LoadedSlice) for each in load_all(inventory))
        assert skips(inventory) == {"study.ZIP": "archive", "readme.txt": "not_dicom"}
        assert rejects(inventory) == {"empty.dcm": "empty_file", "inner.zip": "unsupported_archive"}
        assert_accounted(inventory)


def test_zip_without_its_extension_is_opened_only_if_given(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "report.docx", "w") as out:
        out.write(save(ct_dataset(), tmp_path / "in" / "x.dcm"), "x.dcm")
    shutil.rmtree(tmp_path / "in")
    assert skips(scan([tmp_path])) == {"report.docx": "not_dicom"}
    assert len(list(scan([tmp_path / "report.docx"]).slices())) == 1


def test_damaged_encrypted_and_bomb_archives(tmp_path: Path) -> None:
    (tmp_path / "junk.zip").write_bytes(b"PK\3\4 this is no archive")
    (tmp_path / "empty.zip").touch()
    source = save(ct_dataset(), tmp_path / "in" / "x.dcm")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.write(source, "locked.dcm")
        out.write(source, "sound.dcm")
        out.write(source, "bomb.dcm")
        out.write(source, "crc.dcm")
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    entry = raw.index(b"PK\1\2")
    raw[entry + 8] |= 1  # encrypted
    entry = raw.index(b"bomb.dcm", entry) - 46
    raw[entry + 24 : entry + 28] = (3_000_000_000).to_bytes(4, "little")  # says it unpacks to 3 GB
    raw[raw.index(b"crc.dcm") + 2000] ^= 1
    (tmp_path / "a.zip").write_bytes(raw)
    shutil.rmtree(tmp_path / "in")
    inventory = scan([tmp_path])
    assert [ref.path.name for ref in inventory.slices()] == ["sound.dcm"]
    assert rejects(inventory) == {
        "junk.zip": "corrupt_archive",
        "empty.zip": "empty_file",
        "locked.dcm": "unsupported_archive",
        "bomb.dcm": "unsupported_archive",
        "crc.dcm": "corrupt_archive",
    }
    assert_accounted(inventory)


def test_packed_files_that_are_not_zip(tmp_path: Path) -> None:
    source = save(ct_dataset(), tmp_path.with_name(tmp_path.name + "-in") / "x.dcm")
    (tmp_path / "x.dcm.gz").write_bytes(gzip.compress(source.read_bytes()))
    (tmp_path / "mask.nii.gz").write_bytes(gzip.compress(bytes(1000)))
    with tarfile.open(tmp_path / "study.tar.gz", "w:gz") as tar:
        tar.add(source, "x.dcm")
    inventory = scan([tmp_path])
    assert rejects(inventory) == {
        "x.dcm.gz": "unsupported_archive",
        "study.tar.gz": "unsupported_archive",
        "mask.nii.gz": "corrupt_header",  # a NIfTI file by its name, and empty
    }


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_dicomdir(tmp_path: Path) -> None:
    save(ct_dataset(number=1), tmp_path / "dicom" / "im1")  # copied to a disk that wrote lower case
    save(ct_dataset(number=2), tmp_path / "DICOM2")
    save(ct_dataset(number=3), tmp_path / "NOT_LISTED")
    save(ct_dataset(number=4), tmp_path.with_name(tmp_path.name + "-outside") / "x.dcm")
    index = dicomdir(tmp_path, [["DICOM", "IM1"], "DICOM2", ["DICOM", "GONE"], ["..", "x.dcm"], "DICOM2"])
    inventory = scan([index])
    assert [ref.position_mm for ref in inventory.slices()] == [2.5, 5.0]
    assert skips(inventory) == {"DICOMDIR": "dicomdir", "DICOM2": "already_seen"}
    assert rejects(inventory) == {"GONE": "missing_file", "x.dcm": "missing_file"}
    assert_accounted(inventory)
    walked = scan([tmp_path])
    assert len(list(walked.slices())) == 3
    assert skips(walked) == {"DICOMDIR": "dicomdir"}


def test_no_patient_identity_in_what_a_scan_returns(tmp_path: Path) -> None:
    save(ct_dataset(), tmp_path / "x.dcm")
    save(ct_dataset(number=2, RescaleSlope=None), tmp_path / "y.dcm")
    inventory = scan([tmp_path])
    assert len(inventory.rejected) == 1
    assert "secret" not in repr(inventory).lower()


def test_protocol(tmp_path: Path) -> None:
    data = ct_dataset(
        SpecificCharacterSet="ISO_IR 192",
        Manufacturer="Acme",
        ManufacturerModelName="One",
        KVP="120",
        XRayTubeCurrent="250",
        Exposure="180",
        CTDIvol=9.5,
        ConvolutionKernel=["Br40d", "3"],
        SpiralPitchFactor=0.8,
        BodyPartExamined="CHEST",
        StationName="CT1",
        ProtocolName="Lunge nüchtern",
    )
    (series,) = scan([save(data, tmp_path / "x.dcm")]).series
    assert series.protocol == {
        "manufacturer": "Acme",
        "model": "One",
        "station": "CT1",
        "kvp": 120.0,
        "tube_current_ma": 250.0,
        "exposure_mas": 180.0,
        "ctdivol": 9.5,
        "kernel": "Br40d\\3",
        "slice_thickness_mm": 2.5,
        "pitch": 0.8,
        "body_part": "CHEST",
        "protocol_name": "Lunge nüchtern",
        "series_description": None,
        "rows": 48,
        "columns": 64,
        "pixel_spacing_mm": [0.75, 0.5],
        "transfer_syntax": "1.2.840.10008.1.2.1",
    }


@pytest.mark.parametrize("charset", [b"NOT_A_CHARSET ", b"ISO 2022 IR 87", b"              "])
@pytest.mark.filterwarnings("error")
def test_odd_character_sets_do_no_harm(tmp_path: Path, charset: bytes) -> None:
    path = save(ct_dataset(SpecificCharacterSet="ISO 2022 IR 13", ProtocolName="ABCDE"), tmp_path / "x.dcm")
    raw = path.read_bytes().replace(b"ISO 2022 IR 13", charset).replace(b"ABCDE", b"\xff\xfe\x1b$B")
    path.write_bytes(raw)
    (series,) = scan([path]).series
    assert isinstance(series.protocol["protocol_name"], str)


def test_missing_uids_are_flagged_not_fatal(tmp_path: Path) -> None:
    data = ct_dataset(SeriesInstanceUID=None, StudyInstanceUID="")
    loaded = load_one(save(data, tmp_path / "x.dcm"))
    assert "missing_uid" in loaded.ref.flags


def test_large_private_and_nested_elements_are_stepped_over(tmp_path: Path) -> None:
    data = ct_dataset()
    block = data.private_block(0x0029, "ACME", create=True)
    block.add_new(0x10, "OB", bytes(300_000))
    block.add_new(0x11, "UN", b"\xff" * 100_001 + b"\0")
    icon = item(Rows=2, Columns=2, PixelData=b"\1\2\3\4")
    icon["PixelData"].VR = "OB"
    data.IconImageSequence = [icon]
    data["IconImageSequence"].is_undefined_length = True
    data["IconImageSequence"].value[0].is_undefined_length_sequence_item = True
    loaded = load_one(save(data, tmp_path / "x.dcm"))
    np.testing.assert_array_equal(loaded.hu, stored_values() - 1024)


def test_importing_is_cheap() -> None:
    """`n2q-edge --help` imports this package; pydicom and the decoders wait until they are needed."""
    heavy = ("pydicom", "gdcm", "openjpeg", "scipy", "torch")
    code = f"import sys, n2q_edge.dicom; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
