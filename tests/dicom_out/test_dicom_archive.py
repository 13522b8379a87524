"""Orthanc, an archive, takes every object by STOW-RS and C-STORE, and returns it by QIDO-RS and WADO-RS.

It is started here, on free ports of the loopback interface, and stopped at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

pytest.importorskip("highdicom")
pynetdicom = pytest.importorskip("pynetdicom")

from tests.helpers.result_files import along_z, program, results, write_source

pytestmark = [pytest.mark.peer, pytest.mark.slow]

DICOM_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
SECONDS_TO_START = 20


@dataclass(frozen=True)
class Archive:
    http: str
    dicom_port: int

    def get(self, path: str, accept: str = "application/json") -> bytes:
        request = urllib.request.Request(f"{self.http}{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=20) as response:
            return bytes(response.read())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def orthanc() -> str:
    """Debian puts servers into /usr/sbin, which is not on everybody's PATH."""
    return shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin") or program("Orthanc")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    server = orthanc()
    if not DICOM_WEB.exists():
        pytest.skip("orthanc-dicomweb is not installed")
    folder = tmp_path_factory.mktemp("orthanc")
    http, dicom = free_port(), free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "files"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": http,
        "DicomPort": dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": [str(DICOM_WEB)],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([server, str(folder / "orthanc.json")], stdout=log, stderr=log)
    found = Archive(f"http://127.0.0.1:{http}", dicom)
    try:
        for _ in range(SECONDS_TO_START * 10):
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError):
                found.get("/system")
                break
            time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def objects(tmp_path: Path) -> list[Path]:
    """Maps, report and overlays of a series: two quality maps and two noise maps, for there is a gap."""
    results(write_source(tmp_path / "in", along_z(0, 5, 20)), tmp_path)
    paths = sorted((tmp_path / "dicom").rglob("*.dcm"))
    assert len(paths) == 8
    return paths


def stow(archive: Archive, paths: list[Path]) -> dict[str, Any]:
    """PS3.18 10.5: all objects in one request."""
    body = io.BytesIO()
    for path in paths:
        body.write(b"--part\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n")
    body.write(b"--part--\r\n")
    request = urllib.request.Request(
        f"{archive.http}/dicom-web/studies",
        data=body.getvalue(),
        headers={
            "Content-Type": 'multipart/related; type="application/dicom"; boundary=part',
            "Accept": "application/dicom+json",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def wado(archive: Archive, dataset: Dataset) -> Dataset:
    """PS3.18 10.4: one instance."""
    path = (
        f"/dicom-web/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
        f"/instances/{dataset.SOPInstanceUID}"
    )
    accept = 'multipart/related; type="application/dicom"'
    request = urllib.request.Request(f"{archive.http}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as response:
        head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
        (part,) = message_from_bytes(head + response.read()).get_payload()
    return pydicom.dcmread(io.BytesIO(part.get_payload(decode=True)))


def assert_returned(archive: Archive, paths: list[Path]) -> None:
    for path in paths:
        dataset = pydicom.dcmread(path)
        query = f"/dicom-web/instances?SOPInstanceUID={dataset.SOPInstanceUID}"
        (answer,) = json.loads(archive.get(query, "application/dicom+json"))  # QIDO-RS, PS3.18 10.6
        assert answer["00080016"]["Value"] == [dataset.SOPClassUID]
        assert wado(archive, dataset) == dataset  # every attribute, the pixels too


def test_stow_qido_wado(archive: Archive, objects: list[Path]) -> None:
    answer = stow(archive, objects)
    assert len(answer["00081199"]["Value"]) == len(objects)  # Referenced SOP Sequence: stored
    assert answer.get("00081198", {}).get("Value", []) == []  # Failed SOP Sequence
    assert_returned(archive, objects)


def test_c_store(archive: Archive, objects: list[Path]) -> None:
    entity = pynetdicom.AE(ae_title="N2Q_EDGE")
    datasets = [pydicom.dcmread(path) for path in objects]
    for sop_class in {dataset.SOPClassUID for dataset in datasets}:
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", archive.dicom_port)
    assert association.is_established
    try:
        assert len(association.accepted_contexts) == 3
        for dataset in datasets:
            assert association.send_c_store(dataset).Status == 0x0000
    finally:
        association.release()
    assert_returned(archive, objects)
