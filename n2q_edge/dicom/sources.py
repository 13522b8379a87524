"""Find the files: folders, trees, links, DICOMDIRs and the members of zip archives."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from n2q_edge.dicom import tags
from n2q_edge.dicom.archives import members, os_detail
from n2q_edge.dicom.classify import MEDIA_DIRECTORY
from n2q_edge.dicom.header import read_header
from n2q_edge.dicom.reasons import Reason, Refusal, Rejected, Skipped
from n2q_edge.dicom.records import Source
from n2q_edge.errors import UsageError

Found = Source | Rejected | Skipped


def find(paths: Sequence[Path]) -> Iterator[Found]:
    """Every file under `paths`, once each, in the order of names; links last.

    Raises:
        UsageError: a path does not exist.
    """
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110 - False for a link loop, where Path.exists raises before 3.12
            raise UsageError(f"{path}: no such file or folder")
    return _Finder().find(paths)


class _Finder:
    """The state of one walk: what was seen, and the links to follow when all real files have been."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._links: list[str] = []

    def find(self, paths: Sequence[Path]) -> Iterator[Found]:
        for path in paths:
            if path.is_dir():
                yield from self._tree(str(path))
            elif not path.is_file():  # opening a pipe would wait for its other end
                yield Skipped(path, Reason.NOT_DICOM)
            elif _is_dicomdir(path):
                yield from self._dicomdir(path)
            else:
                yield from self._file(str(path), os.path.realpath(path), given=True)
        while self._links:
            yield from self._link(self._links.pop(0))

    def _tree(self, top: str) -> Iterator[Found]:
        folders = [top]
        while folders:
            folder = folders.pop()
            real = os.path.realpath(folder)
            if real in self._seen:
                yield Skipped(Path(folder), Reason.ALREADY_SEEN)
                continue
            self._seen.add(real)
            try:
                with os.scandir(folder) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError as error:
                yield Rejected(Path(folder), Reason.UNREADABLE, os_detail(error))
                continue
            inner = []
            for entry in entries:
                if entry.is_symlink():
                    self._links.append(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    inner.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield from self._file(entry.path, os.path.join(real, entry.name))  # noqa: PTH118 - speed
                else:
                    yield Skipped(Path(entry.path), Reason.NOT_DICOM)
            folders.extend(reversed(inner))

    def _link(self, link: str) -> Iterator[Found]:
        """Follow a symbolic link; what it leads to may have been seen."""
        real = os.path.realpath(link)
        if os.path.isdir(real):  # noqa: PTH112
            yield from self._tree(link)
        elif os.path.isfile(real):  # noqa: PTH113
            yield from self._file(link, real)
        elif os.path.exists(real):  # noqa: PTH110
            yield Skipped(Path(link), Reason.NOT_DICOM)
        else:
            yield Rejected(Path(link), Reason.MISSING_FILE, "a symbolic link that leads nowhere")

    def _file(self, path: str, real: str, given: bool = False) -> Iterator[Found]:
        if real in self._seen:
            yield Skipped(Path(path), Reason.ALREADY_SEEN)
            return
        self._seen.add(real)
        # In a tree only the name tells a zip of images from the many documents that are zip files inside.
        if path.lower().endswith(".zip") or (given and zipfile.is_zipfile(path)):
            yield from members(Path(path))
        else:
            file = Path(path)
            yield Source(file, file)

    def _dicomdir(self, path: Path) -> Iterator[Found]:
        """The index itself, then the files it names."""
        self._seen.add(os.path.realpath(path))
        try:
            names = _referenced(path)
        except Refusal as refusal:
            yield Rejected(path, refusal.reason, refusal.detail)
            return
        yield Skipped(path, Reason.DICOMDIR)
        for parts in names:
            file = _resolve(path.parent, parts)
            if file is None:
                shown = path.parent.joinpath(*(_shown(part) for part in parts))
                yield Rejected(shown, Reason.MISSING_FILE, f"named by {path.name} but not in its folder")
            else:
                yield from self._file(str(file), os.path.realpath(file))


def _is_dicomdir(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    return head[128:132] == b"DICM" and MEDIA_DIRECTORY.encode() in head


def _referenced(path: Path) -> list[tuple[str, ...]]:
    """The File IDs a DICOMDIR lists, as path components.

    Raises:
        Refusal: it cannot be read or parsed.
    """
    wanted = frozenset({tags.REFERENCED_FILE_ID})
    try:
        with path.open("rb") as file:
            header = read_header(file, frozenset(), frozenset({tags.DIRECTORY_RECORDS}))
            with header.data:
                records = list(header.items(tags.DIRECTORY_RECORDS, wanted))
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, os_detail(error)) from None
    if header.cut_at is not None:
        raise Refusal(Reason.TRUNCATED, "the DICOMDIR ends inside its records")
    return [tuple(parts) for record in records if (parts := record.texts(tags.REFERENCED_FILE_ID))]


def _shown(part: str) -> str:
    """One component of a File ID, safe as a component of a path."""
    return "".join(c if c.isprintable() and c not in "/\\" else "_" for c in part) or "_"


def _resolve(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """The file with this File ID, whatever the case its medium was copied in; never outside `folder`."""
    current = folder
    for part in parts:
        if part in (".", "..") or part != _shown(part):
            return None
        exact = current / part
        if not os.path.exists(exact):  # noqa: PTH110 - False for a name too long, where Path.exists raises
            try:
                names = {entry.name.lower(): entry for entry in current.iterdir()}
            except OSError:
                return None
            if part.lower() not in names:
                return None
            exact = names[part.lower()]
        current = exact
    inside = Path(os.path.realpath(current)).is_relative_to(os.path.realpath(folder))
    return current if inside else None  # a link may lead anywhere
