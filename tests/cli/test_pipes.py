"""A reader that has seen enough is a normal end, for results of any size and with any of the writers."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.fakes import phantom, write_series
from tests.helpers.paths import ROOT

FAKE = (
    "import sys\n"
    f"sys.path.insert(0, {str(ROOT)!r})\n"
    "import n2q_edge.runtimes\n"
    "from tests.helpers.fakes import FakeRuntime\n"
    "n2q_edge.runtimes.open_model = lambda *a, **k: FakeRuntime()\n"
    "from n2q_edge.cli import entry\n"
    "entry()\n"
)


def first_bytes(count: int, *arguments: str) -> tuple[int, bytes, str]:
    """Run a command, read `count` bytes of what it says, close the pipe; its code, the bytes, stderr."""
    command = [sys.executable, "-c", FAKE, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    read = process.stdout.read(count)
    process.stdout.close()
    error = process.stderr.read().decode()
    return process.wait(timeout=60), read, error


@pytest.fixture
def series(tmp_path: Path) -> str:
    write_series(tmp_path / "series", [phantom(32)] * 40)  # their JSON is more than a pipe holds (64 KiB)
    return str(tmp_path / "series")


def test_assess_into_head_keeps_as_much(series: str, tmp_path: Path) -> None:
    """It says less; the folder and the database are whole."""
    out, db = tmp_path / "out", tmp_path / "t.sqlite"
    keep = ["-o", str(out), "--db", str(db), "--worst", "0", "--quiet"]
    code, read, error = first_bytes(100, "assess", series, "--json", *keep)
    assert (code, len(read), error) == (0, 100, "")
    assert len(json.loads((out / "report.json").read_text())["series"][0]["slices"]) == 40
    with sqlite3.connect(db) as connection:
        assert connection.execute("SELECT count(*) FROM slice").fetchone() == (40,)


@pytest.mark.parametrize("arguments", [["assess", "{}"], ["assess", "{}", "--csv"], ["--help"], ["doctor"]])
def test_nobody_reads_at_all(arguments: list[str], series: str) -> None:
    code, _, error = first_bytes(0, *[argument.format(series) for argument in arguments])
    assert code == 0, error
    assert "Error" not in error


def test_stdout_and_stderr_may_be_closed_from_the_start(series: str) -> None:
    shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", FAKE, "assess", series]
    assert subprocess.run(shell, timeout=60).returncode == 0
