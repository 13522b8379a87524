"""Zip archives: their members as sources, and opening what a source stands for."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from n2q_edge.dicom.header import is_dicom
from n2q_edge.dicom.reasons import Reason, Refusal, Rejected, Skipped
from n2q_edge.dicom.records import Source
from n2q_edge.dicom.unpack import SPOOL_IN_MEMORY, is_bomb

HEAD = 4096  # bytes unpacked of a member that turns out not to be DICOM
_LOCAL_HEADER = 30  # bytes before a member's name (APPNOTE 4.3.7)

_STREAMS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))
_OTHER_ARCHIVES = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd")
ARCHIVE_ERRORS = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, EOFError)


def members(archive: Path) -> Iterator[Source | Rejected | Skipped]:
    """A zip archive, then each file in it."""
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = opened.infolist()
    except OSError as error:
        yield Rejected(archive, _reason(error), os_detail(error))
        return
    except (*ARCHIVE_ERRORS, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        empty = _size(archive) == 0
        reason = Reason.EMPTY_FILE if empty else Reason.CORRUPT_ARCHIVE
        yield Rejected(archive, reason, "0 bytes" if empty else f"not a readable zip archive: {error}")
        return
    problem = _archive_problem(infos, _size(archive) or 0)
    if problem:
        yield Rejected(archive, Reason.UNSUPPORTED_ARCHIVE, problem)
        return
    yield Skipped(archive, Reason.ARCHIVE)
    shown: set[Path] = set()
    for index, info in enumerate(infos):
        if info.is_dir():
            continue
        # Only shown, never written to; but an absolute or repeated name must not hide another file.
        name = info.filename.replace("\\", "/").lstrip("/")
        path = Path(f"{archive}/{name}")
        while path in shown:
            path = Path(f"{path}#{index}")
        shown.add(path)
        problem = _member_problem(info)
        if problem:
            yield Rejected(path, Reason.UNSUPPORTED_ARCHIVE, problem)
        else:
            yield Source(path, archive, index)


def _archive_problem(infos: Sequence[zipfile.ZipInfo], size: int) -> str | None:
    """Why nothing of an archive is unpacked: its members together are a bomb."""
    total = sum(info.file_size for info in infos if not _member_problem(info))
    if is_bomb(size, total, limit=None):
        return f"unpacks from {size} to {total} bytes in all"
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            return "its members overlap: the same bytes would be unpacked again and again"
        end = info.header_offset + _LOCAL_HEADER + info.compress_size
    return None


def _member_problem(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 0x1:
        return "encrypted: unpack it with its password first"
    if info.filename.lower().endswith(".zip"):
        return "a zip archive inside a zip archive: unpack it first"
    if is_bomb(info.compress_size, info.file_size):
        return f"unpacks from {info.compress_size} to {info.file_size} bytes"
    return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _reason(error: OSError) -> Reason:
    """zipfile seeks where a damaged directory points to; before the file, that is an invalid argument."""
    return Reason.CORRUPT_ARCHIVE if error.errno == errno.EINVAL else Reason.UNREADABLE


def os_detail(error: OSError) -> str:
    """What the operating system says, without the path."""
    return error.strerror or str(error)


class Opener:
    """Opens sources; keeps one zip archive open, since its directory is costly to read for each member."""

    def __init__(self) -> None:
        self._archive: tuple[Path, zipfile.ZipFile] | None = None

    def open(self, source: Source) -> tuple[IO[bytes], tuple[int, int]]:
        """The open file, seekable, and the (size, modification time) of the file on disk.

        Raises:
            Refusal: it cannot be opened or unpacked.
        """
        try:
            if source.member is None:
                file = source.file.open("rb")
                status = os.fstat(file.fileno())
                return file, (status.st_size, status.st_mtime_ns)
            status = source.file.stat()
            return self._unpack(source.file, source.member), (status.st_size, status.st_mtime_ns)
        except OSError as error:
            reason = Reason.UNREADABLE if source.member is None else _reason(error)
            raise Refusal(reason, os_detail(error)) from None

    def _unpack(self, archive: Path, member: int) -> IO[bytes]:
        """A zip member as a seekable file: in memory if small, else in a temporary file.

        Of a member that is not DICOM only the head, which tells what it is.
        """
        unpacked = tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY)  # noqa: SIM115 - the caller closes it
        try:
            opened = self._zip(archive)
            with opened.open(opened.infolist()[member]) as packed:
                head = packed.read(HEAD)
                unpacked.write(head)
                if is_dicom(head):
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
        except (NotImplementedError, RuntimeError) as error:
            unpacked.close()
            raise Refusal(Reason.UNSUPPORTED_ARCHIVE, str(error)) from None
        except (*ARCHIVE_ERRORS, IndexError, ValueError, struct.error) as error:
            unpacked.close()
            raise Refusal(Reason.CORRUPT_ARCHIVE, str(error)) from None
        except BaseException:
            unpacked.close()
            raise
        unpacked.seek(0)
        return unpacked

    def _zip(self, archive: Path) -> zipfile.ZipFile:
        if self._archive is None or self._archive[0] != archive:
            self.close()
            self._archive = (archive, zipfile.ZipFile(archive))
        return self._archive[1]

    def close(self) -> None:
        """Close the archive, if any."""
        if self._archive is not None:
            self._archive[1].close()
            self._archive = None

    def __enter__(self) -> Opener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_not_packed(file: IO[bytes]) -> None:
    """Check that a file which is not DICOM is not a packed one either.

    Raises:
        Refusal: it is an archive of a kind not opened here that may hold DICOM files.
    """
    file.seek(0)
    head = file.read(512)
    for magic, opener in _STREAMS:
        if head.startswith(magic):
            file.seek(0)
            try:
                with opener(file) as stream:
                    head = stream.read(512)
            except (OSError, *ARCHIVE_ERRORS):
                return
    if head[128:132] == b"DICM" or head[257:262] == b"ustar" or head.startswith(_OTHER_ARCHIVES):
        raise Refusal(Reason.UNSUPPORTED_ARCHIVE, "packed, but not with zip: unpack it first")
