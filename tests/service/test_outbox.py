"""Deliveries: what is sent, what is tried again, what is given up; with peers made here."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel

from n2q_edge.service import delivery
from n2q_edge.service import outbox as module
from n2q_edge.service.outbox import Outbox, queue, read_entries, retry_dead, wait_s
from n2q_edge.service.revisions import Manifest, Results, WrittenObject
from n2q_edge.service.settings import Destination, Email, Node, Retry, Settings
from tests.helpers.node_files import slice_dataset

KEY = "0123456789abcdef01234567"


def result(data: Path, revision: int = 1, numbers: tuple[int, ...] = (1, 2), **summary: Any) -> Manifest:
    """A result of two objects on the disk; its manifest."""
    results = Results(data)
    part = results.begin(KEY, revision)
    objects = []
    for number in numbers:
        dataset = slice_dataset(number)
        dataset.save_as(part / f"{number}.dcm", enforce_file_format=True)
        kind = "report" if number == numbers[0] else "overlay"
        objects.append(WrittenObject(kind, f"{number}.dcm", CTImageStorage, dataset.SOPInstanceUID))
    (part / "report.html").write_text("report")
    said = {"slices": 2, "verdict": "unusable", "verdict_word": "Unusable", "station": "CT1", "rule": "r"}
    said |= summary
    manifest = Manifest(
        KEY, "1.2.3", "1.2", revision, 0.0, 1.0, "quiet", {"name": "m"}, 0, (), tuple(objects), said
    )  # fmt: skip
    results.commit(part, manifest)
    return manifest


def settings(data: Path, *destinations: Destination, **more: Any) -> Settings:
    return Settings(node=Node(data=str(data)), destination=destinations, **more)


class Archive:
    """A C-STORE SCP that answers what it is told to."""

    def __init__(self, *statuses: int, commits: bool | None = None) -> None:
        self.got: list[str] = []
        self._statuses = list(statuses)
        self._commits = commits
        ae = AE("PACS")
        ae.add_supported_context(CTImageStorage)
        ae.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def _store(self, event: evt.Event) -> int:
        status = self._statuses.pop(0) if self._statuses else 0
        if status == 0:
            self.got.append(str(event.request.AffectedSOPInstanceUID))
        return status

    def _action(self, event: evt.Event) -> tuple[int, None]:
        self.asked = event.action_information
        return 0x0000, None

    def destination(self, **changes: Any) -> Destination:
        fields = {"name": "pacs", "kind": "dicom", "host": "127.0.0.1", "port": self.port, "ae_title": "PACS"}
        return Destination(**{**fields, "timeout_s": 5.0, **changes})

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def archive() -> Iterator[Archive]:
    made = Archive()
    yield made
    made.close()


def run_once(config: Settings) -> int:
    return Outbox(config).step(config.destination[0])


def test_a_result_is_sent_once(tmp_path: Path, archive: Archive) -> None:
    config = settings(tmp_path, archive.destination())
    manifest = result(tmp_path)
    queue(config, manifest)
    assert run_once(config) == 1
    queue(config, manifest)  # the worker died before it noted that it had done so
    assert run_once(config) == 0
    assert archive.got == [each.sop_instance for each in manifest.objects]


def test_only_the_kinds_asked_for(tmp_path: Path, archive: Archive) -> None:
    config = settings(tmp_path, archive.destination(objects=("report",)))
    manifest = result(tmp_path)
    queue(config, manifest)
    run_once(config)
    assert archive.got == [manifest.objects[0].sop_instance]


def test_a_revision_sends_what_is_new(tmp_path: Path, archive: Archive) -> None:
    config = settings(tmp_path, archive.destination())
    first, second = result(tmp_path), result(tmp_path, 2, (3, 2))
    for each in (first, second):
        queue(config, each)
    run_once(config)
    numbers = [uid.rpartition(".")[2] for uid in archive.got]
    assert numbers == ["1", "2", "3"]  # 2 is an overlay that did not change


def test_waits_double_from_five_seconds_to_fifteen_minutes() -> None:
    waits = [wait_s(Retry(), attempts) for attempts in range(1, 11)]
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]


def test_a_peer_without_resources_is_asked_again(tmp_path: Path) -> None:
    archive = Archive(0x0000, 0xA700)
    config = settings(tmp_path, archive.destination(), retry=Retry(first_s=0.0))
    queue(config, result(tmp_path))
    assert run_once(config) == 0
    (entry,) = read_entries(tmp_path, "pending")
    assert entry.attempts == 1
    assert "A700" in entry.error
    assert run_once(config) == 1
    assert len(set(archive.got)) == 2
    archive.close()


def test_a_peer_that_is_down_is_tried_later_and_given_up_in_the_end(tmp_path: Path) -> None:
    nobody = Destination(name="pacs", kind="dicom", host="127.0.0.1", port=1, ae_title="PACS", timeout_s=1.0)
    config = settings(tmp_path, nobody)
    queue(config, result(tmp_path))
    run_once(config)
    (entry,) = read_entries(tmp_path, "pending")
    assert entry.next - module.time.time() == pytest.approx(5.0, abs=2.0)
    config = settings(tmp_path, nobody, retry=Retry(first_s=0.0, give_up_h=0.0))
    (tmp_path / "outbox" / "pending" / entry.file).unlink()
    queue(config, result(tmp_path, 2, (3,)))
    run_once(config)
    assert not read_entries(tmp_path, "pending")
    assert len(read_entries(tmp_path, "dead")) == 1
    assert retry_dead(tmp_path) == 1
    assert [each.attempts for each in read_entries(tmp_path, "pending")] == [0]


def test_commitment_is_waited_for(tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "COMMITMENT_WAIT_S", 0.0)
    monkeypatch.setattr(delivery, "COMMITMENT_POLL_S", 0.0)
    config = settings(tmp_path, archive.destination(commitment=True))
    manifest = result(tmp_path)
    queue(config, manifest)
    assert run_once(config) == 0
    (entry,) = read_entries(tmp_path, "pending")
    assert entry.transaction == archive.asked.TransactionUID
    assert len(archive.asked.ReferencedSOPSequence) == 2
    assert run_once(config) == 0  # no answer yet
    assert delivery.commitment.record(tmp_path, archive.asked, 1) == 0x0000
    assert run_once(config) == 1
    assert len(archive.got) == 2


def test_commitment_that_is_refused_sends_again(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "COMMITMENT_WAIT_S", 0.0)
    monkeypatch.setattr(delivery, "COMMITMENT_POLL_S", 0.0)
    config = settings(tmp_path, archive.destination(commitment=True), retry=Retry(first_s=0.0))
    queue(config, result(tmp_path))
    run_once(config)
    delivery.commitment.record(tmp_path, archive.asked, 2)
    run_once(config)
    (entry,) = read_entries(tmp_path, "pending")
    assert "commit" in entry.error
    run_once(config)
    assert len(archive.got) == 4


def test_commitment_that_is_never_answered_sends_again(
    tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "COMMITMENT_WAIT_S", 0.0)
    monkeypatch.setattr(delivery, "COMMITMENT_POLL_S", 0.0)
    retry = Retry(first_s=0.0, longest_s=900.0)
    config = settings(tmp_path, archive.destination(commitment=True), retry=retry)
    queue(config, result(tmp_path))
    for _ in range(3):
        run_once(config)
    assert len(archive.got) == 2
    now = delivery.time.time
    monkeypatch.setattr(delivery.time, "time", lambda: now() + 901)
    run_once(config)
    (entry,) = read_entries(tmp_path, "pending")
    assert "commit" in entry.error
    run_once(config)
    assert len(archive.got) == 4


def test_an_answer_nobody_asked_for_is_no_answer(tmp_path: Path) -> None:
    information = slice_dataset(1)
    information.TransactionUID = "1.2.3"
    assert delivery.commitment.record(tmp_path, information, 1) != 0x0000


def test_a_folder(tmp_path: Path) -> None:
    config = settings(tmp_path / "d", Destination(name="f", kind="folder", folder=str(tmp_path / "out")))
    queue(config, result(tmp_path / "d"))
    assert run_once(config) == 1
    copied = tmp_path / "out" / f"{KEY}-r001"
    assert {path.name for path in copied.iterdir()} == {"1.dcm", "2.dcm", "report.html", "manifest.json"}


class Web:
    """An HTTP server that keeps what is posted."""

    def __init__(self, status: int = 200, answer: bytes = b"{}") -> None:
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                web.posts.append((self.path, dict(self.headers), body))
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/dicom-web"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_a_webhook_gets_no_name_and_no_path(tmp_path: Path) -> None:
    web = Web()
    config = settings(tmp_path, Destination(name="w", kind="webhook", url=web.url))
    queue(config, result(tmp_path))
    assert run_once(config) == 1
    content = json.loads(web.posts[0][2])
    assert content["series_instance_uid"] == "1.2.3"
    assert content["summary"]["verdict"] == "unusable"
    assert str(tmp_path) not in web.posts[0][2].decode()
    web.close()


def test_stow(tmp_path: Path) -> None:
    web = Web(answer=b'{"00081199": {"vr": "SQ", "Value": []}}')
    token = tmp_path / "token"
    token.write_text("secret\n")
    config = settings(
        tmp_path / "d", Destination(name="s", kind="stow", url=web.url, token_file=str(token), timeout_s=5.0)
    )
    queue(config, result(tmp_path / "d"))
    assert run_once(config) == 1
    path, headers, body = web.posts[0]
    assert path == "/dicom-web/studies"
    assert headers["Authorization"] == "Bearer secret"
    assert body.count(b"DICM") == 2
    web.close()


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (503, b"{}"),
        (202, b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}'),
    ],
)
def test_stow_that_fails_is_tried_again(tmp_path: Path, status: int, answer: bytes) -> None:
    web = Web(status, answer)
    config = settings(tmp_path, Destination(name="s", kind="stow", url=web.url, timeout_s=5.0))
    queue(config, result(tmp_path))
    assert run_once(config) == 0
    (entry,) = read_entries(tmp_path, "pending")
    assert entry.error
    web.close()


class MailServer(socketserver.StreamRequestHandler):
    """As much SMTP as smtplib needs."""

    mails: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 hello\r\n")
        while line := self.rfile.readline().strip().upper():
            if line.startswith(b"DATA"):
                self.wfile.write(b"354 go\r\n")
                text = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    text += part
                self.server.mails.append(text.decode())  # type: ignore[attr-defined]
            self.wfile.write(b"250 ok\r\n" if not line.startswith(b"QUIT") else b"221 bye\r\n")


def test_mail_has_a_cool_down_for_each_scanner_and_rule(tmp_path: Path) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer) as server:
        server.mails = []  # type: ignore[attr-defined]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        email = Email(server="127.0.0.1", port=server.server_address[1], sender="n2q@x.org", to=("qa@x.org",))
        config = settings(tmp_path, email=email)
        stories = [{}, {}, {"station": "CT2"}, {"rule": "other"}, {"verdict": "usable", "station": "CT3"}]
        for revision, summary in enumerate(stories, start=1):
            queue(config, result(tmp_path, revision, **summary))
        assert Outbox(config).step(module.EMAIL) == 5
        server.shutdown()
        subjects = [line for mail in server.mails for line in mail.splitlines() if line.startswith("Subject")]  # type: ignore[attr-defined]
    assert subjects == [
        "Subject: n2q-edge: Unusable (CT1 / r)",
        "Subject: n2q-edge: Unusable (CT2 / r)",
        "Subject: n2q-edge: Unusable (CT1 / other)",
    ]
