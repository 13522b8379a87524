"""The table of reason codes in the documentation is the enum."""

from __future__ import annotations

import re

from n2q_edge.dicom import SERIES_FLAGS, SLICE_FLAGS, Reason
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "reason-codes.md"


def test_documentation_lists_every_reason_with_its_description() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (skipped|rejected) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M
    )
    assert rows == [(reason.value, reason.kind, reason.description) for reason in Reason]


def test_documentation_lists_every_flag() -> None:
    rows = dict(
        re.findall(r"^\| `(\w+)` \| (?:slice|series) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    )
    assert {**SLICE_FLAGS, **SERIES_FLAGS}.keys() == rows.keys()


def test_codes_are_words_in_lower_case() -> None:
    for reason in Reason:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason.value)
        assert reason.description.endswith(".")
        assert reason == reason.value
