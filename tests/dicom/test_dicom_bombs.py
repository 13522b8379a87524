"""Archives, frames and indexes that promise too much: bounded time and memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless

from n2q_edge.dicom import Reason, scan
from tests.helpers.dicom_files import (
    assert_accounted,
    compress,
    ct_dataset,
    dicomdir,
    rejection,
    save,
    stored_values,
)

FRAMES = np.stack([stored_values(seed=seed) for seed in range(3)])


# ------------------------------------------------------------------------------------------------------ bombs


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return path


def test_three_million_empty_frames(tmp_path: Path) -> None:
    """35 kB that used to become three million slices."""
    data = compress(ct_dataset(NumberOfFrames=1), JPEGLSLossless)
    raw = save(data, tmp_path / "x.dcm").read_bytes()
    raw = raw.replace(b"\x28\x00\x08\x00IS\x02\x001 ", b"\x28\x00\x08\x00IS\x08\x003000000 ")
    start = raw.rindex(b"\xe0\x7f\x10\x00") + 12
    bomb = raw[:start] + b"\xfe\xff\x00\xe0\0\0\0\0" * 3_000_001 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    (tmp_path / "x.dcm").unlink()
    archive = zipped(tmp_path / "x.zip", bomb=bomb)
    assert archive.stat().st_size < 100_000
    inventory = scan([archive])
    assert [each.reason for each in inventory.rejected] == [Reason.TRUNCATED]
    assert_accounted(inventory)


def test_members_that_overlap(tmp_path: Path) -> None:
    raw = zipped(tmp_path / "x.zip", x=save(ct_dataset(), tmp_path / "x.dcm").read_bytes()).read_bytes()
    with zipfile.ZipFile(io.BytesIO(raw)) as opened:
        start = opened.start_dir
    end = raw.rindex(b"PK\5\6")
    entry, tail = raw[start:end], bytearray(raw[end:])
    struct.pack_into("<HHL", tail, 8, 30_000, 30_000, len(entry) * 30_000)
    (tmp_path / "x.zip").write_bytes(raw[:start] + entry * 30_000 + tail)
    (tmp_path / "x.dcm").unlink()
    inventory = scan([tmp_path])
    assert [each.reason for each in inventory.rejected] == [Reason.UNSUPPORTED_ARCHIVE]
    assert "overlap" in inventory.rejected[0].detail
    assert inventory.files_seen == 1


def test_members_that_together_are_a_bomb(tmp_path: Path) -> None:
    zeros = bytes(8 << 20)
    archive = zipped(tmp_path / "x.zip", **{f"m{number}": zeros for number in range(9)})  # 72 MiB, 1000:1
    (rejected,) = scan([archive]).rejected
    assert rejected.reason is Reason.UNSUPPORTED_ARCHIVE


def test_a_member_that_is_not_dicom_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    whole = zipfile.ZipExtFile.read

    def count(self: Any, n: int | None = -1) -> bytes:
        nonlocal read
        data = whole(self, n)
        read += len(data)
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", count)
    archive = zipped(tmp_path / "x.zip", notes=np.random.default_rng(1).bytes(4 << 20))
    assert [each.reason for each in scan([archive]).skipped] == [Reason.ARCHIVE, Reason.NOT_DICOM]
    assert read <= 8192


def test_deflated_bomb(tmp_path: Path) -> None:
    data = ct_dataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.private_block(0x0029, "ACME", create=True).add_new(0x10, "OB", bytes(80 << 20))
    path = save(data, tmp_path / "x.dcm")
    assert path.stat().st_size < 200_000
    assert rejection(path).reason is Reason.CORRUPT_HEADER


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_bombs_take_little_memory(tmp_path: Path) -> None:
    """Less than 1 GB above what the interpreter takes."""
    head = save(ct_dataset(PixelData=None), tmp_path / "x.dcm").read_bytes()
    zipped(tmp_path / "x.zip", a=head + b"\x29\x00\x10\x10LO\0\0" * 2_100_000, b=bytes(50 << 20))
    # Not ru_maxrss: a child begins with the high-water mark of the process that started it.
    code = (
        "import re, sys, pathlib; from n2q_edge.dicom import scan; scan([pathlib.Path(sys.argv[1])]);"
        "print(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 1 << 20
    assert run.stderr == ""


# --------------------------------------------------------------------------------------------------- DICOMDIR


def test_dicomdir_entry_through_a_link(tmp_path: Path) -> None:
    outside = save(ct_dataset(), tmp_path / "elsewhere" / "IM1")
    medium = tmp_path / "medium"
    save(ct_dataset(number=2), medium / "IN" / "IM2")
    (medium / "OUT").symlink_to(outside.parent)
    (medium / "IM3").symlink_to(outside)
    (medium / "IM4").symlink_to(medium / "IN" / "IM2")  # inside: harmless
    inventory = scan([dicomdir(medium, [["OUT", "IM1"], "IM3", "IM4"])])
    assert [each.reason for each in inventory.rejected] == [Reason.MISSING_FILE, Reason.MISSING_FILE]
    assert [ref.position_mm for ref in inventory.slices()] == [5.0]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS", "ignore:The value length")
def test_dicomdir_with_hostile_file_ids(tmp_path: Path) -> None:
    index = dicomdir(tmp_path, [["A" * 400], ["A/B"], [".."], ["A", ".", "B"], ["\x1b[2J"], "GOOD"])
    raw = index.read_bytes()
    index.write_bytes(raw.replace(b"A/B ", b"A\0B "))
    save(ct_dataset(), tmp_path / "GOOD")
    inventory = scan([index])
    assert [ref.path.name for ref in inventory.slices()] == ["GOOD"]
    assert {each.reason for each in inventory.rejected} == {Reason.MISSING_FILE}
    assert len(inventory.rejected) == 5
    assert all(str(each.path).isprintable() for each in inventory.rejected)


def test_damaged_dicomdir(tmp_path: Path) -> None:
    index = dicomdir(tmp_path, ["A", "B"])
    raw = index.read_bytes()
    index.write_bytes(raw[: raw.index(b"\x04\x00\x20\x12") + 40])
    assert [each.reason for each in scan([index]).rejected] == [Reason.TRUNCATED]
    index.write_bytes(raw.replace(b"\xfe\xff\x00\xe0", b"\xfe\xff\x00\x00", 1))
    assert [each.reason for each in scan([index]).rejected] == [Reason.CORRUPT_HEADER]
