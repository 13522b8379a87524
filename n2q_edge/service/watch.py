"""Take files from a folder as if they had been sent. Polled: inotify is silent on network shares.

A file is taken when its size and time have not changed for a while. What is no DICOM file goes to
`.n2q-edge-quarantine/` in the folder, what cannot be copied is tried again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from n2q_edge.service import metrics
from n2q_edge.service.settings import Watch
from n2q_edge.service.spool import Spool

log = logging.getLogger("n2q_edge.receiver")

QUARANTINE = ".n2q-edge-quarantine"
PIECE = 1 << 20


class Watcher:
    """The thread that looks into the folder; none if no folder is named."""

    def __init__(self, watch: Watch, spool: Spool) -> None:
        self._watch, self._spool = watch, spool
        self._folder = Path(watch.folder)
        self._known: dict[str, tuple[tuple[int, int], float]] = {}  # path: (size, mtime), since when
        self._number = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        if self._watch.folder:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop looking; a file being copied is finished."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except OSError as error:
                log.error("cannot look into the watch folder", extra={"error": error.strerror})
            self._stop.wait(self._watch.poll_s)

    def look(self) -> int:
        """Take every file that is settled; how many were taken."""
        settled, now, present = [], time.monotonic(), set()
        for entry in _files(str(self._folder)):
            status = entry.stat(follow_symlinks=False)
            state = (status.st_size, status.st_mtime_ns)
            present.add(entry.path)
            known = self._known.get(entry.path)
            if known is None or known[0] != state:
                self._known[entry.path] = (state, now)
            elif now - known[1] >= self._watch.settle_s:
                settled.append(Path(entry.path))
        for gone in set(self._known) - present:
            del self._known[gone]
        if not settled:
            return 0
        with self._spool.association() as association:
            return sum(self._take(path, association) for path in settled)

    def _take(self, path: Path, association: str) -> bool:
        """Copy one file into the spool, then remove it."""
        try:
            with path.open("rb") as file:
                if file.read(132)[128:] != b"DICM":
                    return self._quarantine(path)
                file.seek(0)
                self._number += 1
                self._spool.store(iter(lambda: file.read(PIECE), b""), association, self._number)
            path.unlink()
        except OSError as error:
            metrics.WATCHED.labels("failed").inc()
            log.error("cannot take a file of the watch folder", extra={"error": error.strerror})
            return False
        self._known.pop(str(path), None)
        metrics.WATCHED.labels("taken").inc()
        return True

    def _quarantine(self, path: Path) -> bool:
        folder = self._folder / QUARANTINE
        folder.mkdir(exist_ok=True)
        path.rename(folder / f"{time.time_ns()}-{path.name}")
        metrics.WATCHED.labels("quarantined").inc()
        log.warning("a file of the watch folder is no DICOM file: it is in quarantine")
        return False


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    """All files of a tree, hidden ones and links not."""
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry
