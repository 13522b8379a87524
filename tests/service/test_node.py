"""A whole node with real peers: kills, drain, archive, late slices, loops."""

from __future__ import annotations

import random
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.helpers.node import ORTHANC, STORESCU, Node, Orthanc, destination, storescu, wait_for
from tests.helpers.node_files import ROOT, write_series

pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(not STORESCU, reason="needs dcmtk"),
    pytest.mark.skipif(not ORTHANC, reason="needs Orthanc"),
]


def test_kill_9_of_everything_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Three senders; receiver, worker, outbox and supervisor are killed while they send and after."""
    pytest.importorskip("onnxruntime")
    count, seed = 60, random.randrange(1000)
    choose = random.Random(seed)
    folders = [tmp_path / f"in{series}" for series in (1, 2, 3)]
    for series, folder in enumerate(folders, start=1):
        write_series(folder, count, series)
    acknowledged: dict[int, set[str]] = {1: set(), 2: set(), 3: set()}

    def send(series: int) -> None:
        while len(acknowledged[series]) < count:  # a site sends again what failed
            acknowledged[series] |= storescu(folders[series - 1], node.port)
            time.sleep(0.2)

    with Orthanc(tmp_path / "orthanc") as pacs, Node(tmp_path, destination(pacs.port)) as node:
        node.start()
        senders = [threading.Thread(target=send, args=(series,)) for series in (1, 2, 3)]
        for sender in senders:
            sender.start()
        for name in ("receiver", "worker", "outbox", "supervisor"):
            time.sleep(choose.uniform(0.1, 0.6))
            node.kill(name)
            if name == "supervisor":
                node.start(ready=False)
        for sender in senders:
            sender.join(120)
        wait_for(f"every slice is in a result (seed {seed})", lambda: _covered(node) == 3 * count, 90)
        node.kill("worker")
        node.kill("outbox")
        wait_for("all is delivered", lambda: not node.undelivered() and _settled(node), 60)
        for manifest in node.latest():
            uids = [each.sop_uid for each in manifest.slices]
            assert len(uids) == len(set(uids)) == count
        expected = {each.sop_instance for manifest in node.manifests() for each in manifest.objects}
        assert sorted(pacs.uids()) == sorted(expected)
        assert node.stop() == 0


def _covered(node: Node) -> int:
    """Slices in the newest results, those in two counted twice."""
    return sum(len(manifest.slices) for manifest in node.latest())


def _settled(node: Node) -> bool:
    return all((path.parent / "queued").exists() for path in node.data.glob("results/*/r*/manifest.json"))


def test_late_slices_loops_and_a_sink_that_is_down(tmp_path: Path) -> None:
    """One node, one archive that sends everything it gets back to the node."""
    pytest.importorskip("onnxruntime")
    loop = """
function OnStoredInstance(id, tags, metadata, origin)
   if tags['Modality'] ~= 'CT' then RestApiPost('/modalities/n2q/store', id) end
end
"""
    files = write_series(tmp_path / "in", 6)
    late = files.pop()
    late.rename(tmp_path / "late.dcm")
    (tmp_path / "more").mkdir()
    with Node(tmp_path) as node:
        with Orthanc(tmp_path / "orthanc", node.port, loop) as pacs:
            node.config.write_text(node.config.read_text() + destination(pacs.port, commitment=True))
            node.start()
            storescu(tmp_path / "in", node.port)
            wait_for("a first result in the archive", lambda: len(pacs.uids("SR")) == 1)
            _look_at(node)
            (tmp_path / "late.dcm").rename(tmp_path / "more" / "late.dcm")
            storescu(tmp_path / "more", node.port)
            wait_for("a second result in the archive", lambda: len(pacs.uids("SR")) == 2)
            wait_for("our own objects came back", lambda: _dropped(node) >= 2)
            first, second = node.manifests()
            assert (len(first.slices), len(second.slices)) == (5, 6)
            reports = [pacs.get(f"instances/{name}/tags?simplify") for name in pacs.get("instances")]
            newest = next(
                tags for tags in reports
                if tags["Modality"] == "SR" and "PredecessorDocumentsSequence" in tags
            )  # fmt: skip
            referenced = newest["PredecessorDocumentsSequence"][0]["ReferencedSeriesSequence"][0]
            before = next(each.sop_instance for each in first.objects if each.kind == "report")
            assert referenced["ReferencedSOPSequence"][0]["ReferencedSOPInstanceUID"] == before
            wait_for("the archive has committed to keep all of it", lambda: node.undelivered() == 0)
        write_series(tmp_path / "in2", 4, series=2)
        storescu(tmp_path / "in2", node.port)  # the archive is down now
        wait_for("a delivery that waits", lambda: node.undelivered() == 1)
        assert len(node.latest()) == 2
        assert '"errors"' not in node.get("metrics")


def _look_at(node: Node) -> None:
    """The page of a technologist: a link to the report, and nobody's name."""
    page = node.get("")
    link = page.partition('<a href="series/')[2].partition('"')[0]
    assert "<html" in node.get(f"series/{link}")
    for hidden in ("Phantom", "WATER", ROOT, "<script"):
        assert hidden not in page


def _dropped(node: Node) -> float:
    for line in node.get("metrics").splitlines():
        if line.startswith("n2q_edge_own_results_dropped_total"):
            return float(line.split()[-1])
    return 0.0


def test_sigterm_drains_and_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    write_series(tmp_path / "in", 40)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Node(tmp_path) as node:
            node.start()
            told = bytearray()
            for word in (b"WATCHDOG=1", b"READY=1"):
                wait_for(f"systemd is told {word!r}", lambda: told.extend(_read(systemd)) or word in told)  # noqa: B023
            acknowledged: set[str] = set()
            sender = threading.Thread(
                target=lambda: acknowledged.update(storescu(tmp_path / "in", node.port))
            )
            sender.start()
            wait_for("an association", lambda: "CT1" in node.get(""))
            assert node.stop() == 0
            sender.join(30)
            assert b"STOPPING=1" in _read(systemd)
        assert len(acknowledged) == 40
        kept = list(node.data.rglob("*.dcm"))
        assert len(kept) >= 40


def _read(notified: socket.socket) -> bytes:
    text = b""
    notified.setblocking(False)
    try:
        while True:
            text += notified.recv(100) + b" "
    except BlockingIOError:
        return text
