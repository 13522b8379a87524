from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.lanes import worker_count
from n2q_edge.assessment.results import (
    ModelReason,
    ModelRejected,
    RunReport,
    SeriesReport,
    SliceResult,
)
from n2q_edge.assessment.run import assess, assess_series
from n2q_edge.dicom import Inventory, LoadedSlice, Rejected, Series, SliceReader, SliceRef, scan
from n2q_edge.errors import ExitCode
from tests.helpers.fakes import TISSUE_HU, FakeRuntime, phantom, write_series, write_slice

CtSeries = Callable[..., Path]


def by_brightness(hu: FloatArray) -> FloatArray:
    """Quality in tissue = HU / 100, so that a slice's number can be told from its score."""
    return np.clip(hu / 100, 0, 1)


def series_of(*paths: Path) -> Series:
    (series,) = scan(list(paths)).series
    return series


def results(outcomes: Iterable[object]) -> list[SliceResult]:
    return [outcome for outcome in outcomes if isinstance(outcome, SliceResult)]


def close(stream: Iterator[object]) -> None:
    """End a generator early."""
    assert isinstance(stream, Generator)
    stream.close()


def ramp(folder: Path, values: list[float], size: int = 96) -> list[str]:
    return write_series(folder, [phantom(size, value) for value in values])


def test_every_slice_in_z_order_with_its_own_score(tmp_path: Path) -> None:
    uids = ramp(tmp_path, [10, 20, 30, 40])
    outcomes = list(assess_series(series_of(tmp_path), FakeRuntime(by_brightness)))
    assert [r.ref.sop_instance_uid for r in results(outcomes)] == uids
    assert [r.number for r in results(outcomes)] == [1, 2, 3, 4]
    assert [r.ref.position_mm for r in results(outcomes)] == [0, 5, 10, 15]
    means = [r.quality.mean for r in results(outcomes) if r.quality]
    assert means == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_batches_give_the_same_results_in_the_same_order(tmp_path: Path, batch: int) -> None:
    ramp(tmp_path, [10, 20, 30, 40, 50])
    runtime = FakeRuntime(by_brightness)
    outcomes = results(list(assess_series(series_of(tmp_path), runtime, batch=batch)))
    assert [r.quality.mean for r in outcomes if r.quality] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert max(shape[0] for shape in runtime.calls) == min(batch, 5)
    # The fake says 8 ms a slice for every batch.
    assert [r.times.infer for r in outcomes] == pytest.approx([8.0] * 5)


def test_the_stream_is_lazy(tmp_path: Path) -> None:
    ramp(tmp_path, [50] * (worker_count() + 8))
    runtime = FakeRuntime()
    stream = assess_series(series_of(tmp_path), runtime)
    next(stream)
    close(stream)
    assert len(runtime.calls) <= 1 + worker_count() + 1  # a warm-up and what may be ahead


def test_sizes_are_padded_with_air_and_cropped_back(tmp_path: Path) -> None:
    write_series(tmp_path, [np.full((70, 90), TISSUE_HU, np.float32)])
    seen: list[FloatArray] = []

    def remember(hu: FloatArray) -> FloatArray:
        seen.append(hu.copy())
        return by_brightness(hu)

    (result,) = results(list(assess_series(series_of(tmp_path), FakeRuntime(remember, size_multiple=16))))
    assert seen[0].shape == (1, 1, 80, 96)  # the next multiples of 16
    assert (seen[0][0, 0, 70:] == -1024).all()
    assert (seen[0][0, 0, :, 90:] == -1024).all()
    assert result.images is not None
    assert result.images.quality_map.shape == (70, 90)
    assert result.quality is not None
    assert result.quality.mean == pytest.approx(0.5)  # padding would have lowered it


def test_air_has_no_scores(ct_series: CtSeries) -> None:
    folder = ct_series(images=[np.full((96, 96), -1000, np.float32)])
    (result,) = results(list(assess_series(series_of(folder), FakeRuntime())))
    assert result.quality is None
    assert result.dose is None
    assert result.noise_hu is None
    assert "no_body" in result.flags


def test_dose_and_noise_of_a_slice(tmp_path: Path) -> None:
    noisy = phantom(256) + np.random.default_rng(0).normal(0, 20, (256, 256))
    write_series(tmp_path, [noisy.astype(np.float32)])
    (result,) = results(list(assess_series(series_of(tmp_path), FakeRuntime(dose=(0, 0, 0.25, 0.75, 0)))))
    assert result.dose is not None
    assert result.dose.level == 50
    assert list(result.dose.probabilities) == [0, 0, 0.25, 0.75, 0]
    assert result.noise_hu == pytest.approx(20, rel=0.05)


def dark(hu: FloatArray) -> bool:
    """A batch with a slice of less than 15 HU tissue."""
    return bool((hu.max(axis=(1, 2, 3)) < 15).any())


@pytest.mark.parametrize("batch", [1, 4])
def test_a_slice_the_model_fails_on_does_not_stop_the_series(tmp_path: Path, batch: int) -> None:
    uids = ramp(tmp_path, [20, 30, 10, 40])
    outcomes = list(
        assess_series(series_of(tmp_path), FakeRuntime(by_brightness, fails_on=dark), batch=batch)
    )
    rejected = outcomes[2]
    assert isinstance(rejected, ModelRejected)
    assert rejected.reason is ModelReason.MODEL_FAILED
    assert rejected.sop_instance_uid == uids[2]
    assert "told to fail" in rejected.detail
    assert [r.number for r in results(outcomes)] == [1, 2, 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_output_that_is_no_number_is_rejected(tmp_path: Path, bad: float) -> None:
    ramp(tmp_path, [20, 10, 30])

    def spoiled(hu: FloatArray) -> FloatArray:
        quality = by_brightness(hu)
        if dark(hu):
            quality[0, 0, 0, 0] = bad
        return quality

    outcomes = list(assess_series(series_of(tmp_path), FakeRuntime(spoiled)))
    assert isinstance(outcomes[1], ModelRejected)
    assert outcomes[1].reason is ModelReason.NON_FINITE_OUTPUT
    assert len(results(outcomes)) == 2


def test_a_file_that_vanishes_after_the_scan_is_rejected(ct_series: CtSeries) -> None:
    folder = ct_series(slices=3)
    series = series_of(folder)
    (folder / "slice001.dcm").unlink()
    outcomes = list(assess_series(series, FakeRuntime()))
    assert isinstance(outcomes[1], Rejected)
    assert [r.number for r in results(outcomes)] == [1, 3]


def test_one_warm_up_for_every_size(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    for number, size in enumerate((96, 96, 112), start=1):
        write_series(tmp_path / str(number), [phantom(size)] * 2, number)
    assess(scan([tmp_path]), runtime)
    assert len(runtime.calls) == 6 + 2


def test_warm_up_is_in_no_time(ct_series: CtSeries) -> None:
    def slow_first(hu: FloatArray) -> FloatArray:
        if len(runtime.calls) == 1:
            time.sleep(0.5)
        return np.full_like(hu, 0.5)

    runtime = FakeRuntime(slow_first)
    assessment = assess(scan([ct_series(slices=4)]), runtime)
    (report,) = assessment.series
    assert max(result.times.total for result in report.slices) < 450
    assert report.seconds < 0.45


def test_total_time_covers_all_stages(ct_series: CtSeries) -> None:
    def work(hu: FloatArray) -> FloatArray:
        time.sleep(0.01)  # the fake says 8 ms a slice
        return np.full_like(hu, 0.5)

    for result in results(list(assess_series(series_of(ct_series(slices=4)), FakeRuntime(work)))):
        times = result.times
        stages = times.read + times.decode + times.wait + times.infer + times.score
        assert times.total == pytest.approx(stages)


def test_the_next_slice_is_read_while_the_model_works(
    ct_series: CtSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_loaded = threading.Barrier(2, timeout=5)
    original = SliceReader.load

    def load(reader: SliceReader, ref: SliceRef) -> LoadedSlice | Rejected:
        loaded = original(reader, ref)
        if ref.position_mm == 5:  # the second slice
            both_loaded.wait()
        return loaded

    def infer(hu: FloatArray) -> FloatArray:
        if len(runtime.calls) == 1:  # the first slice's warm-up, before it has any result
            both_loaded.wait()
        return np.full_like(hu, 0.5)

    runtime = FakeRuntime(infer)
    monkeypatch.setattr(SliceReader, "load", load)
    assert len(results(assess_series(series_of(ct_series(slices=6)), runtime))) == 6


def test_the_next_series_is_begun_before_the_last_slice_of_this_one_is_taken(ct_series: CtSeries) -> None:
    """Or a run over many series of one slice would use one core."""
    folders = [ct_series(slices=1, number=number) for number in (1, 2)]
    second_seen = threading.Event()

    def infer(hu: FloatArray) -> FloatArray:
        if len(runtime.calls) == 3:  # a warm-up, and both slices
            second_seen.set()
        return np.full_like(hu, 0.5)

    class Waits:
        def add(self, report: SeriesReport, result: SliceResult) -> None:
            assert second_seen.wait(timeout=5)

        def finish(self, report: SeriesReport) -> None:
            finished.append(report.number)

    finished: list[int] = []
    runtime = FakeRuntime(infer)
    assessment = assess(scan(folders), runtime, collector=Waits())
    assert [len(report.slices) for report in assessment.series] == [1, 1]
    assert finished == [1, 2]


def test_no_thread_is_left_behind(ct_series: CtSeries) -> None:
    before = threading.active_count()
    stream = assess_series(series_of(ct_series(slices=6)), FakeRuntime())
    next(stream)
    close(stream)
    assert threading.active_count() == before


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    def interrupt(hu: FloatArray) -> FloatArray:
        if dark(hu):  # the third slice
            raise KeyboardInterrupt
        return np.full_like(hu, 0.5)

    ramp(tmp_path, [20, 20, 10, 20, 20, 20])
    assessment = assess(scan([tmp_path]), FakeRuntime(interrupt))
    assert not assessment.complete
    assert assessment.slices_assessed == 2
    assert assessment.exit_code() is ExitCode.INTERRUPTED


def test_only_the_worst_slices_keep_their_pixels(tmp_path: Path) -> None:
    ramp(tmp_path, [50, 20, 40, 10, 30])
    assessment = assess(scan([tmp_path]), FakeRuntime(by_brightness), worst=2, keep_images=True)
    (report,) = assessment.series
    assert [result.number for result in report.worst] == [4, 2]
    assert all(result.images is not None for result in report.worst)
    assert all(result.images is None for result in report.slices)
    assert [result.number for result in report.summary.worst] == [4, 2]


def test_all_series_are_assessed_and_reported(ct_series: CtSeries) -> None:
    folders = [ct_series(slices=2, number=1), ct_series(slices=3, number=2)]
    seen: list[object] = []
    assessment = assess(scan(folders), FakeRuntime(), on_outcome=seen.append)
    assert [len(report.slices) for report in assessment.series] == [2, 3]
    assert len({report.series.series_instance_uid for report in assessment.series}) == 2
    assert len(seen) == 5


class TestExitCode:
    def run(self, folder: Path, quality: float = 0.75) -> RunReport:
        return assess(scan([folder]), FakeRuntime(lambda hu: np.full_like(hu, quality)))

    def test_ok(self, ct_series: CtSeries) -> None:
        assert self.run(ct_series()).exit_code(0.75) is ExitCode.OK  # not below

    def test_below(self, ct_series: CtSeries) -> None:
        assert self.run(ct_series(), 0.7).exit_code(0.75) is ExitCode.BELOW_THRESHOLD

    def test_partial(self, ct_series: CtSeries) -> None:
        folder = ct_series()
        (folder / "empty.dcm").touch()
        assert self.run(folder).exit_code() is ExitCode.PARTIAL

    def test_low_quality_outranks_a_rejected_file(self, ct_series: CtSeries) -> None:
        folder = ct_series()
        (folder / "empty.dcm").touch()
        assert self.run(folder).exit_code(0.9) is ExitCode.BELOW_THRESHOLD

    def test_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "note.txt").write_text("no CT here")
        assert self.run(tmp_path).exit_code() is ExitCode.NOTHING_ASSESSED

    def test_air_alone_is_assessed_but_never_below(self, ct_series: CtSeries) -> None:
        folder = ct_series(images=[np.full((96, 96), -1000, np.float32)])
        assert self.run(folder).exit_code(0.9) is ExitCode.OK

    def test_nothing_found(self) -> None:
        empty = Inventory(series=(), rejected=(), skipped=(), files_seen=0)
        assert assess(empty, FakeRuntime()).exit_code(0.5) is ExitCode.NOTHING_ASSESSED


def test_pixels_of_slices_that_are_done_are_garbage(tmp_path: Path) -> None:
    """So memory does not grow with the number of slices."""
    write_slice(tmp_path / "a.dcm", phantom(64), 0)
    (series,) = scan([tmp_path]).series
    many = Series(series.study_instance_uid, series.series_instance_uid, series.slices * 60, (), {})
    stream = assess_series(many, FakeRuntime())
    alive = []
    for number, _ in enumerate(stream, start=1):
        if number % 20 == 0:
            alive.append(sum(isinstance(item, LoadedSlice) for item in gc.get_objects()))
    assert len(alive) == 3
    assert max(alive) <= 2 + worker_count()  # in each worker; the others leave room for chance
