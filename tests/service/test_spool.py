"""The spool: whole files under their own names, in the right order of calls."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from n2q_edge.service.spool import DirectorySync, Spool, association_of, series_key


def test_an_object_is_there_whole_and_named_by_us(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.store((b"head", memoryview(b"body")), "0123456789abcdef", 7)
    (path,) = spool.arrived()
    assert path.read_bytes() == b"headbody"
    assert association_of(path) == "0123456789abcdef"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(spool.temporary.iterdir())


def test_objects_of_an_association_come_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in (3, 1, 2):
        spool.store((str(number).encode(),), "a" * 16, number)
    assert [path.read_bytes() for path in spool.arrived()] == [b"1", b"2", b"3"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def pieces():
        yield b"part"
        raise OSError(28, "No space left on device")

    spool = Spool(tmp_path)
    with pytest.raises(OSError, match="No space"):
        spool.store(pieces(), "a" * 16, 1)
    assert not spool.arrived()
    assert not list(spool.temporary.iterdir())


def test_leftovers_of_a_killed_receiver_are_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    descriptor, _ = spool.create()
    os.write(descriptor, b"half")
    os.close(descriptor)
    spool.open_association()
    assert spool.clean() == 2
    assert not spool.open_associations()


def test_a_series_key_says_nothing_and_is_a_safe_name() -> None:
    assert series_key("../../etc/passwd").isalnum()
    assert series_key("1.2.3") != series_key("1.2.4")


def test_one_sync_of_the_folder_serves_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    first_is_inside, go_on = threading.Event(), threading.Event()

    def slow_fsync(descriptor: int) -> None:
        calls.append(descriptor)
        first_is_inside.set()
        go_on.wait(10)

    sync = DirectorySync(tmp_path)
    monkeypatch.setattr(os, "fsync", slow_fsync)
    threads = [threading.Thread(target=sync.wait) for _ in range(6)]
    threads[0].start()
    assert first_is_inside.wait(10)
    for thread in threads[1:]:
        thread.start()
    while sync._asked < 6:
        pass
    go_on.set()
    for thread in threads:
        thread.join(10)
    # The first covers itself; all who came during it need, and share, one more.
    assert len(calls) == 2


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_file_then_rename_then_folder_are_on_the_disk_before_store_returns(tmp_path: Path) -> None:
    """kill -9 cannot show a missing fsync, since the page cache survives: the order of the calls can."""
    code = (
        "import sys; from pathlib import Path; from n2q_edge.service.spool import Spool; "
        "s = Spool(Path(sys.argv[1])); s.store((b'x' * 10,), 'a' * 16, 1); import os; os.write(1, b'STORED')"
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-o", str(trace), "-e", "trace=openat,write,fsync,rename,renameat,renameat2"]
    done = subprocess.run(
        [*command, sys.executable, "-c", code, str(tmp_path / "spool")], capture_output=True, check=False
    )
    if done.returncode and b"ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    lines = trace.read_text().splitlines()
    calls = [line.split(None, 1)[1].partition("(")[0] for line in lines[_first(lines, "O_EXCL") :]]
    order = [name for name in calls if name in ("write", "fsync", "rename", "renameat", "renameat2")]
    assert order == ["write", "fsync", "rename", "fsync", "write"]


def _first(lines: list[str], text: str) -> int:
    return max(number for number, line in enumerate(lines) if text in line and "incoming/tmp" in line)
