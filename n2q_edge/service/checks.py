"""`listen --check`: everything that can be wrong before the first scanner sends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from n2q_edge.errors import NothingAssessedError, UsageError
from n2q_edge.files import make_folder
from n2q_edge.service.client import Address, echo
from n2q_edge.service.settings import Settings
from n2q_edge.service.transport import tls_context


def check(settings: Settings) -> Iterator[str]:
    """Try everything; a line for what is well.

    Raises:
        N2QError: what is not.
    """
    node = settings.node
    context = tls_context(node)
    make_folder(settings.data)
    free = shutil.disk_usage(settings.data).free / 1e6
    if free < settings.spool.reserve_mb:
        raise UsageError(
            f"{settings.data} has {free:.0f} MB free, less than spool.reserve_mb "
            f"({settings.spool.reserve_mb}): nothing would be accepted"
        )
    yield f"spool: {settings.data}, {free / 1000:.1f} GB free"
    yield f"TLS: {'1.2 or newer' if context else 'off'}{_client_certificates(settings, context is not None)}"
    yield from _check_secrets(settings)
    yield from _check_model(settings)
    for peer in settings.destination:
        if peer.kind == "dicom" and not peer.tls_ca:
            yield _try_peer(peer.name, Address(peer.host, peer.port, peer.ae_title), node.ae_title)


def _client_certificates(settings: Settings, tls: bool) -> str:
    return ", senders need a certificate" if tls and settings.node.tls_client_ca else ""


def _check_secrets(settings: Settings) -> Iterator[str]:
    files = [each.token_file for each in settings.destination] + [settings.email.password_file]
    files += [each.tls_ca for each in settings.destination]
    for name in filter(None, files):
        try:
            Path(name).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror}") from None
        yield f"readable: {name}"
    if settings.watch.folder and not Path(settings.watch.folder).is_dir():
        raise UsageError(f"watch.folder {settings.watch.folder} is no folder")


def _check_model(settings: Settings) -> Iterator[str]:
    from n2q_edge.service.assessor import open_assessor

    with open_assessor(settings) as assessor:
        yield f"model: {assessor.describe()}"


def _try_peer(name: str, peer: Address, calling: str) -> str:
    """A peer that is down is no reason not to start."""
    try:
        echo(peer, calling)
    except NothingAssessedError as error:
        return f"warning: destination {name}: {error}"
    return f"destination {name}: answers"
