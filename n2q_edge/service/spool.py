"""The spool: what was acknowledged is here, whole and on the disk. It is the truth; the index can be rebuilt.

    incoming/tmp/   being written
    incoming/new/   acknowledged, not looked at yet
    associations/   one empty file for every open association
    closing/        one empty file for every series somebody said is complete
    series/KEY/     the slices of a series; KEY is a hash of its Series Instance UID
    doses/          dose reports
    conflicts/      other bytes under a SOP Instance UID that is known; the first copy is kept

Names are our own: the association's random identifier, a counter and a random part. Nothing of a name comes
from a peer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from n2q_edge.errors import OutputError

FOLDERS = ("incoming/tmp", "incoming/new", "associations", "closing", "series", "doses", "conflicts")


class DirectorySync:
    """fsync of a folder, one for all who wait: a rename is on the disk only after it."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._condition = threading.Condition()
        self._asked = 0  # renames done
        self._done = 0  # renames known to be on the disk
        self._busy = False

    def wait(self) -> None:
        """Return when every rename before this call is on the disk."""
        with self._condition:
            self._asked += 1
            mine = self._asked
            while self._done < mine:
                if self._busy:
                    self._condition.wait()
                    continue
                self._sync()

    def _sync(self) -> None:
        """One fsync, with the lock released while it runs."""
        covered, self._busy = self._asked, True
        self._condition.release()
        try:
            os.fsync(self._descriptor)
        finally:
            self._condition.acquire()
            self._busy = False
            self._condition.notify_all()
        self._done = max(self._done, covered)

    def close(self) -> None:
        """Close the folder."""
        os.close(self._descriptor)


class Spool:
    """The folders, and how a file gets into them."""

    def __init__(self, root: Path) -> None:
        """Make the folders.

        Raises:
            OutputError: they cannot be made.
        """
        self.root = root
        try:
            for name in FOLDERS:
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make the spool {root}: {error.strerror}; choose another folder"
            ) from None
        self.new = root / "incoming" / "new"
        self.temporary = root / "incoming" / "tmp"
        self._sync = DirectorySync(self.new)

    # ------------------------------------------------------------------------------------------- receiving

    def clean(self) -> int:
        """Remove what a killed receiver left: half-written files, marks of associations. Their number."""
        removed = 0
        for folder in (self.temporary, self.root / "associations"):
            for path in folder.iterdir():
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed += 1
        return removed

    def create(self) -> tuple[int, Path]:
        """A new temporary file: its descriptor and path. OSError if the disk is full."""
        path = self.temporary / secrets.token_hex(16)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(path, flags, 0o600), path

    def store(self, pieces: Iterable[bytes | memoryview], association: str, number: int) -> None:
        """Write an object and return when it is on the disk under its name.

        Raises:
            OSError: it is not, and nothing of it is left.
        """
        descriptor, path = self.create()
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for piece in pieces:
                    _write_all(file.fileno(), piece)
                os.fsync(file.fileno())
            self.publish(path, association, number)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def publish(self, path: Path, association: str, number: int) -> None:
        """Give a temporary file that is on the disk its name, and see that the name is, too."""
        path.rename(self.new / f"{association}-{number:06d}-{secrets.token_hex(8)}.dcm")
        self._sync.wait()

    def free_mb(self) -> float:
        """Free space of the disk, MB."""
        return shutil.disk_usage(self.root).free / 1e6

    @contextlib.contextmanager
    def association(self) -> Iterator[str]:
        """The identifier of a new association, marked as open within the block."""
        identifier = self.open_association()
        try:
            yield identifier
        finally:
            self.close_association(identifier)

    def open_association(self) -> str:
        """Mark a new association as open; its identifier."""
        identifier = secrets.token_hex(8)
        with contextlib.suppress(OSError):  # on a full disk a series only closes earlier
            (self.root / "associations" / identifier).touch()
        return identifier

    def close_association(self, identifier: str) -> None:
        """The association is over."""
        with contextlib.suppress(OSError):
            (self.root / "associations" / identifier).unlink()

    def open_associations(self) -> set[str]:
        """Identifiers of the associations that are open."""
        return {path.name for path in (self.root / "associations").iterdir()}

    # -------------------------------------------------------------------------------------------- working

    def arrived(self) -> list[Path]:
        """Acknowledged files nobody has looked at, in the order they came within an association."""
        with os.scandir(self.new) as scan:
            names = sorted(entry.name for entry in scan)
        return [self.new / name for name in names]

    def series_folder(self, series_uid: str) -> Path:
        """Where the slices of a series lie; made if it is not there."""
        folder = self.root / "series" / series_key(series_uid)
        folder.mkdir(exist_ok=True)
        return folder

    def ask_to_close(self, series_uid: str) -> None:
        """Somebody who must know says that a series is complete."""
        (self.root / "closing" / series_key(series_uid)).touch()

    def take_closing(self) -> set[str]:
        """Keys of series said to be complete; each is told once."""
        marks = list((self.root / "closing").iterdir())
        for mark in marks:
            mark.unlink(missing_ok=True)
        return {mark.name for mark in marks}

    def close(self) -> None:
        """Close what is open."""
        self._sync.close()


def association_of(path: Path) -> str:
    """Identifier of the association that brought a file."""
    return path.name.partition("-")[0]


def series_key(series_uid: str) -> str:
    """A name for a series that says nothing about it: part of the SHA-256 of its UID."""
    return hashlib.sha256(series_uid.encode("utf-8")).hexdigest()[:24]


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
