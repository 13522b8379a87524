"""What a newcomer meets: help, examples, completion, environment variables."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from n2q_edge.cli import main

Capture = pytest.CaptureFixture[str]


def test_the_bare_command_prints_help_with_examples(capsys: Capture) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Usage: n2q-edge")
    assert "n2q-edge assess series/ -o report/" in said
    assert max(len(line) for line in said.splitlines()) <= 88
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("value", ["1", "true"])
def test_options_can_be_set_in_the_environment(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("N2Q_EDGE_TARGETS_JSON", value)
    assert main(["targets"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_a_wrong_value_in_the_environment_is_ill_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("N2Q_EDGE_ASSESS_FAIL_BELOW", "high")
    assert main(["assess", "."]) == 2
    assert "--fail-below" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"), [("n2q-edge ass", "assess"), ("n2q-edge assess --fail", "--fail-below")]
)
def test_the_shell_completes(line: str, expected: str) -> None:
    words = {"_N2Q_EDGE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    command = [sys.executable, "-c", "from n2q_edge.cli import entry; entry()"]
    done = subprocess.run(
        command, env={"PATH": "", "PYTHONPATH": ":".join(sys.path), **words}, capture_output=True, text=True
    )
    assert expected in done.stdout.split()
