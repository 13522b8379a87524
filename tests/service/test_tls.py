"""Mutual TLS: who gets in, who does not, and that nobody is kept waiting by a client that stalls."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from n2q_edge.errors import UsageError
from n2q_edge.service.receiver import Receiver
from n2q_edge.service.settings import Node, Settings
from n2q_edge.service.settings import Spool as SpoolSettings
from n2q_edge.service.spool import Spool
from n2q_edge.service.transport import tls_context
from tests.helpers.node_files import slice_dataset

pytestmark = [pytest.mark.peer, pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")]


def certificate(folder: Path, name: str, issuer: str | None = None) -> None:
    """`name.pem` and `name.key`, signed by `issuer` or by itself."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = ["openssl", "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    if issuer:
        command += ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-addext", "basicConstraints=CA:FALSE"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certificate(folder, "ca")
    for name in ("node", "scanner"):
        certificate(folder, name, "ca")
    certificate(folder, "stranger")
    return folder


@pytest.fixture
def listening(tmp_path: Path, certificates: Path) -> Iterator[tuple[Receiver, Spool, int]]:
    files = {"tls_certificate": "node.pem", "tls_key": "node.key", "tls_client_ca": "ca.pem"}
    node = Node(port=0, data=str(tmp_path), **{key: str(certificates / name) for key, name in files.items()})
    settings = Settings(node=node, spool=SpoolSettings(reserve_mb=1))
    spool = Spool(settings.data)
    receiver = Receiver(settings, spool)
    yield receiver, spool, receiver.start()
    receiver.drain(0)


def client(certificates: Path, name: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def associate(port: int, context: ssl.SSLContext):
    ae = AE("CT1")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    ae.acse_timeout = ae.network_timeout = ae.connection_timeout = 10
    return ae.associate("127.0.0.1", port, ae_title="N2Q-EDGE", tls_args=(context, "localhost"))


def test_a_scanner_with_a_certificate_of_the_site_sends(listening, certificates: Path) -> None:
    _, spool, port = listening
    assoc = associate(port, client(certificates, "scanner"))
    assert assoc.send_c_store(slice_dataset(1)).Status == 0x0000
    assoc.release()
    assert len(spool.arrived()) == 1


@pytest.mark.parametrize("name", [None, "stranger"])
def test_nobody_else_does(listening, certificates: Path, name: str | None) -> None:
    _, _, port = listening
    assert not associate(port, client(certificates, name)).is_established


def test_tls_1_1_is_refused(listening, certificates: Path) -> None:
    _, _, port = listening
    context = client(certificates, "scanner")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(connection, server_hostname="localhost")


def test_a_client_that_never_shakes_hands_delays_nobody(listening, certificates: Path) -> None:
    """pynetdicom's own server would do nothing else until it goes away."""
    _, _, port = listening
    with socket.create_connection(("127.0.0.1", port)) as stalled:
        stalled.sendall(b"\x16\x03\x01")
        time.sleep(0.2)
        assoc = associate(port, client(certificates, "scanner"))
        assert assoc.is_established
        assoc.release()


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path, certificates: Path) -> None:
    with pytest.raises(UsageError, match="tls_certificate"):
        tls_context(Node(tls_certificate=str(tmp_path / "none.pem"), tls_key="x"))
    with pytest.raises(UsageError, match="tls_certificate"):
        tls_context(
            Node(tls_certificate=str(certificates / "node.pem"), tls_key=str(certificates / "scanner.key"))
        )
