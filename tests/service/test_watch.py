"""The watch folder: settled files are taken, junk is set aside."""

from __future__ import annotations

from pathlib import Path

from n2q_edge.service import watch as module
from n2q_edge.service.settings import Watch
from n2q_edge.service.spool import Spool
from n2q_edge.service.watch import QUARANTINE, Watcher
from tests.helpers.node_files import write_series


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_a_file_is_taken_when_it_has_not_changed_for_a_while(tmp_path: Path, monkeypatch) -> None:
    clock, spool = Clock(monkeypatch), Spool(tmp_path / "data")
    folder = tmp_path / "watched"
    (path,) = write_series(folder / "study", 1)
    whole = path.read_bytes()
    watcher = Watcher(Watch(folder=str(folder), settle_s=5.0), spool)
    path.write_bytes(whole[:1000])  # being copied
    assert watcher.look() == 0
    clock.now += 4
    path.write_bytes(whole)
    assert watcher.look() == 0
    clock.now += 4
    assert watcher.look() == 0
    clock.now += 2
    assert watcher.look() == 1
    (kept,) = spool.arrived()
    assert kept.read_bytes() == whole
    assert not path.exists()
    assert not spool.open_associations()


def test_what_is_no_dicom_file_is_set_aside_once(tmp_path: Path, monkeypatch) -> None:
    clock, spool = Clock(monkeypatch), Spool(tmp_path / "data")
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    watcher = Watcher(Watch(folder=str(folder), settle_s=1.0), spool)
    watcher.look()
    clock.now += 2
    watcher.look()
    assert not (folder / "notes.txt").exists()
    (aside,) = (folder / QUARANTINE).iterdir()
    assert aside.read_text() == "hello"
    clock.now += 2
    watcher.look()
    clock.now += 2
    watcher.look()
    assert len(list((folder / QUARANTINE).iterdir())) == 1
    assert not spool.arrived()


def test_links_are_not_followed(tmp_path: Path, monkeypatch) -> None:
    clock, spool = Clock(monkeypatch), Spool(tmp_path / "data")
    (outside,) = write_series(tmp_path / "outside", 1)
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "link.dcm").symlink_to(outside)
    (folder / "tree").symlink_to(outside.parent)
    watcher = Watcher(Watch(folder=str(folder), settle_s=0.0), spool)
    watcher.look()
    clock.now += 2
    assert watcher.look() == 0
    assert outside.exists()


def test_a_spool_that_is_full_leaves_the_file_where_it_is(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    clock, spool = Clock(monkeypatch), Spool(tmp_path / "data")
    (path,) = write_series(tmp_path / "watched", 1)
    watcher = Watcher(Watch(folder=str(path.parent), settle_s=1.0), spool)
    watcher.look()
    clock.now += 2
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "store", full)
        assert watcher.look() == 0
    assert path.exists()
    assert watcher.look() == 1
