"""A series while it arrives, and what the worker asks of whoever assesses it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from n2q_edge.service.revisions import Manifest, SliceEntry, WrittenObject


@dataclass(frozen=True)
class Outcome:
    """What came of one file.

    Attributes:
        code: `assessed`, or the code of the reason it was not.
        digest: SHA-256 of its data set.
        content: what `Assessor.write` needs of it.
    """

    code: str
    digest: str
    content: Any = field(repr=False)


@dataclass(frozen=True)
class Written:
    """What `Assessor.write` wrote into a folder.

    Attributes:
        objects: the DICOM objects.
        summary: for the status page; `verdict`, `verdict_word`, `noise_hu`, `protocol`, ...
        model: name, version and SHA-256.
    """

    objects: tuple[WrittenObject, ...]
    summary: dict[str, Any]
    model: dict[str, Any]


class Assessor(Protocol):
    """All that the worker knows of assessing."""

    def submit(self, path: Path) -> Future[Outcome]:
        """Assess one file on a thread; never raises but for a bug."""

    def write(
        self, folder: Path, outcomes: Iterable[Outcome], revision: int, predecessor: str | None
    ) -> Written:
        """Write the result of a series into an empty folder.

        Raises:
            N2QError: it cannot be written.
        """

    def add_dose(self, path: Path) -> str:
        """Add a dose report to the trend database: `stored`, `no_database`, `not_dose`, `failed`."""


@dataclass
class Item:
    """One file of an open series."""

    path: Path
    sop_uid: str
    arrived: float
    work: Future[Outcome]


@dataclass
class OpenSeries:
    """A series that has slices without a result."""

    key: str
    series_uid: str
    study_uid: str
    protocol: str
    scanner: str
    items: dict[str, Item] = field(default_factory=dict)
    associations: set[str] = field(default_factory=set)
    pending_since: float = 0.0
    last: float = 0.0
    conflicts: int = 0
    asked: bool = False
    retry_at: float = 0.0
    shown: tuple[int, int] = (0, 0)  # done and received, as the index has it
    closed_by: str = ""
    writing: Future[Manifest] | None = None

    @property
    def done(self) -> int:
        """Files that are through."""
        return sum(item.work.done() for item in self.items.values())


def manifest_of(series: OpenSeries, revision: int, written: Written) -> Manifest:
    """The account of a result: every file of the series, and what was written."""
    now = time.time()
    entries = []
    for item in series.items.values():
        outcome = item.work.result()
        entries.append(SliceEntry(item.sop_uid, outcome.digest, item.path.name, item.arrived, outcome.code))
    return Manifest(
        series_key=series.key,
        series_uid=series.series_uid,
        study_uid=series.study_uid,
        revision=revision,
        created=now,
        latency_s=max(0.0, now - series.last),
        closed_by=series.closed_by,
        model=written.model,
        conflicts=series.conflicts,
        slices=tuple(entries),
        objects=written.objects,
        summary={"protocol": series.protocol, "scanner": series.scanner, **written.summary},
    )
