"""What there is to say about a node at this moment: for the status page, the probes and the metrics."""

from __future__ import annotations

import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from n2q_edge.service import outbox
from n2q_edge.service.index import SeriesRow, recent_series
from n2q_edge.service.process import heartbeat
from n2q_edge.service.settings import Settings

FRESH_S = 10.0  # a heartbeat older than this is a problem


@dataclass(frozen=True)
class Delivery:
    """How a destination is doing."""

    name: str
    kind: str
    pending: int
    dead: int
    error: str


@dataclass(frozen=True)
class Status:
    """A node at one moment.

    Attributes:
        time: seconds since 1970.
        series: those of today, the latest first.
        latency_s: median and 90th percentile of today, last slice to result; None without a result.
        waiting: slices that are not assessed yet.
        free_mb: free space of the disk.
        reserve_mb: below it nothing is accepted.
        associations: who is sending.
        seen: who has sent lately.
        deliveries: destinations.
        undelivered: series key to names of destinations that wait for it.
        checks: what `/readyz` asks, and the answers.
        problems: sentences for people, the gravest first.
        grave: whether one of them stops the work.
    """

    time: float
    series: list[SeriesRow]
    latency_s: tuple[float, float] | None
    waiting: int
    free_mb: float
    reserve_mb: int
    associations: list[dict[str, Any]]
    seen: list[dict[str, Any]]
    deliveries: list[Delivery]
    undelivered: dict[str, list[str]]
    checks: dict[str, bool]
    problems: list[str]
    grave: bool

    @property
    def ready(self) -> bool:
        """Whether the node can do its work."""
        return all(self.checks.values())

    @property
    def pending(self) -> int:
        """Deliveries that wait."""
        return sum(each.pending for each in self.deliveries)

    @property
    def dead(self) -> int:
        """Dead letters."""
        return sum(each.dead for each in self.deliveries)


def look(settings: Settings, alive: Callable[[], dict[str, bool]]) -> Status:
    """Look at everything."""
    now = time.time()
    receiver, worker = heartbeat(settings.data, "receiver"), heartbeat(settings.data, "worker")
    running = alive()
    free_mb = shutil.disk_usage(settings.data).free / 1e6
    series = recent_series(settings.data, _midnight(now))
    pending, dead = (outbox.read_entries(settings.data, folder) for folder in ("pending", "dead"))
    checks = {
        "receiving": running["receiver"] and _is_fresh(receiver, now),
        "assessing": running["worker"] and bool(worker.get("ready")),
        "delivering": running["outbox"],
        "disk": free_mb >= settings.spool.reserve_mb,
    }
    undelivered: dict[str, list[str]] = {}
    for entry in (*pending, *dead):
        undelivered.setdefault(entry.series_key, []).append(entry.destination)
    waiting = int(worker.get("waiting", 0)) + _arrived(settings)
    return Status(
        time=now,
        series=series,
        latency_s=_latency(series),
        waiting=waiting,
        free_mb=free_mb,
        reserve_mb=settings.spool.reserve_mb,
        associations=receiver.get("associations", []) if checks["receiving"] else [],
        seen=sorted(receiver.get("seen", []), key=lambda peer: -float(peer["time"])),
        deliveries=_deliveries(settings, pending, dead),
        undelivered=undelivered,
        checks=checks,
        problems=_problems(settings, checks, free_mb, len(dead), pending),
        grave=bool(dead) or not all(checks.values()),
    )


def _midnight(now: float) -> float:
    day = time.localtime(now)
    return time.mktime((day.tm_year, day.tm_mon, day.tm_mday, 0, 0, 0, 0, 0, -1))


def _is_fresh(beat: dict[str, Any], now: float) -> bool:
    return now - float(beat.get("time", 0)) < FRESH_S


def _arrived(settings: Settings) -> int:
    try:
        return sum(1 for _ in (settings.data / "incoming" / "new").iterdir())
    except OSError:
        return 0


def _latency(series: list[SeriesRow]) -> tuple[float, float] | None:
    values = sorted(row.latency_s for row in series if row.latency_s is not None)
    if not values:
        return None
    return statistics.median(values), values[min(len(values) - 1, int(0.9 * len(values)))]


def _deliveries(settings: Settings, pending: list[outbox.Entry], dead: list[outbox.Entry]) -> list[Delivery]:
    waiting = Counter(entry.destination for entry in pending)
    given_up = Counter(entry.destination for entry in dead)
    errors = {entry.destination: entry.error for entry in (*dead, *pending) if entry.error}
    return [
        Delivery(each.name, each.kind, waiting[each.name], given_up[each.name], errors.get(each.name, ""))
        for each in outbox.destinations(settings)
    ]


def _problems(
    settings: Settings,
    checks: dict[str, bool],
    free_mb: float,
    dead: int,
    pending: list[outbox.Entry],
) -> list[str]:
    """In words a technologist understands, with what to do."""
    failing = sorted({entry.destination for entry in pending if entry.attempts > 1})
    found = [
        (
            not checks["disk"],
            f"The disk is full ({free_mb / 1000:.1f} GB left): images are refused. Free some space; "
            "then send again what the scanner reports as failed.",
        ),
        (not checks["receiving"], "Not receiving: the scanner cannot send. It is being started again."),
        (
            not checks["assessing"],
            "Not assessing: the model is not running. Images are received and kept; results will come later.",
        ),
        (not checks["delivering"], "Not delivering: results wait here until it works again."),
        (
            bool(failing),
            f"No answer from {', '.join(failing)}: results wait and are sent again by themselves.",
        ),
        (
            dead > 0,
            f"{dead} results were given up after {settings.retry.give_up_h:g} hours: call the administrator.",
        ),
    ]
    return [text for holds, text in found if holds]
