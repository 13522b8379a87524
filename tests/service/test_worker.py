"""The worker with an assessor that has no model: arrival, close, revisions, duplicates, recovery."""

from __future__ import annotations

import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, XRayRadiationDoseSRStorage

from n2q_edge.dicom_out.source_header import MANUFACTURER, MODEL_NAME
from n2q_edge.service import outbox
from n2q_edge.service import worker as module
from n2q_edge.service.index import recent_series
from n2q_edge.service.revisions import Results
from n2q_edge.service.settings import Destination, Node, Series, Settings
from n2q_edge.service.spool import Spool, series_key
from n2q_edge.service.worker import Worker
from tests.helpers.fake_assessor import FakeAssessor
from tests.helpers.node_files import slice_dataset

KEY = series_key(slice_dataset(1).SeriesInstanceUID)


class Bench:
    """A worker whose clock the test moves."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **rules: float) -> None:
        self.settings = Settings(
            node=Node(data=str(folder)),
            series=Series(**{"quiet_s": 10.0, "cap_s": 600.0, **rules}),
            destination=(Destination(name="pacs", kind="folder", folder=str(folder / "pacs")),),
        )
        self.offset = 0.0
        now = module.time.time
        monkeypatch.setattr(module.time, "time", lambda: now() + self.offset)
        self.restart()

    def restart(self) -> None:
        """What happens when a worker was killed: a new one, nothing of the old one in memory."""
        self.spool = Spool(self.settings.data)
        self.assessor = FakeAssessor()
        self.worker = Worker(self.settings, self.spool, self.assessor)
        self.worker.recover()

    def send(
        self, *numbers: int, association: str = "a" * 16, change: Callable[[Dataset], None] | None = None
    ) -> None:
        for number in numbers:
            dataset = slice_dataset(number)
            if change:
                change(dataset)
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            self.spool.store((buffer.getvalue(),), association, number)

    def wait(self, seconds: float = 0.0) -> None:
        """Let time pass, and results be written."""
        self.offset += seconds
        self.worker.step()
        self.worker._writer.submit(int).result()  # the writer is through with what came before
        self.worker.step()

    def results(self) -> list[tuple[int, list[str]]]:
        """Revision and slice numbers of every result."""
        results = Results(self.settings.data)
        found = []
        for folder in results.all():
            manifest = results.read(folder)
            found.append(
                (manifest.revision, sorted(each.sop_uid.rpartition(".")[2] for each in manifest.slices))
            )
        return found


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_every_slice_is_assessed_when_it_is_there_and_the_series_when_it_is_quiet(bench: Bench) -> None:
    bench.send(1, 2, 3)
    bench.worker.step()
    assert len(bench.assessor.submitted) == 3
    bench.wait(9)
    assert bench.results() == []
    bench.wait(2)
    assert bench.results() == [(1, ["1", "2", "3"])]
    assert not bench.spool.arrived()


def test_a_series_stays_open_while_an_association_that_carried_it_is(bench: Bench) -> None:
    association = bench.spool.open_association()
    bench.send(1, association=association)
    bench.worker.step()
    bench.wait(60)
    assert bench.results() == []
    bench.spool.close_association(association)
    bench.wait()
    assert bench.results() == [(1, ["1"])]


def test_the_cap_closes_a_series_that_never_ends(bench: Bench) -> None:
    association = bench.spool.open_association()
    bench.send(1, association=association)
    bench.worker.step()
    bench.wait(599)
    assert bench.results() == []
    bench.wait(2)
    assert bench.results() == [(1, ["1"])]


def test_a_series_said_to_be_complete_closes_at_once(bench: Bench) -> None:
    bench.send(1, 2)
    bench.worker.step()
    bench.spool.ask_to_close(slice_dataset(1).SeriesInstanceUID)
    bench.wait()
    assert bench.results() == [(1, ["1", "2"])]


def test_a_late_slice_makes_a_second_result_of_all(bench: Bench) -> None:
    bench.send(1, 2)
    bench.worker.step()
    bench.wait(11)
    bench.send(3)
    bench.worker.step()
    bench.wait(11)
    assert bench.results() == [(1, ["1", "2"]), (2, ["1", "2", "3"])]


def test_the_same_slice_again_is_no_news(bench: Bench) -> None:
    bench.send(1, 2)
    bench.send(2, association="b" * 16)
    bench.worker.step()
    bench.send(1)
    bench.wait(11)
    bench.send(1, 2, association="b" * 16)
    bench.worker.step()
    bench.wait(11)
    assert bench.results() == [(1, ["1", "2"])]
    assert not list((bench.spool.root / "conflicts").iterdir())


def test_other_bytes_under_a_known_uid_are_set_aside_and_counted(bench: Bench) -> None:
    def other(dataset: Dataset) -> None:
        dataset.PixelData = bytes(len(dataset.PixelData))

    bench.send(1)
    bench.send(1, association="b" * 16, change=other)
    bench.worker.step()
    bench.wait(11)
    results = Results(bench.settings.data)
    assert results.latest(KEY).conflicts == 1
    assert len(list((bench.spool.root / "conflicts").iterdir())) == 1
    bench.send(1, change=other)  # after the result, too
    bench.worker.step()
    bench.wait(11)
    assert len(bench.results()) == 1
    assert len(list((bench.spool.root / "conflicts").iterdir())) == 2


def test_our_own_results_are_dropped(bench: Bench) -> None:
    def ours(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
        dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, MODEL_NAME

    bench.send(1, change=ours)
    bench.worker.step()
    bench.wait(11)
    assert bench.results() == []
    assert not list(bench.settings.data.rglob("*.dcm"))


def test_a_dose_report_is_kept_and_is_no_slice(bench: Bench) -> None:
    def dose(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = XRayRadiationDoseSRStorage

    bench.send(1, change=dose)
    bench.worker.step()
    bench.wait(11)
    assert bench.results() == []
    assert len(list((bench.spool.root / "doses").iterdir())) == 1


def test_junk_is_set_aside_and_stops_nothing(bench: Bench) -> None:
    bench.spool.store((b"\0" * 128 + b"DICM" + b"\xff" * 500,), "a" * 16, 1)
    bench.send(2)
    bench.worker.step()
    bench.wait(11)
    assert bench.results() == [(1, ["2"])]
    assert len(list((bench.spool.root / "conflicts").iterdir())) == 1


@pytest.mark.parametrize("steps", [0, 1])
def test_a_worker_killed_before_the_result_begins_again(bench: Bench, steps: int) -> None:
    bench.send(1, 2, 3)
    for _ in range(steps):
        bench.worker.step()
    bench.restart()
    bench.worker.step()
    bench.wait(11)
    assert bench.results() == [(1, ["1", "2", "3"])]


def test_a_worker_killed_while_it_writes_leaves_no_half_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    bench.send(1, 2)
    bench.worker.step()
    with monkeypatch.context() as patch:
        patch.setattr(Results, "commit", killed)
        with pytest.raises(Killed):
            bench.wait(11)
    assert list((bench.settings.data / "results" / KEY).glob(".r001.part"))
    bench.restart()
    bench.worker.step()
    bench.wait(11)
    assert bench.results() == [(1, ["1", "2"])]
    assert [path.name for path in (bench.settings.data / "results" / KEY).iterdir()] == ["r001"]


def test_a_worker_killed_between_result_and_outbox_queues_it_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    bench.send(1, 2)
    bench.worker.step()
    with monkeypatch.context() as patch:
        patch.setattr(module.outbox, "queue", killed)
        with pytest.raises(Killed):
            bench.wait(11)
    bench.restart()
    assert len(outbox.read_entries(bench.settings.data, "pending")) == 1
    bench.restart()
    assert len(outbox.read_entries(bench.settings.data, "pending")) == 1
    assert bench.results() == [(1, ["1", "2"])]


def test_after_a_restart_known_slices_are_known(bench: Bench) -> None:
    bench.send(1, 2)
    bench.worker.step()
    bench.wait(11)
    bench.restart()
    bench.send(1, 2)
    bench.worker.step()
    bench.wait(11)
    assert bench.results() == [(1, ["1", "2"])]
    assert bench.assessor.submitted == []


def test_the_index_shows_what_arrives_and_what_is_done(bench: Bench) -> None:
    bench.send(1, 2)
    bench.worker.step()
    (row,) = recent_series(bench.settings.data, 0)
    assert (row.state, row.received, row.done, row.revision) == ("arriving", 2, 2, 0)
    bench.wait(11)
    (row,) = recent_series(bench.settings.data, 0)
    assert (row.state, row.received, row.revision, row.summary["slices"]) == ("done", 2, 1, 2)
    assert row.latency_s == pytest.approx(11, abs=2)  # the test's clock


def test_images_go_after_their_delivery_and_results_much_later(bench: Bench) -> None:
    bench.send(1)
    bench.worker.step()
    bench.wait(11)
    images = bench.spool.root / "series" / KEY
    bench.offset += 25 * 3600
    bench.worker.tidy()
    assert images.exists()  # the folder destination has not got it
    (entry,) = outbox.read_entries(bench.settings.data, "pending")
    (bench.settings.data / "outbox" / "pending" / entry.file).unlink()
    bench.worker.tidy()
    assert not images.exists()
    assert bench.results() == [(1, ["1"])]
    bench.offset += 91 * 86400
    bench.worker.tidy()
    assert bench.results() == []
    assert recent_series(bench.settings.data, 0) == []


def test_a_result_that_cannot_be_written_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    bench.send(1)
    bench.worker.step()
    with monkeypatch.context() as patch:
        patch.setattr(Results, "commit", full)
        bench.wait(11)
    assert bench.results() == []
    bench.wait(11)
    assert bench.results() == [(1, ["1"])]


def test_a_slice_that_comes_while_the_result_is_written_makes_the_next_one(bench: Bench) -> None:
    may_write = threading.Event()
    write = bench.assessor.write

    def slow(*arguments: Any) -> Any:
        may_write.wait(10)
        return write(*arguments)

    bench.assessor.write = slow
    bench.send(1, 2)
    bench.worker.step()
    bench.offset += 11
    bench.worker.step()
    assert recent_series(bench.settings.data, 0)[0].state == "closing"
    bench.send(3)
    bench.send(1)  # and one that is known
    bench.worker.step()
    bench.offset += 11
    bench.worker.step()
    assert bench.results() == []
    may_write.set()
    bench.wait()
    bench.wait()
    assert bench.results() == [(1, ["1", "2"]), (2, ["1", "2", "3"])]
