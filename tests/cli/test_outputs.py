"""What was asked for is kept: each output on its own, whatever fails, and whenever somebody interrupts."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from n2q_edge import files
from n2q_edge.arrays import FloatArray
from n2q_edge.cli import main
from n2q_edge.report import document, folder, html, slices_csv
from n2q_edge.trends import store
from tests.helpers.fakes import FakeRuntime, phantom, write_series
from tests.helpers.paths import ROOT

CtSeries = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if os.name == "posix" else []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """`open_model` gives this runtime, whatever is asked for."""
    runtime = FakeRuntime(lambda hu: np.clip(hu / 100, 0, 1))
    monkeypatch.setattr("n2q_edge.runtimes.open_model", lambda *_, **__: runtime)
    return runtime


def stored(db: Path) -> int:
    """Slices in a trend database."""
    return sum(len(series.qualities) for series in store.read(db))


def shown(out: Path) -> set[str]:
    return {path.name for path in out.iterdir() if path.name[0] != "."}


def break_down(*_: object, **__: object) -> None:
    raise TypeError("a value that nobody expected")


# ------------------------------------------------------------------------------------- each on its own


ALL = {"report.json", "slices.csv", "report.html", "series001_along.svg"}


@pytest.mark.parametrize(
    ("owner", "name", "lost"),
    [
        (document, "json_pieces", {"report.json"}),
        (slices_csv, "to_csv", {"slices.csv"}),
        (html, "html_pieces", {"report.html"}),
        (store, "append", set()),
        (document, "build", {"report.json", "slices.csv", "report.html"}),
    ],
    ids=["json", "csv", "html", "database", "document"],
)
def test_a_bug_in_one_output_costs_only_itself(
    owner: object,
    name: str,
    lost: set[str],
    fake: FakeRuntime,
    ct_series: CtSeries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.setattr(owner, name, break_down)
    out, db = tmp_path / "out", tmp_path / "t.sqlite"
    code = main(["assess", str(ct_series()), "-o", str(out), "--db", str(db), "--worst", "0", "--quiet"])
    assert code == 1
    assert shown(out) == ALL - lost
    assert stored(db) == (0 if owner is store else 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert "TypeError" in line


@pytest.fixture
def default_signals() -> Iterator[None]:
    """As in a shell's foreground; a job in the background is born with SIGINT ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_behind_the_folder_loses_no_row_and_nothing_on_stdout(
    fake: FakeRuntime, ct_series: CtSeries, full_disk: Path, tmp_path: Path, capsys: Capture
) -> None:
    db, out = tmp_path / "t.sqlite", full_disk / "out"
    (full_disk / "fill").write_bytes(bytes(236_000))
    series = str(ct_series(slices=12))
    assert main(["assess", series, "-o", str(out), "--db", str(db), "--json", "--dicom", "--quiet"]) == 7
    captured = capsys.readouterr()
    assert stored(db) == 12
    assert len(json.loads(captured.out)["series"][0]["slices"]) == 12
    assert all("No space left" in line for line in captured.err.splitlines())
    assert not list(out.glob(".*.part"))  # nothing half written


def test_a_full_disk_behind_the_database_loses_no_report(
    fake: FakeRuntime, ct_series: CtSeries, full_disk: Path, tmp_path: Path, capsys: Capture
) -> None:
    db, out = full_disk / "t.sqlite", tmp_path / "out"

    def fills_up(hu: FloatArray) -> FloatArray:
        with suppress(OSError):
            (full_disk / "fill").write_bytes(bytes(300_000))
        return np.full_like(hu, 0.5)

    fake._quality = fills_up
    assert main(["assess", str(ct_series()), "-o", str(out), "--db", str(db), "--worst", "0", "--quiet"]) == 7
    assert shown(out) == ALL


def test_a_file_that_cannot_be_replaced_costs_only_itself(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    write = files.write_file

    def refuse_pages(path: Path, data: bytes) -> None:
        if path.name == "report.html":
            raise files.OutputError(f"cannot write {path}: Permission denied")
        write(path, data)

    monkeypatch.setattr(folder, "write_file", refuse_pages)
    out = tmp_path / "out"
    assert main(["assess", str(ct_series()), "-o", str(out), "--worst", "0", "--quiet"]) == 7
    assert shown(out) == ALL - {"report.html"}


# ---------------------------------------------------------------------------------------- one run a folder


def test_a_folder_holds_the_last_run_alone(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    """The first one's pictures and DICOM objects, which name its patient, are gone; other files stay."""
    pytest.importorskip("highdicom")
    out = tmp_path / "out"
    assert main(["assess", str(ct_series(number=1)), "-o", str(out), "--dicom", "--quiet"]) == 0
    assert list(out.rglob("*.dcm"))
    (out / "notes.txt").write_text("mine")
    second = ct_series(images=[phantom(96, 60)], number=2)
    assert main(["assess", str(second), "-o", str(out), "--quiet"]) == 0
    assert shown(out) == ALL | {"series001_slice0001.png", "notes.txt", "dicom"}
    assert not list(out.rglob("*.dcm"))
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["report.json", "report.html", "slices.csv", "series001_along.svg", "dicom/series001"]
)
def test_files_of_somebody_else_are_refused_and_kept(
    name: str, fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    assert main(["assess", str(ct_series()), "-o", str(tmp_path / "out"), "--quiet"]) == 2
    assert str(theirs) in capsys.readouterr().err
    assert theirs.read_text() == "theirs"
    assert fake.calls == []


def test_a_list_that_names_files_of_others_removes_none(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path
) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    (out / folder.LIST).write_text(f"../victim\n{victim}\ndicom/../../victim\n.\n..\n\n")
    assert main(["assess", str(ct_series()), "-o", str(out), "--quiet"]) == 0
    assert victim.read_text() == "mine"


def test_two_runs_at_once_are_refused(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    with folder.OutputFolder(out):
        assert main(["assess", str(ct_series()), "-o", str(out), "--quiet"]) == 7
    assert "another run is writing" in capsys.readouterr().err
    assert main(["assess", str(tmp_path / "series1"), "-o", str(out), "--quiet"]) == 0


def test_a_run_that_finds_nothing_to_do_leaves_the_last_one(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["assess", str(ct_series()), "-o", str(out), "--worst", "0", "--quiet"]) == 0
    assert main(["assess", str(tmp_path / "no such series"), "-o", str(out), "--quiet"]) == 2
    assert shown(out) == ALL


# ------------------------------------------------------------------------------------------------- signals


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_during_the_run_keeps_what_is_done_everywhere(
    number: signal.Signals, fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    def at_the_eighth(hu: FloatArray) -> FloatArray:
        if hu.max() < 15:
            os.kill(os.getpid(), number)
            time.sleep(0.5)
        return np.clip(hu / 100, 0, 1)

    fake._quality = at_the_eighth  # the look-ahead is bounded: the first have been taken by then
    series = ct_series(images=[phantom(96, hu) for hu in (*[20] * 7, 10, *[20] * 4)])
    out, db = tmp_path / "out", tmp_path / "t.sqlite"
    before = signal.getsignal(number)
    assert main(["assess", str(series), "-o", str(out), "--db", str(db), "--json", "--quiet"]) == 130
    built = json.loads(capsys.readouterr().out)
    done = len(built["series"][0]["slices"])
    assert 0 < done < 12
    assert (built["complete"], built["exit_code"]) == (False, 130)
    assert json.loads((out / "report.json").read_text()) == built
    assert stored(db) == done
    assert shown(out) > ALL
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("owner", "name"),
    [(store, "append"), (document, "build"), (html, "html_pieces"), (slices_csv, "to_csv")],
    ids=["database", "document", "page", "csv"],
)
def test_a_signal_while_the_outputs_are_written_loses_none_of_them(
    number: signal.Signals,
    owner: object,
    name: str,
    fake: FakeRuntime,
    ct_series: CtSeries,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    write, calls = getattr(owner, name), []

    def interrupted(*arguments: object, **options: object) -> object:
        if not calls:
            os.kill(os.getpid(), number)
        calls.append(name)
        return write(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)
    out, db = tmp_path / "out", tmp_path / "t.sqlite"
    command = [
        "assess",
        str(ct_series()),
        "-o",
        str(out),
        "--db",
        str(db),
        "--worst",
        "0",
        "--json",
        "--quiet",
    ]
    assert main(command) == 130
    built = json.loads(capsys.readouterr().out)
    assert (built["complete"], built["exit_code"]) == (False, 130)
    assert json.loads((out / "report.json").read_text()) == built
    assert shown(out) == ALL
    assert stored(db) == 3


STUCK = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import n2q_edge.runtimes
from tests.helpers.fakes import FakeRuntime
seen = []
def quality(hu):
    seen.append(1)
    if len(seen) > 4:
        print("stuck", file=sys.stderr, flush=True)
        while True: time.sleep(0.1)
    return 0 * hu + 0.5
n2q_edge.runtimes.open_model = lambda *a, **k: FakeRuntime(quality)
from n2q_edge.cli import entry
entry()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("times", [1, 2])
def test_a_model_that_never_ends_does_not_outlive_a_signal(times: int, tmp_path: Path) -> None:
    """The first signal keeps what is done, after a wait of some seconds; a second one ends at once."""
    write_series(tmp_path / "series", [phantom()] * 8)
    command = [sys.executable, "-c", STUCK, "assess", str(tmp_path / "series"), "--json", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "stuck" not in process.stderr.readline():
        pass
    process.terminate()
    if times == 2:
        time.sleep(0.5)
        process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert bool(out) == (times == 1)
    if out:
        assert json.loads(out)["complete"] is False


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_signal_that_the_caller_ignores_stays_ignored(fake: FakeRuntime, ct_series: CtSeries) -> None:
    """`nohup n2q-edge ...` goes on when the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fake._quality = lambda hu: (os.kill(os.getpid(), signal.SIGHUP), np.full_like(hu, 0.5))[1]
        assert main(["assess", str(ct_series()), "--quiet"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_commands_can_run_in_a_thread_of_a_host(fake: FakeRuntime, ct_series: CtSeries) -> None:
    codes: list[int] = []
    series = str(ct_series())
    thread = threading.Thread(target=lambda: codes.append(main(["assess", series, "--quiet"])))
    thread.start()
    thread.join(60)
    assert codes == [0]


# -------------------------------------------------------------------------------------------------- privacy

NAME = "Doe^John"


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A series of a patient whose name is in a folder, the description and the protocol."""
    import pydicom

    series = tmp_path / f"{NAME}_19600102"
    write_series(series, [phantom()] * 3)
    for path in series.iterdir():
        data = pydicom.dcmread(path)
        data.SeriesDescription, data.ProtocolName = f"{NAME} thorax", f"for {NAME}"
        data.save_as(path)
    (series / "empty.dcm").touch()
    (series / "note.txt").write_text("hello")
    return series


def outputs(out: Path, stdout: str) -> str:
    texts = [path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file()]
    return "\n".join([*texts, stdout])


@pytest.mark.parametrize("how", [[], ["--json"], ["--csv"]], ids=["table", "json", "csv"])
def test_no_output_has_a_name_from_folders_or_descriptions(
    how: list[str], fake: FakeRuntime, named: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert main(["assess", str(named), "-o", str(out), *how]) == 3
    captured = capsys.readouterr()
    assert NAME not in outputs(out, captured.out + captured.err)
    built = json.loads((out / "report.json").read_text())
    assert built["series"][0]["slices"][0]["path"] == "slice000.dcm"
    assert built["rejected"][0]["path"] == "empty.dcm"
    assert built["skipped"][0]["path"] == "note.txt"


def test_the_user_may_keep_them(fake: FakeRuntime, named: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["assess", str(named), "-o", str(out), "--with-phi", "--quiet"]) == 3
    built = json.loads((out / "report.json").read_text())
    assert built["series"][0]["slices"][0]["path"] == str(named / "slice000.dcm")
    assert built["series"][0]["protocol"]["series_description"] == f"{NAME} thorax"


def test_several_paths_stay_apart(fake: FakeRuntime, ct_series: CtSeries, capsys: Capture) -> None:
    assert main(["assess", str(ct_series(number=1)), str(ct_series(number=2)), "--csv", "--quiet"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["path"].partition("/")[0] for row in rows} == {"[1]", "[2]"}


def test_all_that_is_written_is_on_the_list(fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path) -> None:
    """A run that is killed leaves nothing that the next one does not know."""
    pytest.importorskip("highdicom")
    out = tmp_path / "out"
    assert main(["assess", str(ct_series()), "-o", str(out), "--dicom", "--quiet"]) == 0
    listed = set((out / folder.LIST).read_text().split())
    assert listed == {*(shown(out) - {"dicom"}), "dicom/series001"}
