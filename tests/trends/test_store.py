from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.results import RunReport
from n2q_edge.assessment.run import assess
from n2q_edge.dicom import scan
from n2q_edge.errors import OutputError, UsageError
from n2q_edge.trends import database, store
from n2q_edge.trends.database import salt_file
from n2q_edge.trends.store import Appended, append, read
from tests.helpers.fakes import FakeRuntime, phantom, write_series
from tests.helpers.paths import ROOT

CtSeries = Callable[..., Path]
SECRETS = (b"SECRET", b"1.2.826.0.1.3680043.8.498.1", b"slice000", b"IN WORDS")


def by_brightness(hu: FloatArray) -> FloatArray:
    return np.clip(hu / 100, 0, 1)


class OtherModel(FakeRuntime):
    def describe(self) -> dict[str, object]:
        return {**super().describe(), "model_sha256": "1" * 64}


def run(folder: Path, runtime: FakeRuntime | None = None) -> RunReport:
    return assess(scan([folder]), runtime or FakeRuntime(by_brightness))


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(query).fetchall()
    connection.close()
    return found


def test_appending_twice_adds_nothing(ct_series: CtSeries, tmp_path: Path) -> None:
    db, folder = tmp_path / "t.sqlite", ct_series(images=[phantom(96, 20), phantom(96, 40)])
    assert append(db, run(folder)) == Appended(new=2, replaced=0, without_uid=0)
    first = read(db)
    assert append(db, run(folder)) == Appended(new=0, replaced=2, without_uid=0)
    assert read(db) == first
    assert [series.qualities for series in first] == [pytest.approx((0.2, 0.4))]


def test_a_model_without_a_dose_head(ct_series: CtSeries, tmp_path: Path) -> None:
    db = tmp_path / "t.sqlite"
    append(db, run(ct_series(slices=1), FakeRuntime(dose=None)))
    assert rows(db, "SELECT dose_levels FROM ai_model") == [("[]",)]
    assert rows(db, "SELECT quality_mean, dose_level FROM slice") == [(0.75, None)]


def test_a_part_first_and_the_rest_later(tmp_path: Path) -> None:
    write_series(tmp_path / "s", [phantom(96, 20), phantom(96, 40), phantom(96, 60)])
    db = tmp_path / "t.sqlite"
    append(db, run(tmp_path / "s" / "slice001.dcm"))
    assert append(db, run(tmp_path / "s")) == Appended(new=2, replaced=1, without_uid=0)
    (series,) = read(db)
    assert series.qualities == pytest.approx((0.2, 0.4, 0.6))


def test_another_model_is_another_row(ct_series: CtSeries, tmp_path: Path) -> None:
    db, folder = tmp_path / "t.sqlite", ct_series()
    append(db, run(folder))
    assert append(db, run(folder, OtherModel(by_brightness))).new == 3
    assert len({series.ai_model for series in read(db)}) == 2


def test_a_new_score_replaces_the_old_one(ct_series: CtSeries, tmp_path: Path) -> None:
    db, folder = tmp_path / "t.sqlite", ct_series(slices=1)
    append(db, run(folder))
    append(db, run(folder, FakeRuntime(lambda hu: np.full_like(hu, 0.25))))
    assert [series.qualities for series in read(db)] == [(0.25,)]


def test_protocol_and_histogram_are_kept(ct_series: CtSeries, tmp_path: Path) -> None:
    db = tmp_path / "t.sqlite"
    assessment = run(ct_series(slices=1))
    append(db, assessment)
    (series,) = read(db)
    assert (series.protocol["kernel"], series.protocol["kvp"]) == ("STANDARD", 120)
    quality = assessment.series[0].slices[0].quality
    assert quality
    ((histogram,),) = rows(db, "SELECT quality_histogram FROM slice")
    assert json.loads(str(histogram)) == list(quality.histogram)


# --------------------------------------------------------------------------------------------------- identity


def stored_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("t.sqlite*") if path.suffix != ".salt")


def test_nothing_identifies_a_patient(ct_series: CtSeries, tmp_path: Path) -> None:
    append(tmp_path / "t.sqlite", run(ct_series()))
    assert not [secret for secret in SECRETS if secret in stored_bytes(tmp_path)]


def test_with_phi_keeps_the_uids_but_no_name(ct_series: CtSeries, tmp_path: Path) -> None:
    db = tmp_path / "t.sqlite"
    append(db, run(ct_series()), with_phi=True)
    (series,) = read(db)
    assert series.series_uid == "1.2.826.0.1.3680043.8.498.1"
    assert b"SECRET" not in stored_bytes(tmp_path)
    assert not salt_file(db).exists()


def test_two_sites_store_one_uid_differently(ct_series: CtSeries, tmp_path: Path) -> None:
    assessment = run(ct_series())
    for name in ("a", "b"):
        append(tmp_path / name, assessment)
    (a,), (b,) = (read(tmp_path / name) for name in ("a", "b"))
    assert a.series_uid != b.series_uid


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_only_the_owner_reads_the_salt(ct_series: CtSeries, tmp_path: Path) -> None:
    db = tmp_path / "t.sqlite"
    append(db, run(ct_series()))
    assert salt_file(db).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [None, "", "zz", "00" * 32])
def test_without_its_salt_a_database_takes_nothing(
    ct_series: CtSeries, tmp_path: Path, content: str | None
) -> None:
    db, assessment = tmp_path / "t.sqlite", run(ct_series())
    append(db, assessment)
    salt_file(db).unlink()
    if content is not None:
        salt_file(db).write_text(content)
    with pytest.raises(UsageError, match="salt"):
        append(db, assessment)
    assert len(read(db)) == 1  # reading needs no salt


@pytest.mark.parametrize("first", [True, False])
def test_identity_is_decided_once(ct_series: CtSeries, tmp_path: Path, first: bool) -> None:
    db, assessment = tmp_path / "t.sqlite", run(ct_series())
    append(db, assessment, with_phi=first)
    with pytest.raises(UsageError, match="identity"):
        append(db, assessment, with_phi=not first)


# ------------------------------------------------------------------------------------------------ other files


def test_a_file_that_is_no_database(tmp_path: Path, ct_series: CtSeries) -> None:
    db = tmp_path / "t.sqlite"
    db.write_text("this is not a database, but a text that is long enough to look like one" * 20)
    with pytest.raises(OutputError, match=r"t\.sqlite"):
        append(db, run(ct_series()))
    with pytest.raises(OutputError, match=r"t\.sqlite"):
        read(db)


def test_a_database_of_another_program_stays_as_it_is(tmp_path: Path, ct_series: CtSeries) -> None:
    db = tmp_path / "t.sqlite"
    connection = sqlite3.connect(db)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = db.read_bytes()
    for attempt in (lambda: append(db, run(ct_series())), lambda: read(db)):
        with pytest.raises(UsageError, match="not a trend database"):
            attempt()
    assert db.read_bytes() == before


def test_there_is_no_such_database(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no trend database"):
        read(tmp_path / "nowhere.sqlite")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path, ct_series: CtSeries) -> None:
    with pytest.raises(OutputError, match="cannot"):
        append(tmp_path / "no" / "t.sqlite", run(ct_series()))


def test_slices_without_a_uid_are_counted_and_left_out(tmp_path: Path, ct_series: CtSeries) -> None:
    assessment = run(ct_series(slices=2))
    first = assessment.series[0].slices[0]
    assessment.series[0].slices[0] = replace(first, ref=replace(first.ref, sop_instance_uid=""))
    assert append(tmp_path / "t.sqlite", assessment) == Appended(new=1, replaced=0, without_uid=1)


# -------------------------------------------------------------------------------------------------- migration


def test_a_newer_schema_brings_an_old_database_up_to_date(
    ct_series: CtSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, assessment = tmp_path / "t.sqlite", run(ct_series())
    append(db, assessment)
    step = "CREATE TABLE note (text TEXT); INSERT INTO note VALUES ('made by the migration');"
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, step))
    with pytest.raises(UsageError, match="append once"):
        read(db)
    append(db, assessment)
    assert rows(db, "SELECT text FROM note") == [("made by the migration",)]
    assert len(read(db)) == 1


def test_an_older_program_does_not_touch_a_newer_schema(ct_series: CtSeries, tmp_path: Path) -> None:
    db, assessment = tmp_path / "t.sqlite", run(ct_series())
    append(db, assessment)
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for attempt in (lambda: append(db, assessment), lambda: read(db)):
        with pytest.raises(UsageError, match="newer"):
            attempt()


def test_a_failure_leaves_nothing_of_a_run(
    ct_series: CtSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "t.sqlite"
    append(db, run(ct_series(slices=1)))
    real, calls = store._store_slice, []

    def fail_at_the_third(*arguments: object) -> int:
        calls.append(arguments)
        if len(calls) == 3:
            raise sqlite3.OperationalError("database or disk is full")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "_store_slice", fail_at_the_third)
    with pytest.raises(OutputError, match="disk is full"):
        append(db, run(ct_series(slices=5, number=2)))
    assert rows(db, "SELECT count(*) FROM slice") == [(1,)]
    assert rows(db, "SELECT count(*) FROM series") == [(1,)]


# ------------------------------------------------------------------------------------------------ concurrency

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import numpy as np
from tests.helpers.fakes import FakeRuntime
from n2q_edge.assessment.run import assess
from n2q_edge.dicom import scan
from n2q_edge.trends.store import append
run = assess(scan([Path(sys.argv[3])]), FakeRuntime(lambda hu: np.clip(hu / 100, 0, 1)))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    append(Path(sys.argv[2]), run)
"""


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    """Three write a series of their own and one that they share, ten times each, into a new database."""
    db, shared = tmp_path / "t.sqlite", [phantom(96, 50)] * 2
    write_series(tmp_path / "in" / "shared", shared, number=99)
    for number in (1, 2, 3):
        write_series(tmp_path / "in" / str(number), [phantom(96, 10 * number)] * 4, number)
        for path in (tmp_path / "in" / "shared").iterdir():
            (tmp_path / "in" / str(number) / f"shared_{path.name}").write_bytes(path.read_bytes())
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(ROOT), str(db), str(tmp_path / "in" / number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in ("1", "2", "3")
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    for writer in writers:
        for stream in (writer.stdin, writer.stdout):
            assert stream
            stream.close()
    assert rows(db, "SELECT count(*) FROM slice") == [(3 * 4 + 2,)]
    assert sorted(len(series.qualities) for series in read(db)) == [2, 4, 4, 4]
