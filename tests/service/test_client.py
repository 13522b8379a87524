"""`n2q-edge send` and `echo`, and a disk that is really full."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from n2q_edge.cli import main
from n2q_edge.errors import UsageError
from n2q_edge.service.client import Address, parse_address
from n2q_edge.service.configuration import dumps
from n2q_edge.service.receiver import Receiver
from n2q_edge.service.settings import Node, Settings
from n2q_edge.service.settings import Spool as SpoolSettings
from n2q_edge.service.spool import Spool
from tests.helpers.node import STORESCU, free_port, storescu
from tests.helpers.node_files import slice_dataset, write_series


@pytest.fixture
def node(tmp_path: Path):
    settings = Settings(node=Node(port=0, data=str(tmp_path / "data")), spool=SpoolSettings(reserve_mb=1))
    spool = Spool(settings.data)
    receiver = Receiver(settings, spool)
    yield f"127.0.0.1:{receiver.start()}/N2Q-EDGE", spool
    receiver.drain(0)


def test_send_and_echo(node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address, spool = node
    write_series(tmp_path / "in", 5)
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    assert main(["echo", address]) == 0
    assert main(["send", str(tmp_path / "in"), "--to", address]) == 0
    assert len(spool.arrived()) == 5
    assert "5 stored, 0 failed, 1 are no DICOM files" in capsys.readouterr().err


def test_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "in", 1)
    address = f"127.0.0.1:{free_port()}/N2Q-EDGE"
    assert main(["echo", address]) == 4
    assert main(["send", str(tmp_path / "in"), "--to", address]) == 4
    lines = capsys.readouterr().err.strip().splitlines()
    assert all("does not answer" in line for line in lines)


@pytest.mark.parametrize(
    "text", ["pacs", "pacs:104", "pacs:99999/A", "pacs:104/", "pacs:104/SEVENTEEN-LETTERS", "/A"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_addresses() -> None:
    assert parse_address("pacs.x.org:104/PACS") == Address("pacs.x.org", 104, "PACS")
    assert parse_address("[::1]:104/A") == Address("::1", 104, "A")


@pytest.mark.peer
@pytest.mark.skipif(not STORESCU, reason="needs dcmtk")
def test_a_disk_of_3_mb_that_fills(tmp_path: Path) -> None:
    """What is acknowledged is whole; what is not is refused, not lost in silence; room makes it go on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        settings = Settings(node=Node(port=0, data=str(disk)), spool=SpoolSettings(reserve_mb=0, hold_s=0.3))
        spool = Spool(settings.data)
        receiver = Receiver(settings, spool)
        port = receiver.start()
        write_series(tmp_path / "in", 30, size=256)  # 130 KB each
        acknowledged = storescu(tmp_path / "in", port)
        kept = spool.arrived()
        assert 0 < len(acknowledged) < 30
        assert len(kept) == len(acknowledged)
        assert all(path.stat().st_size > 256 * 256 * 2 for path in kept)
        assert not list(spool.temporary.iterdir())
        for path in kept:
            path.unlink()
        assert storescu(tmp_path / "in", port)
        receiver.drain(0)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.skipif(not STORESCU or not Path("/proc/self/status").exists(), reason="needs dcmtk and /proc")
def test_an_enhanced_ct_of_300_mb_takes_less_than_250_mb(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    dataset = slice_dataset(1)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    dataset.Rows = dataset.Columns = 512
    dataset.NumberOfFrames = 600
    dataset.PixelData = bytes(600 * 512 * 512 * 2)
    dataset["PixelData"].VR = "OW"
    dataset.save_as(folder / "enhanced.dcm", enforce_file_format=True)
    size = (folder / "enhanced.dcm").stat().st_size
    assert size > 300e6
    del dataset
    port = free_port()
    settings = Settings(node=Node(port=port, data=str(tmp_path / "data")), spool=SpoolSettings(reserve_mb=1))
    command = [sys.executable, "-m", "n2q_edge.service.child", "receiver"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(dumps(settings) + "\n")
        child.stdin.flush()
        assert json.loads(child.stderr.readline())["event"] == "listening"
        assert storescu(folder, port) == {"enhanced.dcm"}
        status = Path(f"/proc/{child.pid}/status").read_text()
        peak_mb = int(status.partition("VmHWM:")[2].split()[0]) / 1000
        child.stdin.close()  # as if the supervisor had died
        assert child.wait(30) == 0
    (kept,) = (tmp_path / "data" / "incoming" / "new").iterdir()
    assert kept.stat().st_size == pytest.approx(size, abs=1000)
    assert peak_mb < 250
