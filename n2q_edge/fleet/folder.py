"""The folder that all shards of an archive write into: a manifest, a salt, one part file per series.

A part is written beside and renamed when all slices of its Series Instance UID are done: whoever is killed
leaves whole parts only, and the same series done twice replaces its part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import n2q_edge
from n2q_edge.errors import OutputError, UsageError
from n2q_edge.files import make_folder, write_text
from n2q_edge.fleet.rows import SCHEMA_VERSION, Row
from n2q_edge.trends.database import Identity

MANIFEST, SALT, PARTS, SHARDS = "manifest.json", "uid.salt", "parts", "shards"


@dataclass(frozen=True)
class Run:
    """What all shards must have in common. Numbers of two models do not belong into one table."""

    model: str
    model_version: str
    model_sha256: str
    with_phi: bool

    def manifest(self, salt: bytes) -> dict[str, Any]:
        """The manifest's content."""
        return {
            "schema_version": SCHEMA_VERSION,
            "n2q_edge_version": n2q_edge.__version__,
            "model": self.model,
            "model_version": self.model_version,
            "model_sha256": self.model_sha256,
            "identity": "kept" if self.with_phi else "hashed",
            "salt_sha256": hashlib.sha256(salt).hexdigest(),
        }


class ArchiveFolder:
    """The folder of one archive, open for a shard.

    Attributes:
        path: the folder.
        identify: how UIDs are written in its rows.
    """

    def __init__(self, path: Path, run: Run) -> None:
        """Begin a folder, or go on in one.

        Raises:
            UsageError: it was begun with another model, program version or choice of identity.
            OutputError: it cannot be written into.
        """
        for folder in (path, path / PARTS, path / SHARDS):
            make_folder(folder)
        self.path = path
        salt = _read_salt(_published(path / SALT, secrets.token_hex(32) + "\n"))
        wanted = run.manifest(salt)
        _published(path / MANIFEST, json.dumps(wanted, indent=1) + "\n")
        found = read_manifest(path)
        for name, value in wanted.items():
            if found.get(name) != value:
                raise UsageError(
                    f"{path} was begun with {name} {found.get(name)!r}, not {value!r}: "
                    "use the same again, or choose another folder"
                )
        self.identify = Identity(None if run.with_phi else salt)
        self._name = Identity(salt)

    def part(self, series_uid: str) -> Path:
        """Where the rows of a series go. The name tells nobody the UID."""
        return self.path / PARTS / f"{self._name(series_uid)}.jsonl"

    def is_done(self, series_uid: str, content: str) -> bool:
        """Whether the series was committed, with the same slices."""
        path = self.part(series_uid)
        try:
            with path.open(encoding="utf-8") as file:
                return bool(json.loads(file.readline())["content"] == content)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, KeyError, TypeError):
            raise damaged(path) from None

    def commit(self, series_uid: str, content: str, rows: Sequence[Row]) -> None:
        """Write the part of a series, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        lines = [json.dumps({"content": content, "rows": len(rows)})]
        lines += [json.dumps(row, allow_nan=False) for row in rows]
        write_text(self.part(series_uid), "\n".join(lines) + "\n")

    def shard_file(self, index: int, count: int) -> Path:
        """Exists once a shard has gone through all its series."""
        return self.path / SHARDS / f"{index}-of-{count}.json"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        UsageError: the folder has none, or it is damaged.
    """
    try:
        found = json.loads((path / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} has no {MANIFEST}: 'n2q-edge assess --resume {path}' makes it") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path / MANIFEST}: {error}; choose another folder") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path / MANIFEST} is damaged; choose another folder")
    return found


def read_part(path: Path) -> Iterator[Row]:
    """The rows of a part, one at a time.

    Raises:
        OutputError: it is damaged.
    """
    count = 0
    try:
        with path.open(encoding="utf-8") as file:
            expected = json.loads(file.readline())["rows"]
            for line in file:
                count += 1
                yield json.loads(line)
    except (OSError, ValueError, KeyError, TypeError):
        raise damaged(path) from None
    if count != expected:
        raise damaged(path)


def damaged(path: Path) -> OutputError:
    """What to say of a part that is not as it was written."""
    return OutputError(f"{path} is damaged: remove it and run its shard again")


def _published(path: Path, text: str) -> Path:
    """A file with this text unless somebody else has made it; whole for every reader."""
    if path.exists():
        return path
    own = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; choose another folder") from None
    finally:
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)
    return path


def _read_salt(path: Path) -> bytes:
    try:
        return bytes.fromhex(path.read_text("ascii"))
    except (OSError, ValueError):
        raise UsageError(f"cannot read the salt {path}: put it back, or choose another folder") from None
