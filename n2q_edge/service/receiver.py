"""The process that listens: every object is on the disk before its sender hears that it was stored.

It never imports a runtime and never decodes a data set.
"""

from __future__ import annotations

import logging
import re
import ssl
import threading
import time
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom.filewriter import write_file_meta_info
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dsutils import create_file_meta
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    Verification,
)

from n2q_edge.dicom.classify import CT_CLASSES
from n2q_edge.service import commitment, metrics, mpps
from n2q_edge.service.process import HEARTBEAT_S, beat
from n2q_edge.service.settings import Settings
from n2q_edge.service.spool import Spool
from n2q_edge.service.transport import MAX_PDU, ArrivingDataSet, NodeServer, tls_context
from n2q_edge.service.watch import Watcher

log = logging.getLogger("n2q_edge.receiver")

# Radiation dose reports: X-Ray Radiation Dose SR, its enhanced kind, and the Enhanced and Comprehensive SR
# that some scanners use instead.
DOSE_CLASSES = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{number}" for number in ("22", "33", "67", "76"))
UID = re.compile(r"[0-9.]{1,64}")
C_STORE_RQ = 0x0001
SUCCESS, OUT_OF_RESOURCES, INVALID_INSTANCE = 0x0000, 0xA700, 0x0117
DRAIN_S = 30.0
TRANSIENT, PRESENTATION, CONGESTION = 0x02, 0x03, 0x01  # PS3.8 9.3.4


def kind_of(sop_class: str) -> str:
    """`ct`, `dose`, or `other` for what is acknowledged and not kept."""
    if sop_class in CT_CLASSES:
        return "ct"
    return "dose" if sop_class in DOSE_CLASSES else "other"


@dataclass
class Peer:
    """One open association."""

    assoc: Association
    identifier: str
    calling: str
    address: str
    since: float = field(default_factory=time.time)
    objects: int = 0


class Receiver:
    """The SCP. `start`, then `drain`."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        """Read certificates; nothing listens yet.

        Raises:
            UsageError: a certificate cannot be used.
        """
        self._settings, self._spool = settings, spool
        self._tls: ssl.SSLContext | None = tls_context(settings.node)
        self._peers: dict[Association, Peer] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._server: NodeServer

    def start(self) -> int:
        """Listen; the port. OSError if the address cannot be used."""
        _config.UNRESTRICTED_STORAGE_SERVICE = True  # every storage class, private ones too
        node = self._settings.node
        ae = AE(node.ae_title)
        ae.maximum_pdu_size = MAX_PDU
        ae.maximum_associations = node.max_associations
        ae.acse_timeout = ae.network_timeout = ae.dimse_timeout = node.idle_timeout_s
        ae.require_called_aet = node.require_called_ae_title
        ae.require_calling_aet = list(node.calling_ae_titles)
        ae.add_supported_context(Verification)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        if node.mpps:
            ae.add_supported_context(ModalityPerformedProcedureStep)
        self._server = NodeServer(
            node,
            ae,
            (node.host, node.port),
            node.ae_title,
            ae.supported_contexts,
            evt_handlers=self._handlers(),
            make_data_set=self._data_set,
            tls=self._tls,
        )
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return int(self._server.server_address[1])

    def _handlers(self) -> list[Any]:
        steps = mpps.Steps(self._spool)
        return [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_C_ECHO, lambda _: SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_CREATE, steps.create),
            (evt.EVT_N_SET, steps.set),
            (evt.EVT_N_EVENT_REPORT, commitment.receiver(self._settings.data)),
        ]

    def drain(self, seconds: float = DRAIN_S) -> None:
        """Accept nobody any more, let those who send finish, then abort the rest."""
        self._server.stop_accepting()
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._server.active_associations:
            time.sleep(0.05)
        for assoc in self._server.active_associations:
            assoc.abort()

    def tend(self) -> None:
        """Forget the associations that ended."""
        with self._lock:
            over = [peer for assoc, peer in self._peers.items() if not assoc.is_alive()]
            for peer in over:
                del self._peers[peer.assoc]
                self._spool.close_association(peer.identifier)

    def facts(self) -> dict[str, Any]:
        """Who is sending, and who has been seen; for the status page."""
        with self._lock:
            return {
                "port": self._server.server_address[1],
                "associations": [
                    {"calling": p.calling, "address": p.address, "since": p.since, "objects": p.objects}
                    for p in self._peers.values()
                ],
                "seen": [{"calling": c, "address": a, "time": t} for (c, a), t in self._seen.items()],
            }

    # ------------------------------------------------------------------------------------ associations

    def _on_requested(self, event: evt.Event) -> None:
        """Below the reserve nobody is let in: an association that is refused loses nothing."""
        if self._has_space():
            return
        metrics.REFUSED.labels("no_space").inc()
        log.error("association refused: the disk is below its reserve")
        event.assoc.acse.send_reject(TRANSIENT, PRESENTATION, CONGESTION)
        event.assoc.is_rejected = True

    @staticmethod
    def _on_rejected(event: evt.Event) -> None:
        metrics.REFUSED.labels("association").inc()
        log.warning("association rejected", extra={"address": event.assoc.requestor.address})

    def _on_established(self, event: evt.Event) -> None:
        metrics.ASSOCIATIONS.inc()
        remote = event.assoc.requestor
        calling = remote.ae_title.strip()
        peer = Peer(event.assoc, self._spool.open_association(), calling, str(remote.address))
        with self._lock:
            self._peers[event.assoc] = peer
            self._seen.pop((calling, peer.address), None)
            self._seen[calling, peer.address] = peer.since
            while len(self._seen) > 20:
                del self._seen[next(iter(self._seen))]

    # ------------------------------------------------------------------------------------------ objects

    def _data_set(self, assoc: Association, message: DIMSEMessage) -> ArrivingDataSet:
        arriving = ArrivingDataSet(self._settings.spool.chunk_mb * 1_000_000, self._spool.create)
        arriving.header = lambda: self._header(assoc, message.command_set, message.context_id)
        arriving.kept = lambda: _is_kept(message.command_set)
        return arriving

    def _header(self, assoc: Association, command: Any, context_id: int | None) -> bytes:
        """Preamble and file meta information of an object (PS3.10 7.1)."""
        context = assoc._accepted_cx[context_id or 0]
        meta = create_file_meta(
            sop_class_uid=command.AffectedSOPClassUID,
            sop_instance_uid=command.AffectedSOPInstanceUID,
            transfer_syntax=context.transfer_syntax[0],
        )
        meta.SourceApplicationEntityTitle = self._peers[assoc].calling
        buffer = BytesIO()
        write_file_meta_info(buffer, meta)  # type: ignore[arg-type]
        return b"\x00" * 128 + b"DICM" + buffer.getvalue()

    def _on_store(self, event: evt.Event) -> int:
        """Answer one C-STORE request."""
        began = time.perf_counter()
        request: Any = event.request
        data: ArrivingDataSet = request.DataSet
        kind = kind_of(str(request.AffectedSOPClassUID))
        if not UID.fullmatch(str(request.AffectedSOPInstanceUID)):
            data.discard()
            return self._refuse("invalid_uid", INVALID_INSTANCE)
        peer = self._peers[event.assoc]
        peer.objects += 1
        if kind != "other":
            header = self._header(event.assoc, request, request._context_id)
            if not self._keep(data, header, peer):
                data.discard()
                return self._refuse("disk", OUT_OF_RESOURCES)
        metrics.RECEIVED.labels(kind).inc()
        metrics.RESPONSE.observe(time.perf_counter() - began)
        return SUCCESS

    def _keep(self, data: ArrivingDataSet, header: bytes, peer: Peer) -> bool:
        """Bring an object to the disk; if that fails, hold the response back and try again for a while."""
        end = time.monotonic() + self._settings.spool.hold_s
        while data.error is None:
            try:
                if self._has_space():
                    self._write(data, header, peer)
                    return True
            except OSError as error:
                log.error("cannot write to the spool", extra={"error": error.strerror})
            if time.monotonic() > end:
                break
            time.sleep(0.2)
        return False

    def _write(self, data: ArrivingDataSet, header: bytes, peer: Peer) -> None:
        if data.path is None:
            with data.getbuffer() as pixels:
                self._spool.store((header, pixels), peer.identifier, peer.objects)
                metrics.RECEIVED_BYTES.inc(len(pixels))
        else:
            data.finish()
            metrics.RECEIVED_BYTES.inc(data.path.stat().st_size)
            self._spool.publish(data.path, peer.identifier, peer.objects)
            data.path = None

    def _has_space(self) -> bool:
        return self._spool.free_mb() >= self._settings.spool.reserve_mb

    @staticmethod
    def _refuse(reason: str, status: int) -> int:
        metrics.REFUSED.labels(reason).inc()
        log.error("object refused", extra={"reason": reason, "status": f"{status:04X}"})
        return status


def _is_kept(command: Any) -> bool:
    """Whether the data set of a message is needed: not that of an object which is only acknowledged."""
    if command.CommandField != C_STORE_RQ:
        return True
    return kind_of(str(command.get("AffectedSOPClassUID", ""))) != "other"


def work(settings: Settings, stop: threading.Event) -> None:
    """Receive until `stop` is set, then drain."""
    spool = Spool(settings.data)
    removed = spool.clean()
    receiver = Receiver(settings, spool)
    port = _bind(receiver, stop)
    if port is None:
        return
    log.info("listening", extra={"host": settings.node.host, "port": port, "leftovers": removed})
    watcher = Watcher(settings.watch, spool)
    watcher.start()
    last = 0.0
    while not stop.wait(0.2):
        receiver.tend()
        if time.monotonic() - last > HEARTBEAT_S:
            last = time.monotonic()
            beat(settings.data, "receiver", **receiver.facts())
    watcher.stop()
    receiver.drain()
    receiver.tend()
    log.info("stopped")


def _bind(receiver: Receiver, stop: threading.Event) -> int | None:
    """Listen; a predecessor may still hold the port. None if told to stop."""
    while not stop.is_set():
        try:
            return receiver.start()
        except OSError as error:
            log.error("cannot listen", extra={"error": error.strerror})
            stop.wait(2.0)
    return None
