"""The process that sends results on: one small file for every result and destination, until it is delivered.

    outbox/pending/NAME@DESTINATION.json
    outbox/sent/      receipts: a result is queued for a destination once
    outbox/dead/      given up; `listen --retry` puts them back

A process that dies between a delivery and its receipt delivers again: the same UIDs, so the peer has it once.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from n2q_edge.errors import N2QError
from n2q_edge.files import write_text
from n2q_edge.service import metrics
from n2q_edge.service.delivery import DeliveryError, NotYet, deliver
from n2q_edge.service.process import HEARTBEAT_S, beat
from n2q_edge.service.revisions import Manifest, Results
from n2q_edge.service.settings import Destination, Retry, Settings

log = logging.getLogger("n2q_edge.outbox")

FOLDERS = ("pending", "sent", "dead")
EMAIL = Destination(name="email", kind="email")
POLL_S = 0.2


@dataclass(frozen=True)
class Entry:
    """One delivery.

    Attributes:
        series_key: of the result.
        revision: of the result.
        destination: name.
        first: when it was queued, seconds since 1970.
        next: when it is tried next.
        attempts: made so far.
        error: of the last one.
        transaction: UID of a request for storage commitment that is not answered yet.
        asked: when it was made, seconds since 1970.
    """

    series_key: str
    revision: int
    destination: str
    first: float
    next: float
    attempts: int = 0
    error: str = ""
    transaction: str = ""
    asked: float = 0.0

    @property
    def file(self) -> str:
        """Its name."""
        return f"{self.series_key}-r{self.revision:03d}@{self.destination}.json"


def destinations(settings: Settings) -> tuple[Destination, ...]:
    """All that is delivered to, e-mail included."""
    return (*settings.destination, *([EMAIL] if settings.email.server else []))


def queue(settings: Settings, manifest: Manifest) -> None:
    """Queue a result for every destination it is not queued for yet.

    Raises:
        OutputError: an entry cannot be written.
    """
    root = make_folders(settings.data)
    if manifest.summary.get("slices"):
        now = time.time()
        for destination in destinations(settings):
            entry = Entry(manifest.series_key, manifest.revision, destination.name, now, now)
            if not any((root / folder / entry.file).exists() for folder in FOLDERS):
                write_text(root / "pending" / entry.file, json.dumps(asdict(entry)))


def make_folders(data: Path) -> Path:
    """The outbox of a node."""
    for folder in FOLDERS:
        (data / "outbox" / folder).mkdir(parents=True, exist_ok=True)
    return data / "outbox"


def read_entries(data: Path, folder: str) -> list[Entry]:
    """Entries of `pending` or `dead`, the oldest first; damaged ones are left out."""
    entries = []
    for path in (data / "outbox" / folder).glob("*.json"):
        try:
            entries.append(Entry(**json.loads(path.read_text("utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(entries, key=lambda entry: entry.first)


def series_with_deliveries(data: Path) -> set[str]:
    """Keys of series with a result that is not delivered."""
    return {entry.series_key for folder in ("pending", "dead") for entry in read_entries(data, folder)}


def retry_dead(data: Path) -> int:
    """Put all dead letters back; how many."""
    root, now = make_folders(data), time.time()
    entries = read_entries(data, "dead")
    for entry in entries:
        fresh = Entry(entry.series_key, entry.revision, entry.destination, now, now)
        write_text(root / "pending" / entry.file, json.dumps(asdict(fresh)))
        (root / "dead" / entry.file).unlink()
    return len(entries)


def wait_s(retry: Retry, attempts: int) -> float:
    """How long to wait after so many failed attempts."""
    return min(retry.longest_s, retry.first_s * 2.0 ** min(attempts - 1, 30))


class Outbox:
    """Delivers what is due; `step` for one destination at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = make_folders(settings.data)
        self._results = Results(settings.data)

    def step(self, destination: Destination) -> int:
        """Deliver everything that is due to one destination; how much was."""
        now = time.time()
        due = [
            entry
            for entry in read_entries(self._settings.data, "pending")
            if entry.destination == destination.name and entry.next <= now
        ]
        return sum(self._deliver(entry, destination) for entry in due)

    def _deliver(self, entry: Entry, destination: Destination) -> bool:
        try:
            deliver(self._settings, destination, self._results, entry)
        except NotYet as waiting:
            now = time.time()
            asked = entry.asked if entry.transaction == waiting.transaction else now
            self._write(entry, next=now + waiting.seconds, transaction=waiting.transaction, asked=asked)
            return False
        except (DeliveryError, N2QError, OSError) as error:
            self._failed(entry, str(error))
            return False
        metrics.DELIVERIES.labels(destination.name, "delivered").inc()
        log.info("delivered", extra={"result": entry.file, "attempts": entry.attempts + 1})
        self._move(entry, "sent")
        return True

    def _failed(self, entry: Entry, error: str) -> None:
        metrics.DELIVERIES.labels(entry.destination, "failed").inc()
        attempts = entry.attempts + 1
        log.warning("not delivered", extra={"result": entry.file, "attempts": attempts, "error": error})
        if time.time() - entry.first > self._settings.retry.give_up_h * 3600:
            self._write(entry, attempts=attempts, error=error)
            self._move(entry, "dead")
            log.error("given up: a dead letter", extra={"result": entry.file})
            return
        wait = wait_s(self._settings.retry, attempts)
        self._write(entry, attempts=attempts, error=error, next=time.time() + wait, transaction="")

    def _write(self, entry: Entry, **changes: object) -> None:
        content = asdict(entry) | changes
        write_text(self._root / "pending" / entry.file, json.dumps(content))

    def _move(self, entry: Entry, folder: str) -> None:
        (self._root / "pending" / entry.file).replace(self._root / folder / entry.file)


def work(settings: Settings, stop: threading.Event) -> None:
    """Deliver until `stop` is set: a thread a destination, so that one that is down delays no other."""
    outbox = Outbox(settings)

    def run(destination: Destination) -> None:
        while not stop.is_set():
            try:
                outbox.step(destination)
            except (N2QError, OSError) as error:
                log.error("the outbox cannot be used", extra={"error": str(error)})
            stop.wait(POLL_S)

    threads = [
        threading.Thread(target=run, args=(each,), name=each.name, daemon=True)
        for each in destinations(settings)
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(HEARTBEAT_S):
        beat(settings.data, "outbox")
    for thread in threads:
        thread.join(timeout=25)
    log.info("stopped")
