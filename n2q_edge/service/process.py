"""What receiver, worker and outbox have in common: settings, one at a time, logs, and an end.

The supervisor writes the settings to a child's standard input and keeps it open: when the supervisor dies,
however it dies, the child reads the end of it and drains as on SIGTERM.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from n2q_edge.errors import N2QError, OutputError
from n2q_edge.files import write_text
from n2q_edge.service.configuration import loads
from n2q_edge.service.settings import Settings

HEARTBEAT_S = 1.0
LOCK_S = 40.0  # a predecessor may drain for 30 s
PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, event and what was given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "process": record.name.rpartition(".")[2],
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in PLAIN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json() -> None:
    """Send all logs to standard error, one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("pynetdicom", "pydicom", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # they log what peers say


def lock(data: Path, name: str) -> IO[str]:
    """Be the only process of this kind on this folder; the lock lasts until the file is closed.

    Raises:
        OutputError: another one does not go away.
    """
    folder = data / "run"
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / f"{name}.lock").open("w")
    end = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > end:
                raise OutputError(
                    f"another n2q-edge is using {data}: stop it, or choose another folder"
                ) from None
            time.sleep(0.1)


def run_child(name: str, work: Callable[[Settings, threading.Event], None]) -> int:
    """Be one of the supervisor's processes.

    Args:
        name: receiver, worker or outbox.
        work: gets the settings and an event that is set when it should drain and return.

    Returns:
        The exit code.
    """
    log_as_json()
    log = logging.getLogger(f"n2q_edge.{name}")
    settings = loads(sys.stdin.readline())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    try:
        with lock(settings.data, name):
            work(settings, stop)
    except N2QError as error:
        log.error(str(error))
        return int(error.exit_code)
    return 0


def _watch_parent(stop: threading.Event) -> None:
    """Standard input ends when the supervisor does."""
    sys.stdin.read()
    stop.set()


def beat(data: Path, name: str, **facts: Any) -> None:
    """Say that this process lives, and what it sees; a full disk is no reason to die."""
    content = {"time": time.time(), "pid": os.getpid(), **facts}
    try:
        write_text(data / "run" / f"{name}.json", json.dumps(content))
    except N2QError as error:
        logging.getLogger(f"n2q_edge.{name}").warning("no heartbeat", extra={"error": str(error)})


def heartbeat(data: Path, name: str) -> dict[str, Any]:
    """The last `beat` of a process; empty if there is none."""
    try:
        content: dict[str, Any] = json.loads((data / "run" / f"{name}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content
