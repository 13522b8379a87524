"""One result to one destination: C-STORE, STOW-RS, a folder, a webhook, or an e-mail."""

from __future__ import annotations

import json
import shutil
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian

import n2q_edge
from n2q_edge.dicom_out.ct_image import stable_uid
from n2q_edge.errors import require
from n2q_edge.files import write_text
from n2q_edge.quality.policy import Webhook
from n2q_edge.report.webhook import post
from n2q_edge.service import commitment
from n2q_edge.service.revisions import Manifest, Results, WrittenObject
from n2q_edge.service.settings import Destination, Settings

if TYPE_CHECKING:
    from n2q_edge.service.outbox import Entry

WARNINGS = range(0xB000, 0xC000)  # stored, with a remark (PS3.7 C)
COMMITMENT_WAIT_S = 2.0  # for an answer on the same association
COMMITMENT_POLL_S = 5.0
KIND_OF_OBJECTS = {"report": ("report",), "overlays": ("overlay",), "maps": ("quality_map", "noise_map")}


class DeliveryError(Exception):
    """It did not work this time; one line that says why."""


class NotYet(Exception):  # noqa: N818 - not an error
    """Sent, and the peer has not said yet that it keeps it."""

    def __init__(self, seconds: float, transaction: str) -> None:
        super().__init__()
        self.seconds, self.transaction = seconds, transaction


def deliver(settings: Settings, destination: Destination, results: Results, entry: Entry) -> None:
    """Deliver a result.

    Raises:
        DeliveryError: it did not work; try again later.
        NotYet: ask again later whether it is kept.
        OSError: as `DeliveryError`.
        N2QError: as `DeliveryError`.
    """
    folder = results.folder(entry.series_key, entry.revision)
    try:
        manifest = results.read(folder)
    except (OSError, ValueError, TypeError) as error:
        raise DeliveryError(f"the result cannot be read: {error}") from None
    if destination.kind == "dicom":
        if destination.commitment and entry.transaction:
            _check_commitment(settings, entry)
            return
        _c_store(settings, destination, folder, _objects(destination, manifest, results))
    elif destination.kind == "stow":
        _stow(destination, folder, _objects(destination, manifest, results))
    elif destination.kind == "folder":
        _copy(folder, Path(destination.folder) / manifest.name)
    elif destination.kind == "webhook":
        _post(destination, manifest)
    else:
        _mail(settings, manifest)


def _objects(destination: Destination, manifest: Manifest, results: Results) -> list[WrittenObject]:
    """The objects to send: of the kinds wanted, less those that the revision before had already."""
    wanted = {kind for name in destination.objects for kind in KIND_OF_OBJECTS[name]}
    known: set[str] = set()
    if manifest.revision > 1:
        before = results.folder(manifest.series_key, manifest.revision - 1)
        try:
            known = {each.sop_instance for each in results.read(before).objects}
        except (OSError, ValueError, TypeError):
            known = set()  # then all of it is sent: twice is harmless
    return [each for each in manifest.objects if each.kind in wanted and each.sop_instance not in known]


# ---------------------------------------------------------------------------------------------------- DICOM


def _c_store(
    settings: Settings, destination: Destination, folder: Path, objects: Sequence[WrittenObject]
) -> None:
    """Send objects over one association; all of them or an error."""
    if not objects:
        return
    from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

    classes = sorted({each.sop_class for each in objects})
    if destination.commitment:
        classes.append(StorageCommitmentPushModel)
    answered = threading.Event()
    assoc = associate(
        settings.node.ae_title, destination, classes, _commitment_handlers(settings.data, answered)
    )
    try:
        for each in objects:
            _store_one(assoc, folder / each.file)
        if destination.commitment:
            _ask_commitment(settings, assoc, objects, answered)
    finally:
        assoc.release()


def associate(calling: str, peer: Destination, classes: Sequence[str], handlers: Sequence[Any] = ()) -> Any:
    """An association with a peer.

    Raises:
        DeliveryError: there is none.
    """
    from pynetdicom import AE, evt

    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = peer.timeout_s
    for sop_class in classes:
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    tls = None
    if peer.tls_ca:
        context = ssl.create_default_context(cafile=peer.tls_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        tls = (context, peer.host)
    assoc = ae.associate(
        peer.host,
        peer.port,
        ae_title=peer.ae_title,
        tls_args=tls,
        evt_handlers=[(evt.EVT_CONN_OPEN, no_delay), *handlers],
    )
    if not assoc.is_established:
        reason = "rejected the association" if assoc.is_rejected else "does not answer"
        raise DeliveryError(f"{peer.ae_title} at {peer.host}:{peer.port} {reason}")
    return assoc


def no_delay(event: Any) -> None:
    """Turn Nagle's algorithm off: it costs 40 ms an object."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _store_one(assoc: Any, path: Path) -> None:
    try:
        status = assoc.send_c_store(path)
    except (ValueError, RuntimeError) as error:  # the context was not accepted; the peer is gone
        raise DeliveryError(str(error)) from None
    code = status.get("Status")
    if code is None:
        raise DeliveryError("the peer broke the association off")
    if code != 0 and code not in WARNINGS:
        raise DeliveryError(f"the peer answered {code:04X} to C-STORE")


def _commitment_handlers(data: Path, answered: threading.Event) -> list[Any]:
    from pynetdicom import evt

    write_down = commitment.receiver(data)

    def on_report(event: Any) -> Any:
        status = write_down(event)
        answered.set()
        return status

    return [(evt.EVT_N_EVENT_REPORT, on_report)]


def _ask_commitment(
    settings: Settings, assoc: Any, objects: Sequence[WrittenObject], answered: threading.Event
) -> None:
    from pynetdicom.sop_class import (  # type: ignore[attr-defined]
        StorageCommitmentPushModel,
        StorageCommitmentPushModelInstance,
    )

    transaction = str(stable_uid("commitment", *(each.sop_instance for each in objects), time.time_ns()))
    commitment.expect(settings.data, transaction)
    information = commitment.request(transaction, [(each.sop_class, each.sop_instance) for each in objects])
    try:
        status, _ = assoc.send_n_action(
            information, commitment.REQUEST, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except (ValueError, RuntimeError) as error:
        commitment.forget(settings.data, transaction)
        raise DeliveryError(f"no storage commitment: {error}") from None
    if status.get("Status") != 0:
        commitment.forget(settings.data, transaction)
        raise DeliveryError(f"the peer answered {status.get('Status')} to the request for storage commitment")
    answered.wait(COMMITMENT_WAIT_S)
    raise NotYet(0.0 if answered.is_set() else COMMITMENT_POLL_S, transaction)


def _check_commitment(settings: Settings, entry: Entry) -> None:
    granted = commitment.answer(settings.data, entry.transaction)
    waited = time.time() - entry.asked
    if granted is None and waited < settings.retry.longest_s:
        raise NotYet(COMMITMENT_POLL_S, entry.transaction)
    commitment.forget(settings.data, entry.transaction)
    if not granted:
        raise DeliveryError("the peer did not commit to keep the objects")


# ------------------------------------------------------------------------------------------------- the others


def _stow(destination: Destination, folder: Path, objects: Sequence[WrittenObject]) -> None:
    """Send objects by one STOW-RS request."""
    if not objects:
        return
    api = require("dicomweb_client.api", "service")
    requests = require("requests", "service")
    headers = _bearer(destination)
    client = api.DICOMwebClient(destination.url, session=_TimedSession.make(requests, destination.timeout_s))
    client.set_http_retry_params(retry=False)
    if headers:
        client._session.headers.update(headers)
    try:
        response = client.store_instances([dcmread(folder / each.file) for each in objects])
    except (requests.RequestException, ValueError) as error:
        raise DeliveryError(f"STOW-RS failed: {error}") from None
    if failed := response.get("FailedSOPSequence"):
        raise DeliveryError(f"the archive refused {len(failed)} of {len(objects)} objects")


class _TimedSession:
    """A session whose every request has a time-out; requests itself waits for ever."""

    @staticmethod
    def make(requests: Any, timeout_s: float) -> Any:
        session = requests.Session()
        send = session.send
        session.send = lambda request, **options: send(request, **{**options, "timeout": timeout_s})
        return session


def _bearer(destination: Destination) -> dict[str, str]:
    if not destination.token_file:
        return {}
    return {"Authorization": f"Bearer {Path(destination.token_file).read_text('utf-8').strip()}"}


def _copy(folder: Path, target: Path) -> None:
    """Copy a result; it appears whole."""
    if target.exists():
        return
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, part)
    part.rename(target)


def message(manifest: Manifest) -> dict[str, Any]:
    """What a webhook gets: UIDs that find the series in the archive, verdict and numbers; no name or path."""
    return {
        "schema_version": 1,
        "sender": f"n2q-edge {n2q_edge.__version__}",
        "created": manifest.created,
        "revision": manifest.revision,
        "study_instance_uid": manifest.study_uid,
        "series_instance_uid": manifest.series_uid,
        "model": manifest.model,
        "summary": manifest.summary,
    }


def _post(destination: Destination, manifest: Manifest) -> None:
    trouble = post(Webhook(destination.url, frozenset(), destination.timeout_s), message(manifest))
    if trouble:
        raise DeliveryError(f"the webhook was not reached: {trouble}")


def _mail(settings: Settings, manifest: Manifest) -> None:
    """Write to people, unless they know of this scanner and rule already."""
    summary, email = manifest.summary, settings.email
    if summary.get("verdict") not in email.verdicts:
        return
    topic = f"{summary.get('station') or summary.get('scanner') or 'CT'} / {summary.get('rule')}"
    state = settings.data / "outbox" / "email.state"
    try:
        sent: dict[str, float] = json.loads(state.read_text("utf-8"))
    except (OSError, ValueError):
        sent = {}
    if time.time() - sent.get(topic, 0.0) < email.cooldown_h * 3600:
        return
    try:
        _smtp(settings, _mail_text(settings, manifest, topic))
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryError(f"the mail server did not take the message: {error}") from None
    write_text(state, json.dumps(sent | {topic: time.time()}))


def _mail_text(settings: Settings, manifest: Manifest, topic: str) -> EmailMessage:
    summary = manifest.summary
    mail = EmailMessage()
    mail["Subject"] = f"n2q-edge: {summary.get('verdict_word')} ({topic})"
    mail["From"], mail["To"] = settings.email.sender, ", ".join(settings.email.to)
    lines = [
        f"Verdict: {summary.get('verdict_word')}",
        *(f"  {reason}" for reason in summary.get("reasons", ())),
        f"Scanner: {summary.get('scanner')}, {summary.get('station')}",
        f"Protocol: {summary.get('protocol')}",
        f"Slices: {summary.get('slices')}, noise {summary.get('noise_hu')} HU",
        f"Series: {manifest.series_key[:8]}, revision {manifest.revision}",
        "",
        f"No further message for this scanner and rule within {settings.email.cooldown_h:g} h.",
    ]
    mail.set_content("\n".join(lines))
    return mail


def _smtp(settings: Settings, mail: EmailMessage) -> None:
    email = settings.email
    with smtplib.SMTP(email.server, email.port, timeout=30) as server:
        if email.starttls:
            server.starttls(context=ssl.create_default_context())
        if email.user:
            server.login(email.user, Path(email.password_file).read_text("utf-8").strip())
        server.send_message(mail)
