"""The commands of the docs that send results: run as they are printed, with dcmtk's receiver as the peer."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.result_files import along_z, program, results, write_source

pytestmark = pytest.mark.peer
DOCS = ("docs/how-to/pacs.md", "docs/reference/dicom-output.md")
COMMAND = re.compile(r"^(?:TCP_NODELAY=1 )?storescu .*$", re.MULTILINE)


def documented() -> list[str]:
    """Every storescu command of the docs, without what follows as a comment."""
    texts = [(ROOT / page).read_text("utf-8") for page in DOCS]
    return [found.partition("#")[0].strip() for text in texts for found in COMMAND.findall(text)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_there_are_commands_to_test() -> None:
    assert len(documented()) >= 3


@pytest.mark.parametrize("command", documented())
def test_a_documented_command_sends_every_object(command: str, tmp_path: Path) -> None:
    program("storescu")
    pytest.importorskip("highdicom")
    results(write_source(tmp_path / "in", along_z(0, 5, 10)), tmp_path / "out")
    sent = list((tmp_path / "out" / "dicom").rglob("*.dcm"))
    assert len(sent) == 6  # two maps, a report, an overlay per slice
    received, port = tmp_path / "received", free_port()
    received.mkdir()
    receiver = subprocess.Popen([program("storescp"), "--output-directory", received, str(port)])
    try:
        wait_for(port)
        words = re.sub(r"\S+ \d+ out/dicom|HOST PORT OUT/dicom", f"127.0.0.1 {port} out/dicom", command)
        done = subprocess.run(["sh", "-c", words], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(list(received.iterdir())) == len(sent)
    finally:
        receiver.terminate()
        receiver.wait(timeout=30)


def wait_for(port: int) -> None:
    """Until somebody listens."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError
