from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import n2q_edge
from n2q_edge.arrays import FloatArray
from n2q_edge.cli import main
from n2q_edge.errors import ModelError
from n2q_edge.report import document
from tests.helpers.fakes import FakeRuntime, phantom
from tests.helpers.paths import ROOT

CtSeries = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "pydicom", "scipy", "matplotlib", "numba", "numpy")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """`open_model` gives this runtime, whatever is asked for."""
    runtime = FakeRuntime(lambda hu: np.clip(hu / 100, 0, 1))
    monkeypatch.setattr("n2q_edge.runtimes.open_model", lambda *_, **__: runtime)
    return runtime


def run_process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "import sys; from n2q_edge.cli import entry; entry()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def one_line(text: str) -> bool:
    return len(text.splitlines()) == 1 and "Traceback" not in text


def test_help_and_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"n2q-edge {n2q_edge.__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    # In the page's order.
    commands = (
        "assess merge trend reference export build targets inspect train evaluate simulate phantom doctor "
        "bench "
        "listen send echo"
    )
    lines = text.partition("Commands:")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == commands.split()


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from n2q_edge.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["assess"],
        ["assess", ".", "--no-such-option"],
        ["assess", ".", "--batch", "0"],
        ["assess", ".", "--batch", "many"],
        ["assess", ".", "--fail-below", "1.5"],
        ["assess", ".", "--worst", "-1"],
        ["assess", ".", "--json", "--csv"],
        ["assess", "/no/such/path"],
    ],
)
def test_ill_usage_is_one_line_and_2(arguments: list[str], fake: FakeRuntime, capsys: Capture) -> None:
    assert main([*arguments, "--quiet"] if len(arguments) > 1 else arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert one_line(captured.err)


def test_table_on_stdout_notes_on_stderr(fake: FakeRuntime, ct_series: CtSeries, capsys: Capture) -> None:
    assert main(["assess", str(ct_series(slices=4))]) == 0
    captured = capsys.readouterr()
    assert "mean 0.500" in captured.out
    assert "4 files: 4 assessed" in captured.out
    assert "runtime fake 1.0 on cpu, chosen by auto: there is no other" in captured.err
    assert fake.closed


def test_json_is_one_valid_document_and_nothing_else(
    fake: FakeRuntime, ct_series: CtSeries, capsys: Capture
) -> None:
    assert main(["assess", str(ct_series()), "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    jsonschema.validate(built, document.schema())
    assert len(built["series"][0]["slices"]) == 3


def test_csv_on_stdout(fake: FakeRuntime, ct_series: CtSeries, capsys: Capture) -> None:
    assert main(["assess", str(ct_series()), "--csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 3


def test_quiet_says_nothing_but_errors(fake: FakeRuntime, ct_series: CtSeries, capsys: Capture) -> None:
    assert main(["assess", str(ct_series()), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_out_writes_the_folder(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "deep" / "out"
    assert main(["assess", str(ct_series()), "-o", str(out), "--worst", "1"]) == 0
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {
        "report.html",
        "report.json",
        "slices.csv",
        "series001_along.svg",
        "series001_slice0001.png",
    }
    assert f"2 pictures are in {out}" in capsys.readouterr().err


def test_partial_is_3(fake: FakeRuntime, ct_series: CtSeries, capsys: Capture) -> None:
    folder = ct_series()
    (folder / "empty.dcm").touch()
    assert main(["assess", str(folder)]) == 3
    assert "empty_file" in capsys.readouterr().out


def test_nothing_assessed_is_4_with_the_reasons(fake: FakeRuntime, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "note.txt").write_text("hello")
    assert main(["assess", str(tmp_path)]) == 4
    assert "not_dicom" in capsys.readouterr().out
    assert main(["assess", str(tmp_path), "--json"]) == 4
    built = json.loads(capsys.readouterr().out)
    jsonschema.validate(built, document.schema())
    assert built["series"] == []
    assert built["exit_code"] == 4


def test_a_model_that_always_fails_is_4(fake: FakeRuntime, ct_series: CtSeries, capsys: Capture) -> None:
    fake._fails_on = lambda hu: True
    assert main(["assess", str(ct_series())]) == 4
    assert "model_failed" in capsys.readouterr().out


def test_quality_below_the_threshold_is_10(fake: FakeRuntime, ct_series: CtSeries, capsys: Capture) -> None:
    folder = ct_series(images=[phantom(96, 40), phantom(96, 60)])  # mean 0.5
    assert main(["assess", str(folder), "--fail-below", "0.5001"]) == 10
    assert "--fail-below" in capsys.readouterr().err
    assert main(["assess", str(folder), "--fail-below", "0.4999"]) == 0


def test_model_error_is_5_and_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("model.onnx carries no spec:\nexport it again")

    monkeypatch.setattr("n2q_edge.runtimes.open_model", refuse)
    assert main(["assess", "."]) == 5
    captured = capsys.readouterr()
    assert captured.err == "n2q-edge: model.onnx carries no spec: export it again\n"


@pytest.mark.parametrize("place", [["--debug", "assess", "."], ["assess", ".", "--debug"]])
def test_debug_shows_the_traceback(
    place: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ModelError("no")

    monkeypatch.setattr("n2q_edge.runtimes.open_model", refuse)
    assert main(place) == 5
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_1_and_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("n2q_edge.runtimes.open_model", break_down)
    assert main(["assess", "."]) == 1
    error = capsys.readouterr().err
    assert one_line(error)
    assert "ZeroDivisionError" in error
    assert "--debug" in error


def test_an_output_folder_that_cannot_be_is_told_before_the_work(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").touch()
    assert main(["assess", str(ct_series()), "-o", str(tmp_path / "file")]) == 7
    assert one_line(capsys.readouterr().err)
    assert fake.calls == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_7() -> None:
    code = "import sys; from n2q_edge.cli import entry\nfrom n2q_edge.cli.console import results\n"
    code += "import n2q_edge.cli as cli\n"
    code += "@cli.app.command()\ndef shout() -> int:\n    with results(): print('x' * 10)\n    return 0\n"
    code += "sys.argv = ['n2q-edge', 'shout']; entry()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 7
    assert one_line(done.stderr)
    assert "No space left on device" in done.stderr


def test_ctrl_c_writes_and_prints_what_is_done(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    def interrupt(hu: FloatArray) -> FloatArray:
        if hu.max() < 15:  # the third slice
            raise KeyboardInterrupt
        return np.full_like(hu, 0.5)

    fake._quality = interrupt
    out = tmp_path / "out"
    folder = ct_series(images=[phantom(96, hu) for hu in (20, 20, 10, 20, 20, 20)])
    assert main(["assess", str(folder), "-o", str(out), "--json"]) == 130
    built = json.loads(capsys.readouterr().out)
    assert built["complete"] is False
    assert len(built["series"][0]["slices"]) == 2
    assert json.loads((out / "report.json").read_text()) == built


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_real_sigint_ends_the_process_with_130(ct_series: CtSeries, tmp_path: Path) -> None:
    folder = ct_series(slices=12)
    script = tmp_path / "run.py"
    script.write_text(
        "import signal, sys, time\n"
        # A shell's background job is born with SIGINT ignored, and so would its children be.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import numpy as np\n"
        "import n2q_edge.runtimes\n"
        "from tests.helpers.fakes import FakeRuntime\n"
        "def slow(hu):\n"
        "    print('slice', file=sys.stderr, flush=True)\n"
        "    time.sleep(0.3)\n"
        "    return np.full_like(hu, 0.5)\n"
        "n2q_edge.runtimes.open_model = lambda *a, **k: FakeRuntime(slow)\n"
        "from n2q_edge.cli import entry\n"
        f"sys.argv = ['n2q-edge', 'assess', {str(folder)!r}, '--json', '--quiet']\n"
        "entry()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for _ in range(6):  # a warm-up, four slices, and into the fifth: the first is out, whoever was quicker
        process.stderr.readline()
    os.kill(process.pid, signal.SIGINT)
    started = time.monotonic()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 20
    assert json.loads(out)["complete"] is False
    assert 1 <= len(json.loads(out)["series"][0]["slices"]) <= 6


def test_the_zoo_is_partial_and_every_file_is_accounted_for(
    shared_dir: Path, fake: FakeRuntime, capsys: Capture
) -> None:
    assert main(["assess", str(shared_dir / "zoo"), "--json", "--quiet"]) == 3
    captured = capsys.readouterr()
    built = json.loads(captured.out)
    jsonschema.validate(built, document.schema())
    files = built["files"]
    assert files["seen"] == sum(path.is_file() for path in (shared_dir / "zoo").rglob("*"))
    assert files["seen"] == files["assessed"] + files["rejected"] + files["skipped"]
    assert files["assessed"] > 0
    assert "Traceback" not in captured.err


def test_a_real_series(shared_dir: Path, fake: FakeRuntime, capsys: Capture) -> None:
    assert main(["assess", str(shared_dir / "ct" / "tcga-lihc"), "--json", "--quiet"]) == 0
    (series,) = json.loads(capsys.readouterr().out)["series"]
    assert series["summary"]["slices"] == 99
    noise = [one["noise_hu"] for one in series["slices"]]
    assert all(5 < level < 40 for level in noise)  # a routine abdomen: 10 to 15 HU
