"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from n2q_edge.errors import OutputError, UsageError


def make_folder(folder: Path) -> None:
    """Make a folder with its parents and see that files can be written into it.

    Raises:
        OutputError: it cannot be made, is a file, or is not writable.
    """
    probe = folder / f".n2q-edge-{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write into the folder {folder}: {error.strerror}; choose another"
        ) from None


def is_new_or_empty(folder: Path) -> bool:
    """Whether writing into a folder can overwrite nothing: it is not there, or has nothing in it.

    Raises:
        UsageError: it cannot be looked into.
    """
    try:
        return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise UsageError(f"cannot look into {folder}: {error.strerror}; choose another folder") from None


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """See that nothing would be replaced that the user has not given up.

    Raises:
        UsageError: one of the files is there and `overwrite` is false.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists: choose another place with -o, or replace it with --overwrite")


def write_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write beside, then rename: a reader sees the old file or the new one, never a part.

    `data` may come in pieces.

    Raises:
        OutputError: disk full, no permission, ...; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; free some space or choose another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_file` for text, as UTF-8."""
    write_file(path, text.encode("utf-8"))
