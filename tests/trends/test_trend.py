from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from n2q_edge.cli import main
from n2q_edge.errors import UsageError
from n2q_edge.quality.policy import load_policy
from n2q_edge.trends import control, groups, page, table
from n2q_edge.trends.store import PROTOCOL, StoredSeries
from tests.helpers.fakes import FakeRuntime, phantom

CtSeries = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


def stored(quality: float, number: int = 0, model: str = "m 1 abc", **protocol: Any) -> StoredSeries:
    known = {
        **dict.fromkeys(PROTOCOL),
        "manufacturer": "GE",
        "model": "VCT",
        "kernel": "STANDARD",
        **protocol,
    }
    when = f"2026-01-{number % 28 + 1:02d}T10:00:00.000Z"
    return StoredSeries(f"uid{number}", 1, when, model, known, (quality,) * 4, (12.0,), 0)


def series_in_time(values: list[float], **protocol: Any) -> list[StoredSeries]:
    return [stored(value, number, **protocol) for number, value in enumerate(values)]


ALTERNATING = [0.80, 0.82] * 10
"""Moving ranges are all 0.02, so sigma is 0.02 / 0.954 and the limits are 0.81 -+ 0.0629."""


def test_limits_by_arithmetic() -> None:
    limits = control.control_limits(ALTERNATING)
    assert limits
    assert limits.centre == pytest.approx(0.81)
    assert limits.low == pytest.approx(0.81 - 3 * 0.02 / 0.954)
    assert limits.high == pytest.approx(0.81 + 3 * 0.02 / 0.954)
    assert limits.moving_range == pytest.approx(3.865 * 0.02)


def test_sigma_of_normal_values_is_right() -> None:
    """The constants estimate the standard deviation of independent normal values: here 0.05."""
    random.seed(1)
    limits = control.control_limits([random.gauss(0.7, 0.05) for _ in range(20000)])
    assert limits
    assert (limits.high - limits.centre) / 3 == pytest.approx(0.05, rel=0.03)


def test_a_few_bad_scans_do_not_widen_the_limits() -> None:
    clean, spoilt = control.control_limits(ALTERNATING), control.control_limits([*ALTERNATING, 0.2])
    assert clean
    assert spoilt
    assert spoilt.low == pytest.approx(clean.low, abs=0.02)  # the median moves by half a step


def test_no_limits_from_a_handful() -> None:
    assert control.control_limits([0.8] * (control.MIN_VALUES - 1)) is None


def test_outliers_are_found_and_said_why() -> None:
    (one,) = groups.group(series_in_time([*ALTERNATING, 0.5, 0.81]), ("scanner",), load_policy())
    assert [point.series.series_uid for point in one.outliers] == ["uid20"]  # not the way back
    assert "outside" in str(one.outliers[0].outlier)


def test_groups_are_by_key_and_never_across_models() -> None:
    data = [
        stored(0.8, 1, kernel="A"),
        stored(0.8, 2, kernel="B"),
        stored(0.8, 3, kernel="A", model="m 2 def"),
        stored(0.8, 4, kernel="A", protocol_name="ABDOMEN"),
    ]
    found = groups.group(data, ("kernel",), load_policy())
    assert [(one.keys, one.ai_model, len(one.points)) for one in found] == [
        (("A",), "m 1 abc", 2),
        (("A",), "m 2 def", 1),
        (("B",), "m 1 abc", 1),
    ]
    assert len(groups.group(data, ("kernel", "protocol"), load_policy())) == 4


def test_a_threshold_can_change_later(tmp_path: Path) -> None:
    strict = tmp_path / "strict.toml"
    strict.write_text(
        'schema_version = 1\nname = "strict"\n[[rule]]\nname = "all"\n'
        "usable = { series_mean = 0.9 }\nmeets = { series_mean = 0.95 }\n"
    )
    data = [stored(0.85)]
    assert groups.group(data, ("kernel",), load_policy())[0].verdicts() == {"usable": 1}
    assert groups.group(data, ("kernel",), load_policy(strict))[0].verdicts() == {"unusable": 1}


@pytest.mark.parametrize("by", ["", "scaner", "kernel,kernel"])
def test_bad_keys(by: str) -> None:
    with pytest.raises(UsageError, match="--by"):
        groups.parse_by(by)


def test_keys() -> None:
    assert groups.parse_by("protocol, scanner,kernel") == ("protocol", "scanner", "kernel")


def test_csv_has_a_row_a_series() -> None:
    found = groups.group(
        series_in_time([*ALTERNATING, 0.5], ctdivol=8.0), ("scanner", "kernel"), load_policy()
    )
    rows = list(csv.DictReader(io.StringIO(groups.to_csv(found, ("scanner", "kernel")))))
    assert len(rows) == 21
    assert rows[0]["scanner"] == "GE VCT"
    assert float(rows[0]["quality_mean"]) == pytest.approx(0.8)
    assert float(rows[0]["ctdivol"]) == 8
    assert rows[0]["outlier"] == ""
    assert rows[20]["outlier"].startswith("outside")


def test_rank_correlation() -> None:
    assert control.rank_correlation([1, 2, 4, 8, 16], [0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(1)
    assert control.rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) is None
    assert control.rank_correlation([5] * 6, [1, 2, 3, 4, 5, 6]) is None


def test_the_table_names_groups_and_outliers() -> None:
    console = Console(file=io.StringIO(), width=100)
    table.render(groups.group(series_in_time([*ALTERNATING, 0.5]), ("scanner",), load_policy()), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "GE VCT" in text
    assert "quality 0.500, outside" in text


def test_the_page_shows_charts_and_escapes_names(tmp_path: Path) -> None:
    name = '<script>alert(1)</script>"&'
    data = series_in_time(ALTERNATING, protocol_name=name)
    data = [
        StoredSeries(**{**vars(series), "protocol": {**series.protocol, "ctdivol": 5.0 + number}})
        for number, series in enumerate(data)
    ]
    found = groups.group(data, ("protocol",), load_policy())
    html = page.to_html(found, ("protocol",), load_policy(), tmp_path / "t.sqlite")
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert html.count("<svg") == 3  # individuals, moving range, dose
    assert "Spearman" in html
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html)


def test_an_empty_page(tmp_path: Path) -> None:
    assert "no series with a score" in page.to_html([], ("kernel",), load_policy(), tmp_path / "t")


# ----------------------------------------------------------------------------------------------- command line


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    runtime = FakeRuntime(lambda hu: np.clip(hu / 100, 0, 1))
    monkeypatch.setattr("n2q_edge.runtimes.open_model", lambda *_, **__: runtime)
    return runtime


def test_assess_fills_and_trend_reads(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    db, out = tmp_path / "t.sqlite", tmp_path / "trend.html"
    for number in (1, 2):
        images = [phantom(96, 30 * number)] * 2
        assert main(["assess", str(ct_series(images=images, number=number)), "--db", str(db)]) == 0
    assert "2 new slices" in capsys.readouterr().err
    assert main(["trend", "--db", str(db), "--by", "kernel", "--csv", "-o", str(out)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["quality_mean"]) for row in rows] == pytest.approx([0.3, 0.6])
    assert "STANDARD" in out.read_text("utf-8")


def test_a_database_that_cannot_be_used_ends_the_run_before_it_begins(
    fake: FakeRuntime, ct_series: CtSeries, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["assess", str(ct_series()), "--db", str(tmp_path / "no" / "t.sqlite")]) == 7
    assert fake.calls == []
    assert capsys.readouterr().out == ""
