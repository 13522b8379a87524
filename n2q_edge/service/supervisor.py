"""`n2q-edge listen`: starts receiver, worker and outbox, starts again what dies, serves the status page."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from n2q_edge.service.child import NAMES
from n2q_edge.service.configuration import dumps
from n2q_edge.service.process import heartbeat, lock, log_as_json
from n2q_edge.service.settings import Settings

log = logging.getLogger("n2q_edge.supervisor")

DRAIN_S = 30.0  # for all of them; then they are killed
STABLE_S = 10.0  # a process that lived so long is started again at once
LONGEST_PAUSE_S = 30.0
WATCHDOG_S = 5.0
SILENT_S = 120.0  # no heartbeat for so long: the process hangs


@dataclass
class Child:
    """One process, and what is known of its restarts."""

    name: str
    process: subprocess.Popen[str] | None = None
    started: float = 0.0
    pause: float = 0.0
    start_at: float = field(default_factory=time.monotonic)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """The three processes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children = [Child(name) for name in NAMES]

    def alive(self) -> dict[str, bool]:
        """Which processes run."""
        return {child.name: child.alive for child in self._children}

    def step(self) -> None:
        """Start what is not running, end what hangs."""
        for child in self._children:
            if child.alive:
                self._end_if_silent(child)
            elif child.process is not None and not child.start_at:
                self._died(child)
            elif time.monotonic() >= child.start_at:
                self._start(child)

    def _start(self, child: Child) -> None:
        command = [sys.executable, "-m", "n2q_edge.service.child", child.name]
        child.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        child.started, child.start_at = time.monotonic(), 0.0
        assert child.process.stdin is not None
        try:
            child.process.stdin.write(dumps(self._settings) + "\n")
            child.process.stdin.flush()
        except OSError:  # it died at once; the next step sees it
            return
        log.info("started", extra={"child": child.name, "pid": child.process.pid})

    def _died(self, child: Child) -> None:
        from n2q_edge.service import metrics

        assert child.process is not None
        metrics.RESTARTS.labels(child.name).inc()
        lived = time.monotonic() - child.started
        child.pause = 0.0 if lived > STABLE_S else min(LONGEST_PAUSE_S, max(0.5, 2 * child.pause))
        child.start_at = time.monotonic() + child.pause
        log.error(
            "a process died",
            extra={"child": child.name, "code": child.process.returncode, "again_in_s": child.pause},
        )

    def _end_if_silent(self, child: Child) -> None:
        beat = heartbeat(self._settings.data, child.name)
        silent = time.time() - float(beat.get("time", time.time()))
        assert child.process is not None
        if beat.get("pid") == child.process.pid and silent > SILENT_S:
            log.error("a process hangs", extra={"child": child.name, "silent_s": round(silent)})
            child.process.kill()

    def stop(self) -> None:
        """Let the receiver drain, then the others; kill what is left."""
        end = time.monotonic() + DRAIN_S
        for child in self._children:  # the receiver is the first
            if child.alive and child.process:
                child.process.terminate()
            if child.name == "receiver":
                self._wait(child, end - 5)
        for child in self._children:
            self._wait(child, end)
            if child.alive and child.process:
                child.process.kill()

    @staticmethod
    def _wait(child: Child, end: float) -> None:
        if child.process is None:
            return
        try:
            child.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("a process does not drain in time", extra={"child": child.name})


def run(settings: Settings) -> int:
    """Be the node until SIGTERM or SIGINT.

    Raises:
        OutputError: another node uses the folder, or it cannot be written.
        UsageError: the status page's address cannot be used.
    """
    log_as_json()
    with lock(settings.data, "supervisor"):
        _fresh_metrics(settings.data)
        from n2q_edge.service.web import StatusServer

        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        supervisor = Supervisor(settings)
        with StatusServer(settings, supervisor.alive) as server:
            log.info("status page", extra={"url": server.url})
            _supervise(supervisor, stop, server.ready)
            notify("STOPPING=1")
            supervisor.stop()
    log.info("stopped")
    return 0


def _supervise(supervisor: Supervisor, stop: threading.Event, ready: Callable[[], bool]) -> None:
    told, patted = False, 0.0
    while not stop.wait(0.2):
        supervisor.step()
        if not told and ready():
            notify("READY=1")
            log.info("ready")
            told = True
        if time.monotonic() - patted > WATCHDOG_S:
            patted = time.monotonic()
            notify("WATCHDOG=1")


def _fresh_metrics(data: Path) -> None:
    """Counters start at 0 with the node; the processes share them through files."""
    folder = data / "run" / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder.resolve())


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens where it did not ask."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.setblocking(False)  # whoever does not listen must not stop the node
        try:
            connection.sendto(message.encode(), address)
        except OSError as error:
            log.warning("systemd cannot be told", extra={"error": error.strerror})
