"""A trend database where nothing can be written: a CD, a snapshot, somebody else's share."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from n2q_edge.assessment.run import assess
from n2q_edge.cli import main
from n2q_edge.dicom import scan
from n2q_edge.trends.store import append
from tests.helpers.fakes import FakeRuntime

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def read_only(tmp_path: Path, ct_series: Callable[..., Path]) -> Iterator[Path]:
    """A database with one series in a file system that is mounted read-only."""
    folder = tmp_path / "site"
    folder.mkdir()
    append(folder / "t.sqlite", assess(scan([ct_series()]), FakeRuntime()))
    for command in (["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder]):
        if subprocess.run(command, capture_output=True).returncode:
            subprocess.run(["umount", folder], capture_output=True)
            pytest.skip("needs the right to mount a file system")
    yield folder / "t.sqlite"
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_trend_reads_it(read_only: Path, capsys: Capture) -> None:
    assert main(["trend", "--db", str(read_only), "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["quality_mean"]) == 0.75


def test_assess_says_that_it_cannot_append(
    read_only: Path, ct_series: Callable[..., Path], capsys: Capture
) -> None:
    assert main(["assess", str(ct_series()), "--db", str(read_only), "--quiet"]) == 7
    (line,) = capsys.readouterr().err.splitlines()
    assert str(read_only) in line
