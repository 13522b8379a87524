"""Every promise of docs/reference/reliability.md names a test that is there."""

from __future__ import annotations

import re

import pytest

from tests.helpers.paths import ROOT

PAGE = (ROOT / "docs" / "reference" / "reliability.md").read_text("utf-8")
NAMED = re.findall(r"`(\w+/test_\w+\.py)(?:::(test_\w+))?`", PAGE)


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "test |" not in line]
    assert len(rows) > 20
    assert all(".py" in row for row in rows)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_is_there(file: str, name: str) -> None:
    text = (ROOT / "tests" / file).read_text("utf-8")
    assert not name or f"def {name}(" in text
