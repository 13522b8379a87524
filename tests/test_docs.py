"""The README and the documentation say what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import pages, release
from benchmarks.marks import END
from n2q_edge.errors import ExitCode
from n2q_edge.released_models import names
from tests.helpers.fakes import phantom, write_series
from tests.helpers.paths import ROOT

README = ROOT / "README.md"
PAGES = sorted(
    path for folder in (".", "benchmarks", "export", "docs") for path in (ROOT / folder).glob("*.md")
) + sorted((ROOT / "docs").glob("*/*.md"))


def between(page: Path, mark: str) -> str:
    return page.read_text("utf-8").split(f"{mark}\n", 1)[1].split(END, 1)[0].rstrip()


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_the_readme_shows_the_accuracy_of_the_released_models() -> None:
    table = release.accuracy({name: release.test_of(name) for name in names()})
    assert between(README, release.ACCURACY) == table


def test_the_readme_shows_the_speed_of_the_published_run() -> None:
    table = pages.readme_part(pages.read_all(pages.RESULTS), "amd-epyc-2")
    assert between(README, pages.SPEED) == table.rstrip()


def test_exit_codes_are_all_explained() -> None:
    page = (ROOT / "docs" / "reference" / "exit-codes.md").read_text("utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == list(map(int, ExitCode))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    generated = {(ROOT / "docs" / "reference" / "commands.md").resolve()}
    broken = [
        link
        for link in links
        if "://" not in link
        and not (page.parent / link).exists()
        and (page.parent / link).resolve() not in generated
    ]
    assert broken == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "doctrees")]
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text("utf-8")
    assert "--fail-below" in commands
    assert "n2q-edge doctor" in commands


def test_the_example_of_the_readme_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `make demo`, with a slice in HU at hand: numbers on the terminal, and what `assess -o` writes."""
    pytest.importorskip("onnxruntime")
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    write_series(tmp_path / "demo" / "series", [phantom()] * 2, 1)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"hu": phantom()}
    exec(example, scope)
    (series,) = scope["run"].to_dict()["series"]
    assert scope["result"].quality == pytest.approx(series["slices"][0]["quality"]["mean"], abs=1e-3)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "report.json", "slices.csv"} <= written
