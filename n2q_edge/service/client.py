"""A small SCU, so that a site can try a node without other tools: C-ECHO and C-STORE."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from n2q_edge.errors import NothingAssessedError, UsageError
from n2q_edge.service.configuration import check_ae_title
from n2q_edge.service.delivery import no_delay

ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:/\[\]]+):(?P<port>\d{1,5})/(?P<title>.+)")
MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers from 1 to 255
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Address:
    """HOST:PORT/AET."""

    host: str
    port: int
    ae_title: str


@dataclass
class Sent:
    """What became of the files.

    Attributes:
        stored: how many the peer took.
        failed: file and why not.
        skipped: files that are no DICOM files.
    """

    stored: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    skipped: int = 0


def parse_address(text: str) -> Address:
    """Read HOST:PORT/AET.

    Raises:
        UsageError: it is none.
    """
    match = ADDRESS.fullmatch(text)
    if not match or int(match["port"]) > 65535:
        raise UsageError(f"{text!r} is no HOST:PORT/AET, such as 127.0.0.1:11112/N2Q-EDGE")
    try:
        check_ae_title("the AE title", match["title"])
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Address(match["host"].strip("[]"), int(match["port"]), match["title"])


def echo(peer: Address, calling: str) -> None:
    """Ask whether a peer answers.

    Raises:
        NothingAssessedError: it does not.
    """
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

    assoc = _associate(peer, calling, [(str(Verification), None)])
    status = assoc.send_c_echo()
    assoc.release()
    if status.get("Status") != 0:
        raise NothingAssessedError(f"{peer.ae_title} at {peer.host}:{peer.port} did not answer C-ECHO")


def send(
    paths: Sequence[Path], peer: Address, calling: str, on_file: Callable[[int], None] | None = None
) -> Sent:
    """Send all DICOM files under some paths, as they are.

    Args:
        paths: files and folders.
        peer: where to.
        calling: our AE title.
        on_file: called after each file with the number so far.

    Raises:
        UsageError: a path does not exist.
        NothingAssessedError: the peer cannot be reached.
    """
    sent = Sent()
    files = [(path, *kind) for path in _files(paths) if (kind := _kind(path, sent))]
    done = 0
    for kinds, group in _groups(files):
        assoc = _associate(peer, calling, kinds)
        for path in group:
            _store(assoc, path, sent)
            done += 1
            if on_file:
                on_file(done)
        if assoc.is_established:
            assoc.release()
    return sent


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.is_file())
        else:
            yield path


def _kind(path: Path, sent: Sent) -> tuple[str, str] | None:
    """SOP class and transfer syntax of a file; None if it is no DICOM file."""
    try:
        meta = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True).file_meta
        return str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError, OSError, ValueError):
        sent.skipped += 1
        return None


def _groups(files: Sequence[tuple[Path, str, str]]) -> Iterator[tuple[list[tuple[str, str]], list[Path]]]:
    """Files with their presentation contexts, as many as one association holds."""
    kinds: list[tuple[str, str]] = []
    group: list[Path] = []
    for path, sop_class, syntax in files:
        if (sop_class, syntax) not in kinds:
            if len(kinds) == MOST_CONTEXTS:
                yield kinds, group
                kinds, group = [], []
            kinds.append((sop_class, syntax))
        group.append(path)
    if group:
        yield kinds, group


def _associate(peer: Address, calling: str, kinds: Sequence[tuple[str, str | None]]) -> Any:
    from pynetdicom import AE, evt

    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = TIMEOUT_S
    for sop_class, syntax in kinds:
        if syntax is None:
            ae.add_requested_context(sop_class)
        else:
            ae.add_requested_context(sop_class, syntax)
    assoc = ae.associate(
        peer.host, peer.port, ae_title=peer.ae_title, evt_handlers=[(evt.EVT_CONN_OPEN, no_delay)]
    )
    if not assoc.is_established:
        reason = "rejects us: is the AE title allowed there?" if assoc.is_rejected else "does not answer"
        raise NothingAssessedError(f"{peer.ae_title} at {peer.host}:{peer.port} {reason}")
    return assoc


def _store(assoc: Any, path: Path, sent: Sent) -> None:
    try:
        status = assoc.send_c_store(path)
        code = status.get("Status")
    except (ValueError, RuntimeError, AttributeError) as error:
        sent.failed.append((path, str(error)))
        return
    if code is None:
        sent.failed.append((path, "no answer"))
    elif code == 0 or 0xB000 <= code < 0xC000:
        sent.stored += 1
    else:
        sent.failed.append((path, f"status {code:04X}"))
