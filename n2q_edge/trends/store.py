"""The trend database: one SQLite file of slice scores.

Scores are stored, verdicts are not: a policy is applied when the data is read, so thresholds can change
later.

A slice is known by its SOP Instance UID, its frame and the model's SHA-256: assessing it again replaces its
scores and adds nothing. Without `with_phi` the file holds no identifier of a patient: UIDs are replaced by an
HMAC-SHA-256 under a salt, and paths, dates of the scan and free-text descriptions are left out. The salt lies
beside the database, not in it: who gets the database alone cannot test whether a UID they know is in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import n2q_edge
from n2q_edge.assessment.results import Assessment, SeriesReport, SliceResult
from n2q_edge.assessment.summary import is_doubted
from n2q_edge.errors import OutputError, UsageError

APPLICATION_ID = 0x6E327131  # "n2q1": marks the file as ours
BUSY_SECONDS = 60.0
SALT_CHECK = "n2q-edge"

PROTOCOL = (
    "manufacturer",
    "model",
    "station",
    "body_part",
    "protocol_name",
    "kernel",
    "kvp",
    "tube_current_ma",
    "exposure_mas",
    "ctdivol",
    "pitch",
    "slice_thickness_mm",
)

MIGRATIONS = (
    """
    CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE ai_model (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
        version TEXT NOT NULL, dose_levels TEXT NOT NULL);
    CREATE TABLE series (id INTEGER PRIMARY KEY, ai_model INTEGER NOT NULL REFERENCES ai_model,
        study_uid TEXT NOT NULL, series_uid TEXT NOT NULL, stack INTEGER NOT NULL, series_description TEXT,
        assessed TEXT NOT NULL, n2q_edge_version TEXT NOT NULL, manufacturer TEXT, model TEXT, station TEXT,
        body_part TEXT, protocol_name TEXT, kernel TEXT, kvp REAL, tube_current_ma REAL, exposure_mas REAL,
        ctdivol REAL, pitch REAL, slice_thickness_mm REAL, UNIQUE (ai_model, series_uid, stack));
    CREATE TABLE slice (ai_model INTEGER NOT NULL REFERENCES ai_model, sop_uid TEXT NOT NULL,
        frame INTEGER NOT NULL, series INTEGER NOT NULL REFERENCES series, number INTEGER NOT NULL,
        position_mm REAL, quality_mean REAL, quality_p05 REAL, quality_histogram TEXT, dose_level REAL,
        noise_hu REAL, model_noise_hu REAL, flags TEXT NOT NULL, total_ms REAL NOT NULL,
        PRIMARY KEY (ai_model, sop_uid, frame)) WITHOUT ROWID;
    CREATE INDEX slice_series ON slice (series);
    """,
)
"""Scripts that take the schema from version i to i + 1; `PRAGMA user_version` counts those applied."""


@dataclass(frozen=True)
class Appended:
    """What one append did, in slices.

    Attributes:
        new: added.
        replaced: known before, with this model.
        without_uid: not stored, because a slice without SOP or Series Instance UID cannot be known again.
    """

    new: int
    replaced: int
    without_uid: int


@dataclass(frozen=True)
class StoredSeries:
    """One series of one model, as the database has it.

    Attributes:
        series_uid: hashed, unless the database keeps identity.
        stack: number among the stacks of the series.
        assessed: start of the run that stored it first, ISO 8601, UTC; assessing it again does not move it.
        ai_model: name, version and the first 12 characters of the SHA-256.
        protocol: as in `n2q_edge.dicom.protocol`, without what identifies.
        qualities: mean quality of every slice that has one, in z order.
        noises_hu: model-free noise of every slice that has one.
        doubted: how many of the slices with a quality are unlike what models are trained on.
    """

    series_uid: str
    stack: int
    assessed: str
    ai_model: str
    protocol: dict[str, Any]
    qualities: tuple[float, ...]
    noises_hu: tuple[float, ...]
    doubted: int


def append(path: Path, assessment: Assessment, *, with_phi: bool = False) -> Appended:
    """Add a run to the database, which is made if it is not there; all of it or nothing.

    Other processes may append at the same time: each waits for its turn.

    Args:
        path: the database.
        assessment: the run.
        with_phi: keep UIDs and series descriptions as they are. A database is either with or without
            identity.

    Raises:
        OutputError: it cannot be written, is locked for over a minute, or is no database.
        UsageError: it is another program's or a newer version's, its salt is missing or another one, or
            `with_phi` is not what it was made with.
    """
    with opened_database(path, write=True) as connection:
        identify = prepared(connection, path, with_phi)
        model = _store_model(connection, assessment)
        counts = [0, 0, 0]
        for report in assessment.series:
            if not report.series.series_instance_uid:
                counts[2] += len(report.slices)
            elif report.slices:
                series = _store_series(connection, model, report, assessment, identify, with_phi)
                for result in report.slices:
                    counts[_store_slice(connection, model, series, result, identify)] += 1
        _drop_empty_series(connection)
    return Appended(*counts)


def prepare(path: Path, *, with_phi: bool = False) -> None:
    """Make the database or see that it can be appended to, before an assessment that would be stored in it.

    Raises:
        OutputError: as `append`.
        UsageError: as `append`.
    """
    with opened_database(path, write=True) as connection:
        prepared(connection, path, with_phi)


def prepared(connection: sqlite3.Connection, path: Path, with_phi: bool) -> _Identity:
    """Bring the schema up to date; how this database stores UIDs."""
    _migrate(connection, path)
    return _identity(connection, path, with_phi)


def read(path: Path) -> list[StoredSeries]:
    """All series, ordered by when they were assessed.

    Raises:
        UsageError: there is no such file, or it is not a trend database of this version.
        OutputError: it cannot be read, or is damaged.
    """
    if not path.is_file():
        raise UsageError(f"there is no trend database {path}: 'n2q-edge assess --db {path}' makes one")
    with opened_database(path, write=False) as connection:
        version = _version(connection, path)
        if version != len(MIGRATIONS):
            raise UsageError(
                f"{path} has schema {version}: append once with this n2q-edge to bring it up to date"
            )
        columns = ", ".join(f"series.{name}" for name in PROTOCOL)
        rows = connection.execute(
            "SELECT series.id, series_uid, stack, assessed, "
            "ai_model.name || ' ' || ai_model.version || ' ' || substr(sha256, 1, 12), "
            f"{columns} FROM series JOIN ai_model ON ai_model.id = series.ai_model "
            "ORDER BY assessed, series.id"
        ).fetchall()
        return [_stored(connection, row) for row in rows]


def _stored(connection: sqlite3.Connection, row: Sequence[Any]) -> StoredSeries:
    slices = connection.execute(
        "SELECT quality_mean, noise_hu, flags FROM slice WHERE series = ? ORDER BY number", (row[0],)
    ).fetchall()
    return StoredSeries(
        series_uid=row[1],
        stack=row[2],
        assessed=row[3],
        ai_model=row[4],
        protocol=dict(zip(PROTOCOL, row[5:], strict=True)),
        qualities=tuple(quality for quality, _, _ in slices if quality is not None),
        noises_hu=tuple(noise for _, noise, _ in slices if noise is not None),
        doubted=sum(is_doubted(flags.split()) for quality, _, flags in slices if quality is not None),
    )


# ------------------------------------------------------------------------------------------------- connection


@contextlib.contextmanager
def opened_database(path: Path, *, write: bool) -> Iterator[sqlite3.Connection]:
    """A connection within one transaction; SQLite's errors become ours."""
    try:
        connection = _connected(path, write=write)
    except sqlite3.Error as error:
        raise OutputError(f"cannot open the trend database {path}: {error}") from None
    try:
        with contextlib.closing(connection):
            if write:
                _refuse_foreign(connection, path)
                _use_wal(connection)
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
    except sqlite3.Error as error:
        raise OutputError(
            f"cannot use the trend database {path}: {error}; choose another file or free the disk"
        ) from None


def _connected(path: Path, *, write: bool) -> sqlite3.Connection:
    """Readers of a write-ahead log need its index beside the file. Where nobody can write there is none to
    make and no writer to wait for: the file is read as it is, if no log is left of a writer that was killed.
    """
    if write or os.access(path.parent, os.W_OK):
        return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        raise sqlite3.OperationalError("its write-ahead log cannot be read where nothing can be written")
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Before anything is written: a database of another program must stay as it is."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables:
        _version(connection, path)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Write-ahead log: readers never wait. The switch ignores the busy timeout, so it is tried again."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Schema version of a database of ours."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise UsageError(f"{path} is not a trend database of n2q-edge: choose another file")
    if version > len(MIGRATIONS):
        raise UsageError(
            f"{path} was written by a newer n2q-edge (schema {version}, this one knows {len(MIGRATIONS)}): "
            "update n2q-edge"
        )
    return int(version)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date within the open transaction; an empty file becomes version 0 of ours."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if tables == 0 and application == 0:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    version = _version(connection, path)
    for script in MIGRATIONS[version:]:
        for statement in filter(str.strip, script.split(";")):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


# --------------------------------------------------------------------------------------------------- identity


class _Identity:
    """UIDs as they are stored: themselves, or their HMAC under the site's salt."""

    def __init__(self, salt: bytes | None) -> None:
        self._salt = salt

    def __call__(self, uid: str) -> str:
        if self._salt is None:
            return uid
        return hmac.new(self._salt, uid.encode("utf-8"), hashlib.sha256).hexdigest()[:32]


def _identity(connection: sqlite3.Connection, path: Path, with_phi: bool) -> _Identity:
    """How this database stores UIDs; decided when it is made."""
    settings = dict(connection.execute("SELECT name, value FROM setting"))
    if not settings:
        identity = _Identity(None if with_phi else _new_salt(path))
        rows = [("identity", "kept" if with_phi else "hashed"), ("salt_check", identity(SALT_CHECK))]
        connection.executemany("INSERT INTO setting VALUES (?, ?)", rows)
        return identity
    if (settings["identity"] == "kept") != with_phi:
        made = "with" if settings["identity"] == "kept" else "without"
        advice = "add --with-phi" if made == "with" else "leave --with-phi out"
        raise UsageError(f"{path} was made {made} identity: {advice}, or choose another database")
    identity = _Identity(None if with_phi else _read_salt(path))
    if identity(SALT_CHECK) != settings["salt_check"]:
        raise UsageError(f"{salt_file(path)} is not the salt of {path}: put the right one back")
    return identity


def salt_file(path: Path) -> Path:
    """Where the salt of a database lies."""
    return path.with_name(f"{path.name}.salt")


def _new_salt(path: Path) -> bytes:
    """A salt for a new database, readable by its owner. The database is locked: nobody else makes one."""
    file = salt_file(path)
    if file.exists():
        return _read_salt(path)
    text = secrets.token_hex(32)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(text + "\n")
    except OSError as error:
        raise OutputError(f"cannot write the salt {file}: {error.strerror}; choose another folder") from None
    return bytes.fromhex(text)


def _read_salt(path: Path) -> bytes:
    file = salt_file(path)
    try:
        salt = bytes.fromhex(file.read_text("ascii").strip())
    except (OSError, ValueError):
        salt = b""
    if len(salt) < 16:
        raise UsageError(
            f"the salt {file} is missing or damaged: without it slices already in {path} would not be known "
            "again; put it back, or start a new database"
        )
    return salt


# ---------------------------------------------------------------------------------------------------- storing


def _store_model(connection: sqlite3.Connection, assessment: Assessment) -> int:
    spec, sha256 = assessment.spec, assessment.runtime.get("model_sha256")
    connection.execute(
        "INSERT INTO ai_model (sha256, name, version, dose_levels) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (sha256) DO NOTHING",
        (sha256, spec.name, spec.version, json.dumps(spec.predicted_doses)),
    )
    (number,) = connection.execute("SELECT id FROM ai_model WHERE sha256 = ?", (sha256,)).fetchone()
    return int(number)


def _store_series(
    connection: sqlite3.Connection,
    model: int,
    report: SeriesReport,
    assessment: Assessment,
    identify: _Identity,
    with_phi: bool,
) -> int:
    series = report.series
    values: dict[str, Any] = {
        "ai_model": model,
        "study_uid": identify(series.study_instance_uid),
        "series_uid": identify(series.series_instance_uid),
        "stack": series.stack,
        "series_description": series.protocol.get("series_description") if with_phi else None,
        "assessed": assessment.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "n2q_edge_version": n2q_edge.__version__,
        **{name: series.protocol.get(name) for name in PROTOCOL},
    }
    key = ("ai_model", "series_uid", "stack")
    updates = ", ".join(f"{name} = excluded.{name}" for name in values if name not in (*key, "assessed"))
    connection.execute(
        f"INSERT INTO series ({', '.join(values)}) VALUES ({', '.join('?' * len(values))}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {updates}",
        tuple(values.values()),
    )
    (number,) = connection.execute(
        "SELECT id FROM series WHERE ai_model = ? AND series_uid = ? AND stack = ?",
        tuple(values[name] for name in key),
    ).fetchone()
    return int(number)


def _store_slice(
    connection: sqlite3.Connection, model: int, series: int, result: SliceResult, identify: _Identity
) -> int:
    """Store a slice; 0 if it is new, 1 if it was known, 2 if it has no UID."""
    if not result.ref.sop_instance_uid:
        return 2
    key = (model, identify(result.ref.sop_instance_uid), result.ref.frame or 0)
    known = connection.execute(
        "SELECT 1 FROM slice WHERE ai_model = ? AND sop_uid = ? AND frame = ?", key
    ).fetchone()
    quality = result.quality
    connection.execute(
        "INSERT OR REPLACE INTO slice VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *key,
            series,
            result.number,
            result.ref.position_mm,
            quality.mean if quality else None,
            quality.p05 if quality else None,
            json.dumps(list(quality.histogram)) if quality else None,
            result.dose.level if result.dose else None,
            result.noise_hu,
            result.model_noise_hu,
            " ".join(result.flags),
            result.times.total,
        ),
    )
    return 1 if known else 0


def _drop_empty_series(connection: sqlite3.Connection) -> None:
    """A slice that moved to another stack of its series may leave one without slices."""
    connection.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM slice)")
