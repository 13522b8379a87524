"""What pynetdicom's server needs to stand in a hospital's network.

Its TLS handshake is done by the accepting thread, an object is kept in memory as a whole, a PDU of any length
is read for ever, and Nagle's algorithm delays every response. All of that is changed here.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from socketserver import BaseServer
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from n2q_edge.errors import UsageError
from n2q_edge.service import metrics
from n2q_edge.service.settings import Node

log = logging.getLogger("n2q_edge.receiver")

MAX_PDU = 256 * 1024  # bytes; what we tell peers, and refuse to read more of
HANDSHAKE_S = 10.0
SPARE_CONNECTIONS = 8  # beside the associations: handshakes, peers about to be rejected


class ArrivingDataSet(BytesIO):
    """The data set of one object: in memory, from `limit` bytes on in a file, or nowhere if it is not kept.

    A disk that fails must not raise here, in the thread that reads the network: the object is dropped and
    `error` says why, so that the sender gets an answer.

    Attributes:
        path: the file it is in; None if it is in memory.
        error: why it could not be written.
    """

    def __init__(self, limit: int, create: Callable[[], tuple[int, Path]]) -> None:
        super().__init__()
        self.path: Path | None = None
        self.error: OSError | None = None
        self.header: Callable[[], bytes] = bytes
        self.kept: Callable[[], bool] = lambda: True
        self._limit = limit
        self._create = create
        self._file: Any = None

    def write(self, data: Any) -> int:
        """Take one fragment."""
        if self.error is not None or not self.kept():
            return len(data)
        if self._file is None and self.tell() + len(data) <= self._limit:
            return super().write(data)
        try:
            if self._file is None:
                self._spill()
            self._file.write(data)
        except OSError as error:
            self.error = error
            self.discard()
        return len(data)

    def _spill(self) -> None:
        """Move what has come so far into a file."""
        descriptor, self.path = self._create()
        self._file = os.fdopen(descriptor, "wb")
        self._file.write(self.header())
        self._file.write(self.getbuffer())
        self.seek(0)
        self.truncate()

    def finish(self) -> None:
        """Bring the file to the disk.

        Raises:
            OSError: it cannot be.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Remove the file, if there is one."""
        if self._file is not None:
            self._file.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None


class SpoolingDimse(DIMSEServiceProvider):
    """Messages whose data sets are `ArrivingDataSet`s."""

    def __init__(
        self, assoc: Association, make: Callable[[Association, DIMSEMessage], ArrivingDataSet]
    ) -> None:
        super().__init__(assoc)
        self._make = make

    def receive_primitive(self, primitive: Any) -> None:
        """Take a P-DATA primitive."""
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = self._make(self.assoc, self.message)
        super().receive_primitive(primitive)


class NodeHandler(RequestHandler):
    """Makes the association of one connection."""

    server: NodeServer

    def _create_association(self) -> Association:
        assoc = super()._create_association()
        assoc.dimse = SpoolingDimse(assoc, self.server.make_data_set)
        connection = assoc.dul.socket
        assert connection is not None
        timeout = self.server.node.idle_timeout_s
        connection.recv = lambda nr_bytes: _receive(  # type: ignore[method-assign]
            connection.socket, nr_bytes, timeout
        )
        return assoc


def _receive(connection: socket.socket | None, size: int, timeout: float) -> bytearray:
    """`size` bytes, less if the peer closed; OSError if it is too slow or asks for too much memory.

    pynetdicom reads 4 KB at a time, waits for ever, and believes every length.
    """
    if connection is None or size > MAX_PDU + 1024:
        raise OSError("a PDU longer than agreed")
    data, got = bytearray(size), 0
    view, end = memoryview(data), time.monotonic() + timeout
    while got < size:
        if time.monotonic() > end:
            raise TimeoutError("the peer stopped in the middle of a PDU")
        count = connection.recv_into(view[got:])
        if not count:
            break
        got += count
    view.release()
    del data[got:]
    return data


class NodeServer(ThreadedAssociationServer):
    """Accepts connections of allowed networks, at most so many, and does the TLS handshake off its thread."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        node: Node,
        *args: Any,
        make_data_set: Callable[[Association, DIMSEMessage], ArrivingDataSet],
        tls: ssl.SSLContext | None,
        **kwargs: Any,
    ) -> None:
        self.node = node
        self.make_data_set = make_data_set
        self._tls = tls
        self._networks = [ipaddress.ip_network(each, strict=False) for each in node.allowed_networks]
        self._shaking = 0
        self._lock = threading.Lock()
        kwargs["request_handler"] = NodeHandler
        super().__init__(*args, **kwargs)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a connection may go on; a refused one is closed."""
        address = ipaddress.ip_address(client_address[0].partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if self._networks and not any(address in network for network in self._networks):
            return self._refuse("address", client_address)
        if self._shaking + len(self.active_associations) >= self.node.max_associations + SPARE_CONNECTIONS:
            return self._refuse("connections", client_address)
        with self._lock:
            self._shaking += 1
        return True

    @staticmethod
    def _refuse(reason: str, client_address: Any) -> bool:
        metrics.REFUSED.labels(reason).inc()
        log.warning("connection refused", extra={"reason": reason, "address": client_address[0]})
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In a thread of its own: options, handshake, then the association."""
        try:
            request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            request.settimeout(HANDSHAKE_S)
            if self._tls:
                request = self._tls.wrap_socket(request, server_side=True)
            request.settimeout(self.node.idle_timeout_s)
        except OSError as error:  # ssl.SSLError is one
            self._refuse("tls" if self._tls else "connection", client_address)
            log.warning("no TLS connection", extra={"error": str(error), "address": client_address[0]})
            self.shutdown_request(request)
            return
        finally:
            with self._lock:
                self._shaking -= 1
        super().process_request_thread(request, client_address)

    def stop_accepting(self) -> None:
        """Close the port. Associations go on; pynetdicom's own `shutdown` would end them."""
        BaseServer.shutdown(self)
        self.server_close()


def tls_context(node: Node) -> ssl.SSLContext | None:
    """The TLS of the node: 1.2 or newer, with a certificate of the peer if a CA for it is named.

    Raises:
        UsageError: a file is missing or no certificate.
    """
    if not node.tls_certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(node.tls_certificate, node.tls_key)
        if node.tls_client_ca:
            context.load_verify_locations(node.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"node.tls_certificate, tls_key or tls_client_ca cannot be used: {reason}") from None
    return context
