"""Results on the disk: `results/KEY/rNNN/`, each with a `manifest.json` that says which slices it is of.

A folder appears whole, by a rename, when everything in it is on the disk. It is never changed afterwards but
for the empty file `queued`, which says that its deliveries are in the outbox.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
QUEUED = "queued"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SliceEntry:
    """One object of a series.

    Attributes:
        sop_uid: SOP Instance UID.
        digest: SHA-256 of its data set.
        file: its name in the spool.
        arrived: seconds since 1970.
        outcome: `assessed`, or the code of the reason it is not.
    """

    sop_uid: str
    digest: str
    file: str
    arrived: float
    outcome: str


@dataclass(frozen=True)
class WrittenObject:
    """A DICOM object of a result: kind, path in the folder, SOP Class and Instance UID."""

    kind: str
    file: str
    sop_class: str
    sop_instance: str


@dataclass(frozen=True)
class Manifest:
    """What a result is of, and what came out.

    Attributes:
        series_key: hash of the Series Instance UID.
        series_uid: Series Instance UID.
        study_uid: Study Instance UID.
        revision: from 1.
        created: seconds since 1970.
        latency_s: from the arrival of its last slice.
        closed_by: `quiet`, `cap`, `asked` or `drain`.
        model: name, version and SHA-256.
        conflicts: objects that came under a UID known with other bytes.
        slices: every object received of the series.
        objects: the DICOM objects in the folder.
        summary: what the status page shows: verdict, noise, protocol, ...
    """

    series_key: str
    series_uid: str
    study_uid: str
    revision: int
    created: float
    latency_s: float
    closed_by: str
    model: dict[str, Any]
    conflicts: int
    slices: tuple[SliceEntry, ...]
    objects: tuple[WrittenObject, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def name(self) -> str:
        """KEY-rNNN: names the result in the outbox."""
        return f"{self.series_key}-r{self.revision:03d}"

    @property
    def report_uid(self) -> str | None:
        """SOP Instance UID of its structured report."""
        return next((each.sop_instance for each in self.objects if each.kind == "report"), None)


class Results:
    """The folder of all results."""

    def __init__(self, data: Path) -> None:
        self.root = data / "results"
        self.root.mkdir(parents=True, exist_ok=True)

    def folder(self, key: str, revision: int) -> Path:
        """Where a result is or will be."""
        return self.root / key / f"r{revision:03d}"

    def latest(self, key: str) -> Manifest | None:
        """The newest result of a series."""
        revision = self.newest(key)
        return self.read(self.folder(key, revision)) if revision else None

    def newest(self, key: str) -> int:
        """Number of the newest revision; 0 if there is none."""
        folders = (self.root / key).glob("r[0-9]*")
        return max((int(path.name[1:]) for path in folders if path.name[1:].isdigit()), default=0)

    def begin(self, key: str, revision: int) -> Path:
        """An empty folder to write a result into."""
        part = self.root / key / f".r{revision:03d}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        return part

    def commit(self, part: Path, manifest: Manifest) -> Path:
        """Bring a result to the disk and give it its name. OSError if the disk is full."""
        (part / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1), "utf-8")
        for path in part.rglob("*"):
            _sync(path)
        _sync(part)
        final = self.folder(manifest.series_key, manifest.revision)
        part.rename(final)
        _sync(final.parent)
        return final

    def read(self, folder: Path) -> Manifest:
        """The manifest of a result. OSError or ValueError if it cannot be read."""
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
        content["slices"] = tuple(SliceEntry(**each) for each in content["slices"])
        content["objects"] = tuple(WrittenObject(**each) for each in content["objects"])
        return Manifest(**content)

    def all(self) -> Iterator[Path]:
        """Folders of all results, in the order of series and revision."""
        yield from sorted(path.parent for path in self.root.glob(f"*/r*/{MANIFEST}"))

    def clean(self) -> None:
        """Remove what a killed worker has half written."""
        for part in self.root.glob("*/.r*.part"):
            shutil.rmtree(part, ignore_errors=True)


def mark_queued(folder: Path) -> None:
    """The deliveries of a result are in the outbox."""
    (folder / QUEUED).touch()


def is_queued(folder: Path) -> bool:
    """Whether `mark_queued` was called."""
    return (folder / QUEUED).exists()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
