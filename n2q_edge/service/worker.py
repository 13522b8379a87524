"""The process that assesses: every slice when it is there, every series when it is complete.

All that must not be lost is in the spool and in the results. What is in memory here can be had again from
there: a worker that was killed looks into both and goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from n2q_edge.errors import N2QError
from n2q_edge.service import metrics, outbox, retention
from n2q_edge.service.identify import Identity, digest, identify
from n2q_edge.service.index import Index, SeriesRow
from n2q_edge.service.open_series import Assessor, Item, OpenSeries, manifest_of
from n2q_edge.service.process import HEARTBEAT_S, beat
from n2q_edge.service.revisions import Manifest, Results, SliceEntry, is_queued, mark_queued
from n2q_edge.service.settings import Settings
from n2q_edge.service.spool import Spool, association_of, series_key

log = logging.getLogger("n2q_edge.worker")

MOST_AT_ONCE = 64  # files looked at before series are looked at again
POLL_S = 0.03


class Worker:
    """One step after the other; see `work`."""

    def __init__(self, settings: Settings, spool: Spool, assessor: Assessor) -> None:
        self._settings, self._spool, self._assessor = settings, spool, assessor
        self._results = Results(settings.data)
        self._index = Index(settings.data)
        self._open: dict[str, OpenSeries] = {}
        self._closing: dict[str, OpenSeries] = {}  # their results are being written
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="n2q-write")
        self._counted: set[str] = set()

    # -------------------------------------------------------------------------------------------- start

    def recover(self) -> None:
        """Make the index anew, finish what a predecessor began, open the series that miss a result."""
        self._results.clean()
        covered: dict[str, set[str]] = {}
        for folder in self._results.all():
            try:
                manifest = self._results.read(folder)
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.error("a result has no readable manifest", extra={"error": str(error)})
                continue
            self._index.add_result(manifest)
            covered.setdefault(manifest.series_key, set()).update(entry.file for entry in manifest.slices)
            if not is_queued(folder):
                self._hand_over(folder, manifest)
        for folder in sorted((self._spool.root / "series").iterdir()):
            files = sorted(folder.iterdir())
            if {path.name for path in files} - covered.get(folder.name, set()):
                for path in files:
                    self._reopen(path)
        self._index.commit()

    def _reopen(self, path: Path) -> None:
        identity = identify(path)
        if identity is not None:
            self._admit(path, identity)

    # ------------------------------------------------------------------------------------------ arrival

    def step(self) -> bool:
        """Take what has arrived, close what is complete; whether there was anything to do."""
        arrived = self._spool.arrived()
        for path in arrived[:MOST_AT_ONCE]:
            try:
                self._take(path)
            except OSError as error:
                log.error("cannot take an object from the spool", extra={"error": error.strerror})
        closed = False
        if len(arrived) <= MOST_AT_ONCE:
            closed = self._close_complete()
        closed = self._commit_written() or closed
        self._report_progress()
        self._index.commit()
        return bool(arrived) or closed

    def _take(self, path: Path) -> None:
        """Move one acknowledged file to its place and have it assessed."""
        identity = identify(path)
        if identity is None:
            self._set_aside(path, "unreadable")
        elif identity.ours:
            metrics.LOOPS.inc()
            path.unlink()
        elif identity.kind == "dose":
            self._take_dose(path)
        elif identity.kind == "ct":
            self._take_image(path, identity)
        else:
            path.unlink()  # from the watch folder; the receiver does not keep them

    def _take_dose(self, path: Path) -> None:
        outcome = self._assessor.add_dose(path)
        metrics.DOSES.labels(outcome).inc()
        if outcome == "not_dose":
            path.unlink()
        else:
            path.rename(self._spool.root / "doses" / path.name)

    def _take_image(self, path: Path, identity: Identity) -> None:
        known = self._known(identity)
        if known is None:
            place = self._spool.series_folder(identity.series_uid) / path.name
            path.rename(place)
            self._admit(place, identity)
        elif known == digest(path):
            metrics.DUPLICATES.labels("identical").inc()
            path.unlink()
        else:
            self._set_aside(path, "conflicting")
            key = series_key(identity.series_uid)
            if series := self._open.get(key) or self._closing.get(key):
                series.conflicts += 1

    def _known(self, identity: Identity) -> str | None:
        """Digest of the object that came first under this SOP Instance UID."""
        key = series_key(identity.series_uid)
        for series in (self._open.get(key), self._closing.get(key)):
            if series and (item := series.items.get(identity.sop_uid)):
                return item.work.result().digest if item.work.done() else digest(item.path)
        stored = self._index.known(identity.sop_uid)
        return stored[1] if stored else None

    def _set_aside(self, path: Path, kind: str) -> None:
        metrics.DUPLICATES.labels(kind).inc()
        log.warning("an object is set aside", extra={"reason": kind, "file": path.name})
        path.rename(self._spool.root / "conflicts" / path.name)

    def _admit(self, path: Path, identity: Identity) -> None:
        """A file in its series' folder: part of the series' next result."""
        key = series_key(identity.series_uid)
        series = self._open.get(key)
        if series is None:
            series = self._open[key] = OpenSeries(
                key, identity.series_uid, identity.study_uid, identity.protocol, identity.scanner
            )
            series.pending_since = time.time()
            for earlier in sorted(path.parent.iterdir()):  # of a late slice: those that have a result
                if earlier != path:
                    self._reopen(earlier)
        if identity.sop_uid in series.items:
            return
        arrived = path.stat().st_mtime
        series.items[identity.sop_uid] = Item(path, identity.sop_uid, arrived, self._assessor.submit(path))
        series.associations.add(association_of(path))
        series.last = max(series.last, arrived)

    # -------------------------------------------------------------------------------------------- close

    def _close_complete(self) -> bool:
        """Write the results of the series that are complete."""
        for key in self._spool.take_closing():
            if key in self._open:
                self._open[key].asked = True
        sending = self._spool.open_associations()
        begun = False
        for key, series in list(self._open.items()):
            reason = None if key in self._closing else self._complete(series, sending)
            if reason and series.done == len(series.items):
                series.closed_by = reason
                series.writing = self._writer.submit(self._write, series)
                self._closing[key] = self._open.pop(key)
                self._index.set_series(self._row(series))
                begun = True
        return begun

    def _complete(self, series: OpenSeries, sending: set[str]) -> str | None:
        now, rules = time.time(), self._settings.series
        if now < series.retry_at:
            return None
        if series.asked:
            return "asked"
        if now - series.last >= rules.quiet_s and not series.associations & sending:
            return "quiet"
        return "cap" if now - series.pending_since >= rules.cap_s else None

    def _write(self, series: OpenSeries) -> Manifest:
        """Write a result and bring it to the disk, on a thread of its own."""
        revision = self._results.newest(series.key) + 1
        before = self._results.latest(series.key) if revision > 1 else None
        part = self._results.begin(series.key, revision)
        outcomes = [item.work.result() for item in series.items.values()]
        written = self._assessor.write(part, outcomes, revision, before.report_uid if before else None)
        manifest = manifest_of(series, revision, written)
        self._results.commit(part, manifest)
        return manifest

    def _commit_written(self) -> bool:
        """Take note of the results that are on the disk; tried again later if the disk did not take one."""
        done = [
            series
            for series in self._closing.values()
            if series.writing and series.writing.done() and not series.writing.cancelled()
        ]
        for series in done:
            assert series.writing is not None
            del self._closing[series.key]
            try:
                manifest = series.writing.result()
            except (OSError, N2QError) as error:
                log.error("cannot write a result", extra={"series": series.key, "error": str(error)})
                self._open_again(series)
                continue
            self._index.add_result(manifest)
            self._hand_over(self._results.folder(manifest.series_key, manifest.revision), manifest)
            _count(manifest)
        return bool(done)

    def _open_again(self, series: OpenSeries) -> None:
        """Its result could not be written: wait, then try again with what has come meanwhile."""
        late = self._open.get(series.key)
        series.items |= late.items if late else {}
        series.associations |= late.associations if late else set()
        series.last = max(series.last, late.last if late else 0.0)
        series.writing, series.retry_at = None, time.time() + 10.0
        self._open[series.key] = series

    def _hand_over(self, folder: Path, manifest: Manifest) -> None:
        """To the outbox; done again if the process dies in between."""
        try:
            outbox.queue(self._settings, manifest)
            mark_queued(folder)
        except (OSError, N2QError) as error:
            log.error("cannot hand a result over", extra={"result": manifest.name, "error": str(error)})

    # ------------------------------------------------------------------------------------------- report

    def _report_progress(self) -> None:
        for series in self._open.values():
            shown = (series.done, len(series.items))
            if shown == series.shown:
                continue
            series.shown = shown
            for item in series.items.values():
                if item.work.done() and item.path.name not in self._counted:
                    self._counted.add(item.path.name)
                    outcome = item.work.result()
                    metrics.ASSESSED.labels(
                        "assessed" if outcome.code == "assessed" else "not_assessed"
                    ).inc()
                    entry = SliceEntry(
                        item.sop_uid, outcome.digest, item.path.name, item.arrived, outcome.code
                    )
                    self._index.add_slice(series.key, entry)
            self._index.set_series(self._row(series))
        if not self._open and not self._closing:
            self._counted.clear()

    def _row(self, series: OpenSeries) -> SeriesRow:
        first = min(item.arrived for item in series.items.values())
        done, received = series.done, len(series.items)
        revision = self._results.newest(series.key)
        state = "closing" if series.closed_by else "arriving"
        summary = {"protocol": series.protocol, "scanner": series.scanner}
        return SeriesRow(series.key, state, first, series.last, revision, received, done, None, summary)

    def facts(self) -> dict[str, Any]:
        """How busy it is; for the status page."""
        waiting = sum(len(series.items) - series.done for series in self._open.values())
        return {"open_series": len(self._open) + len(self._closing), "waiting": waiting}

    def drain(self) -> None:
        """Finish the results being written; what is not closed is taken up again at the next start."""
        self._writer.shutdown(wait=True, cancel_futures=True)
        self._commit_written()
        self._index.close()

    def tidy(self) -> None:
        """Remove what need not be kept any longer."""
        for key in retention.tidy(self._settings, self._results, self._spool, {*self._open, *self._closing}):
            self._index.forget_series(key)
        self._index.commit()


def _count(manifest: Manifest) -> None:
    """Say in metrics and log that a series has a result."""
    metrics.RESULT.observe(manifest.latency_s)
    metrics.SERIES.labels(str(manifest.summary.get("verdict"))).inc()
    log.info(
        "series closed",
        extra={
            "series": manifest.series_key,
            "revision": manifest.revision,
            "slices": len(manifest.slices),
            "closed_by": manifest.closed_by,
            "latency_s": round(manifest.latency_s, 3),
        },
    )


def work(settings: Settings, stop: threading.Event) -> None:
    """Assess until `stop` is set."""
    from n2q_edge.service.assessor import open_assessor

    with contextlib.suppress(OSError):
        os.nice(settings.assess.nice)
    beat(settings.data, "worker", ready=False)
    with open_assessor(settings) as assessor:
        worker = Worker(settings, Spool(settings.data), assessor)
        worker.recover()
        log.info("ready")
        last_beat = last_tidy = 0.0
        while not stop.is_set():
            busy = worker.step()
            now = time.monotonic()
            if now - last_beat > HEARTBEAT_S:
                last_beat = now
                beat(settings.data, "worker", ready=True, **worker.facts())
            if now - last_tidy > 60.0:
                last_tidy = now
                worker.tidy()
            if not busy:
                stop.wait(POLL_S)
        worker.drain()
    log.info("stopped")
