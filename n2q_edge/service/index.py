"""The index: one SQLite file for what would take long to look up in the spool, and for the status page.

It holds nothing that is not in the spool or in the results: the worker makes it anew when it starts. Only the
worker writes to it.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from n2q_edge.service.revisions import Manifest, SliceEntry

FILE = "index.sqlite"

SCHEMA = """
CREATE TABLE slice (sop_uid TEXT PRIMARY KEY, series_key TEXT NOT NULL, digest TEXT NOT NULL,
    arrived REAL NOT NULL, outcome TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX slice_series ON slice (series_key);
CREATE TABLE series (key TEXT PRIMARY KEY, state TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL,
    revision INTEGER NOT NULL, received INTEGER NOT NULL, done INTEGER NOT NULL, latency_s REAL,
    summary TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX series_last ON series (last);
"""


@dataclass(frozen=True)
class SeriesRow:
    """A series as the status page shows it.

    Attributes:
        key: hash of its UID.
        state: `arriving`, `closing` or `done`.
        first: arrival of its first slice, seconds since 1970.
        last: arrival of its last slice.
        revision: of its newest result; 0 if there is none.
        received: objects.
        done: of them, those that went through the model or were skipped.
        latency_s: from the last slice to the newest result.
        summary: see `Manifest`.
    """

    key: str
    state: str
    first: float
    last: float
    revision: int
    received: int
    done: int
    latency_s: float | None
    summary: dict[str, Any]


class Index:
    """The worker's side: made anew, written to, committed now and then."""

    def __init__(self, data: Path) -> None:
        path = data / FILE
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = OFF")  # it can be made again
        self._connection.executescript(SCHEMA)
        self._open = False

    def add_slice(self, series_key: str, entry: SliceEntry) -> None:
        """A slice, or its new outcome."""
        self._execute(
            "INSERT OR REPLACE INTO slice VALUES (?, ?, ?, ?, ?)",
            (entry.sop_uid, series_key, entry.digest, entry.arrived, entry.outcome),
        )

    def known(self, sop_uid: str) -> tuple[str, str] | None:
        """Series key and digest of the copy that came first."""
        row = self._connection.execute(
            "SELECT series_key, digest FROM slice WHERE sop_uid = ?", (sop_uid,)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def set_series(self, row: SeriesRow) -> None:
        """What there is to say about a series."""
        self._execute(
            "INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.key,
                row.state,
                row.first,
                row.last,
                row.revision,
                row.received,
                row.done,
                row.latency_s,
                json.dumps(row.summary),
            ),
        )

    def add_result(self, manifest: Manifest) -> None:
        """A finished result with all its slices."""
        for entry in manifest.slices:
            self.add_slice(manifest.series_key, entry)
        arrived = [entry.arrived for entry in manifest.slices]
        self.set_series(
            SeriesRow(
                key=manifest.series_key,
                state="done",
                first=min(arrived, default=manifest.created),
                last=max(arrived, default=manifest.created),
                revision=manifest.revision,
                received=len(arrived),
                done=len(arrived),
                latency_s=manifest.latency_s,
                summary=manifest.summary,
            )
        )

    def forget_series(self, key: str) -> None:
        """A series whose results are no longer kept."""
        self._execute("DELETE FROM slice WHERE series_key = ?", (key,))
        self._execute("DELETE FROM series WHERE key = ?", (key,))

    def commit(self) -> None:
        """Let readers see what was written."""
        if self._open:
            self._connection.execute("COMMIT")
            self._open = False

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._connection.close()

    def _execute(self, statement: str, values: tuple[Any, ...]) -> None:
        if not self._open:
            self._connection.execute("BEGIN")
            self._open = True
        self._connection.execute(statement, values)


def recent_series(data: Path, since: float, most: int = 200) -> list[SeriesRow]:
    """Series with a slice that came after `since` (seconds since 1970), the latest first; [] if no index."""
    path = data / FILE
    if not path.exists():
        return []
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2)
    except sqlite3.Error:
        return []
    try:
        rows = connection.execute(
            "SELECT * FROM series WHERE last >= ? ORDER BY last DESC LIMIT ?", (since, most)
        ).fetchall()
    except sqlite3.Error:  # being made anew
        return []
    finally:
        connection.close()
    return [_row(row) for row in rows]


def _row(row: tuple[Any, ...]) -> SeriesRow:
    names = [each.name for each in fields(SeriesRow)]
    return SeriesRow(**{**dict(zip(names, row, strict=True)), "summary": json.loads(row[-1])})
