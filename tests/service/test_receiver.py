"""The receiver, with pynetdicom as the sender; dcmtk's tools where they are installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedSRStorage, ExplicitVRLittleEndian, JPEGLosslessSV1
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from n2q_edge.service import receiver as module
from n2q_edge.service.receiver import Receiver
from n2q_edge.service.settings import Node, Settings
from n2q_edge.service.settings import Spool as SpoolSettings
from n2q_edge.service.spool import Spool
from n2q_edge.service.transport import ArrivingDataSet
from tests.helpers.node_files import encoded, slice_dataset, write_series

PRIVATE_CLASS = "1.2.826.0.1.3680043.8.498.99"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


class Listening:
    """A receiver that runs."""

    def __init__(self, folder: Path, **changes: object) -> None:
        spool = {key: changes.pop(key) for key in list(changes) if key in SpoolSettings.__dataclass_fields__}
        node = Node(port=0, data=str(folder / "data"), **changes)
        self.settings = Settings(node=node, spool=SpoolSettings(**{"reserve_mb": 1, "hold_s": 0.3, **spool}))
        self.spool = Spool(self.settings.data)
        self.receiver = Receiver(self.settings, self.spool)
        self.port = self.receiver.start()

    def associate(self, *contexts: tuple[str, str], **options: object):
        ae = AE(str(options.pop("calling", "CT1")))
        for sop_class, syntax in contexts or ((CTImageStorage, ExplicitVRLittleEndian),):
            ae.add_requested_context(sop_class, syntax)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
        return ae.associate("127.0.0.1", self.port, **{"ae_title": "N2Q-EDGE", **options})


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    node = Listening(tmp_path)
    yield node
    node.receiver.drain(0)


def test_what_arrives_is_what_was_sent(listening: Listening) -> None:
    sent = slice_dataset(1)
    assoc = listening.associate()
    assert assoc.send_c_store(sent).Status == 0x0000
    assoc.release()
    (path,) = listening.spool.arrived()
    kept = dcmread(path)
    assert kept == sent
    assert kept.file_meta.SourceApplicationEntityTitle == "CT1"
    assert kept.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_echo(listening: Listening) -> None:
    assoc = listening.associate((Verification, ExplicitVRLittleEndian))
    assert assoc.send_c_echo().Status == 0x0000
    assoc.release()


def test_a_mixed_study_goes_through_and_only_images_and_dose_reports_are_kept(listening: Listening) -> None:
    contexts = [
        (CTImageStorage, ExplicitVRLittleEndian),
        (EnhancedSRStorage, ExplicitVRLittleEndian),
        (SECONDARY_CAPTURE, ExplicitVRLittleEndian),
        (PRIVATE_CLASS, ExplicitVRLittleEndian),
    ]
    assoc = listening.associate(*contexts)
    assert assoc.is_established
    statuses = []
    for number, (sop_class, _) in enumerate([*contexts, contexts[0]], start=1):
        dataset = slice_dataset(number)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
        statuses.append(assoc.send_c_store(dataset).Status)
    assoc.release()
    assert statuses == [0] * 5
    kept = [str(dcmread(path).SOPClassUID) for path in listening.spool.arrived()]
    assert sorted(kept) == sorted([CTImageStorage, EnhancedSRStorage, CTImageStorage])


def test_a_compressed_object_is_kept_as_it_came(listening: Listening) -> None:
    dataset = slice_dataset(1)
    data = b"\xff\xd8 not decoded by a receiver \xff\xd9 "
    dataset.PixelData = (
        b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0" + len(data).to_bytes(4, "little") + data
    )
    dataset.PixelData += b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    assoc = listening.associate((CTImageStorage, JPEGLosslessSV1))
    assert assoc.send_c_store(dataset).Status == 0x0000
    assoc.release()
    (path,) = listening.spool.arrived()
    kept = dcmread(path)
    assert kept.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    assert data in kept.PixelData


def test_a_hostile_uid_is_refused_and_no_file_is_named_by_it(listening: Listening, tmp_path: Path) -> None:
    dataset = slice_dataset(1)
    assoc = listening.associate()
    request = BytesIO(encoded(dataset))
    from pynetdicom.dimse_primitives import C_STORE

    message = C_STORE()
    message.MessageID, message.Priority = 1, 2
    message.AffectedSOPClassUID, message.DataSet = CTImageStorage, request
    message._affected_sop_instance_uid = "../../evil"
    assoc._reactor_checkpoint.clear()
    assoc.dimse.send_msg(message, 1)
    _, response = assoc.dimse.get_msg(block=True)
    assert response.Status == module.INVALID_INSTANCE
    assoc.abort()
    assert not listening.spool.arrived()
    assert not list(tmp_path.rglob("*evil*"))


def test_a_large_object_does_not_stay_in_memory(tmp_path: Path) -> None:
    node = Listening(tmp_path, chunk_mb=1)
    sent = slice_dataset(1, size=1024)  # 2 MB
    assoc = node.associate()
    assert assoc.send_c_store(sent).Status == 0x0000
    assoc.release()
    (path,) = node.spool.arrived()
    assert dcmread(path) == sent
    assert not list(node.spool.temporary.iterdir())
    node.receiver.drain(0)


def test_a_large_object_is_in_a_file_while_it_arrives(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    arriving = ArrivingDataSet(100, spool.create)
    arriving.header = lambda: b"HEAD"
    for _ in range(30):
        arriving.write(b"0123456789")
        assert len(arriving.getvalue()) <= 100
    arriving.finish()
    assert arriving.path is not None
    assert arriving.path.read_bytes() == b"HEAD" + b"0123456789" * 30


def test_a_full_disk_while_a_large_object_arrives_is_an_answer_not_an_abort(tmp_path: Path) -> None:
    def full() -> tuple[int, Path]:
        raise OSError(28, "No space left on device")

    arriving = ArrivingDataSet(4, full)
    assert arriving.write(b"0123456789") == 10
    assert arriving.error is not None
    assert arriving.path is None


def test_below_the_reserve_a_response_is_held_then_the_object_is_refused(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    assoc = listening.associate()
    monkeypatch.setattr(Spool, "free_mb", lambda _: 0.5)
    began = time.monotonic()
    assert assoc.send_c_store(slice_dataset(1)).Status == 0xA700
    assert time.monotonic() - began >= 0.3  # hold_s
    assert not listening.associate().is_established  # nobody new is let in
    monkeypatch.setattr(Spool, "free_mb", lambda _: 2.0)
    assert assoc.send_c_store(slice_dataset(1)).Status == 0x0000
    assoc.release()
    assert len(listening.spool.arrived()) == 1


def test_space_that_appears_while_a_response_is_held_loses_nothing(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    assoc = listening.associate()
    answers = iter([0.5, 2.0])
    monkeypatch.setattr(Spool, "free_mb", lambda _: next(answers, 2.0))
    assert assoc.send_c_store(slice_dataset(1)).Status == 0x0000
    assoc.release()


def test_a_disk_that_fails_is_tried_again_then_answered(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    assoc = listening.associate()
    monkeypatch.setattr(Spool, "store", fails)
    assert assoc.send_c_store(slice_dataset(1)).Status == 0xA700
    assoc.release()


def test_an_open_association_is_marked_until_it_ends(listening: Listening) -> None:
    assoc = listening.associate()
    assoc.send_c_store(slice_dataset(1))
    (path,) = listening.spool.arrived()
    assert listening.spool.open_associations() == {path.name.partition("-")[0]}
    assoc.abort()
    wait_until(lambda: (listening.receiver.tend(), not listening.spool.open_associations())[1])


def test_ae_titles(tmp_path: Path) -> None:
    node = Listening(tmp_path, calling_ae_titles=("CT1",), require_called_ae_title=True)
    assert not node.associate(calling="ROGUE").is_established
    assert not node.associate(ae_title="OTHER").is_established
    assoc = node.associate()
    assert assoc.is_established
    assoc.release()
    node.receiver.drain(0)


def test_networks(tmp_path: Path) -> None:
    node = Listening(tmp_path, allowed_networks=("192.0.2.0/24",))
    assert not node.associate().is_established
    node.receiver.drain(0)


def test_a_stalled_peer_delays_nobody_and_is_thrown_out(tmp_path: Path) -> None:
    node = Listening(tmp_path, idle_timeout_s=1.0)
    with socket.create_connection(("127.0.0.1", node.port)) as silent:
        silent.sendall(b"\x01\x00\x00\x00\x01\x00")  # an A-ASSOCIATE-RQ of 256 bytes that never comes
        assoc = node.associate()
        assert assoc.send_c_store(slice_dataset(1)).Status == 0x0000
        assoc.release()
        wait_until(lambda: not node.receiver._server.active_associations)
    node.receiver.drain(0)


def test_a_pdu_that_claims_to_be_huge_is_not_believed(tmp_path: Path) -> None:
    node = Listening(tmp_path)
    with socket.create_connection(("127.0.0.1", node.port), timeout=8) as rogue:
        rogue.sendall(b"\x01\x00\x7f\xff\xff\xff")
        while rogue.recv(100):  # an abort may come first; then the connection is closed
            pass
    node.receiver.drain(0)


def test_too_many_associations_are_rejected(tmp_path: Path) -> None:
    node = Listening(tmp_path, max_associations=2)
    first, second = node.associate(), node.associate()
    third = node.associate()
    assert (first.is_established, second.is_established) == (True, True)
    assert third.is_rejected
    first.release()
    second.release()
    node.receiver.drain(0)


def test_drain_lets_a_sender_finish(listening: Listening) -> None:
    import threading

    assoc = listening.associate()
    draining = threading.Thread(target=listening.receiver.drain, args=(20,))
    draining.start()
    wait_until(lambda: _refuses(listening.port))
    statuses = [assoc.send_c_store(slice_dataset(number)).Status for number in range(1, 21)]
    assoc.release()
    draining.join(20)
    assert statuses == [0] * 20
    assert len(listening.spool.arrived()) == 20


def test_a_completed_procedure_step_asks_for_its_series(tmp_path: Path) -> None:
    from pynetdicom.sop_class import ModalityPerformedProcedureStep

    node = Listening(tmp_path, mpps=True)
    assoc = node.associate((ModalityPerformedProcedureStep, ExplicitVRLittleEndian))
    step = Dataset()
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    status, _ = assoc.send_n_create(step, ModalityPerformedProcedureStep, "1.2.3")
    assert status.Status == 0x0000
    item = Dataset()
    item.SeriesInstanceUID = "1.2.3.4"
    change = Dataset()
    change.PerformedProcedureStepStatus = "COMPLETED"
    change.PerformedSeriesSequence = [item]
    assert (
        assoc.send_n_set(change, ModalityPerformedProcedureStep, "1.2.9")[0].Status == 0x0112
    )  # no such step
    assert assoc.send_n_set(change, ModalityPerformedProcedureStep, "1.2.3")[0].Status == 0x0000
    assoc.release()
    from n2q_edge.service.spool import series_key

    assert node.spool.take_closing() == {series_key("1.2.3.4")}
    node.receiver.drain(0)


def test_commitment_is_never_offered_to_a_scanner(listening: Listening) -> None:
    from pynetdicom.sop_class import StorageCommitmentPushModel

    assoc = listening.associate((StorageCommitmentPushModel, ExplicitVRLittleEndian))
    if assoc.is_established:
        information = Dataset()
        information.TransactionUID = "1.2.3"
        try:
            status, _ = assoc.send_n_action(
                information, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
            )
            assert status.get("Status", 0x0211) != 0x0000
        except ValueError:
            pass  # the context was not accepted in this role
        assoc.abort()


@pytest.mark.peer
@pytest.mark.skipif(not shutil.which("storescu"), reason="needs dcmtk")
def test_storescu(listening: Listening, tmp_path: Path) -> None:
    write_series(tmp_path / "in", 40)
    command = ["storescu", "-aec", "N2Q-EDGE", "127.0.0.1", str(listening.port), "+sd", str(tmp_path / "in")]
    done = subprocess.run(
        command, env={"TCP_NODELAY": "1", "PATH": "/usr/bin"}, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(listening.spool.arrived()) == 40


def wait_until(holds, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False
