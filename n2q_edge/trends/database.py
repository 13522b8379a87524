"""The file behind the trend database: schema and its versions, transactions, and how UIDs are hidden.

The salt of the hashed UIDs lies beside the database, not in it: who gets the database alone cannot test
whether a UID they know is in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from n2q_edge.errors import OutputError, UsageError

APPLICATION_ID = 0x6E327131  # "n2q1": marks the file as ours
BUSY_SECONDS = 60.0
SALT_CHECK = "n2q-edge"

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


def prepared(connection: sqlite3.Connection, path: Path, with_phi: bool) -> Identity:
    """Bring the schema up to date; how this database stores UIDs."""
    _migrate(connection, path)
    return _identity(connection, path, with_phi)


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
        schema_version(connection, path)


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


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
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
    version = schema_version(connection, path)
    for script in MIGRATIONS[version:]:
        for statement in filter(str.strip, script.split(";")):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


class Identity:
    """UIDs as they are stored: themselves, or their HMAC under the site's salt."""

    def __init__(self, salt: bytes | None) -> None:
        self._salt = salt

    def __call__(self, uid: str) -> str:
        """The UID as it is stored."""
        if self._salt is None:
            return uid
        return hmac.new(self._salt, uid.encode("utf-8"), hashlib.sha256).hexdigest()[:32]


def _identity(connection: sqlite3.Connection, path: Path, with_phi: bool) -> Identity:
    """How this database stores UIDs; decided when it is made."""
    settings = dict(connection.execute("SELECT name, value FROM setting"))
    if not settings:
        identity = Identity(None if with_phi else _new_salt(path))
        rows = [("identity", "kept" if with_phi else "hashed"), ("salt_check", identity(SALT_CHECK))]
        connection.executemany("INSERT INTO setting VALUES (?, ?)", rows)
        return identity
    if (settings["identity"] == "kept") != with_phi:
        made = "with" if settings["identity"] == "kept" else "without"
        advice = "add --with-phi" if made == "with" else "leave --with-phi out"
        raise UsageError(f"{path} was made {made} identity: {advice}, or choose another database")
    identity = Identity(None if with_phi else _read_salt(path))
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
