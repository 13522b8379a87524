"""Ctrl-C, SIGTERM and SIGHUP, alike: the first ends the run and keeps what is done, a second ends at once.

At first an interruption is a `KeyboardInterrupt`, wherever the command is. Once there are results to keep it
is `held` back: it is raised only where the run waits for the next slice (`raised`), and remembered anywhere
else, so that no result is lost between two lines of code.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from n2q_edge.cli.console import note
from n2q_edge.errors import ExitCode

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class _State:
    """Of the process, as signals are.

    Attributes:
        count: interruptions so far.
        held: whether they are remembered instead of raised.
    """

    count = 0
    held = False


def interrupted() -> bool:
    """Whether somebody wants the command to end."""
    return _State.count > 0


@contextmanager
def handled() -> Iterator[None]:
    """Take the signals while the block runs. One that the caller ignores (`nohup`) stays ignored."""
    _State.count, _State.held = 0, False
    if threading.current_thread() is not threading.main_thread():  # a host's thread: signals are the host's
        yield
        return
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] not in (signal.SIG_IGN, None)]
    try:
        for number in taken:
            signal.signal(number, _handle)
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


@contextmanager
def held() -> Iterator[None]:
    """Remember interruptions while the block runs, see `interrupted`."""
    _State.held = True
    try:
        yield
    finally:
        _State.held = False


@contextmanager
def raised() -> Iterator[None]:
    """Within `held`: raise an interruption after all, one that came before at once."""
    try:
        _State.held = False
        if interrupted():
            raise KeyboardInterrupt
        yield
    finally:
        _State.held = True


def _handle(number: int, frame: FrameType | None) -> None:
    _State.count += 1
    if _State.count > 1:
        os._exit(ExitCode.INTERRUPTED)  # files appear whole or not at all: nothing is left half written
    if not _State.held:
        raise KeyboardInterrupt
    note("interrupted: writing what is done; interrupt once more to end at once")
