"""Progress on stderr, on a terminal only; elsewhere these do nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

Tick = Callable[..., None]
"""Call it once a step; its arguments are ignored, so it fits any callback."""

Gauge = Callable[[float, str], None]
"""Call it with the fraction done, 0 to 1, and what to say beside it."""


@contextmanager
def ticks(label: str, total: int | None, *, quiet: bool) -> Iterator[Tick]:
    """Count steps while the block runs.

    Args:
        label: what is going on.
        total: steps to come, None if unknown.
        quiet: show nothing.
    """
    if not _visible(quiet):
        yield lambda *_: None
        return
    with _bar(counted=total is not None) as bar:
        task = bar.add_task(label, total=total)

        def tick(*_: Any) -> None:
            bar.advance(task)

        yield tick


@contextmanager
def gauge(*, quiet: bool) -> Iterator[Gauge]:
    """Show how much of something long is done while the block runs."""
    if not _visible(quiet):
        yield lambda fraction, label: None
        return
    with _bar(counted=False) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda fraction, label: bar.update(task, completed=fraction, description=label)


def _visible(quiet: bool) -> bool:
    return not quiet and sys.stderr is not None and sys.stderr.isatty()  # None where it was closed


def _bar(*, counted: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeRemainingColumn

    count = (MofNCompleteColumn(),) if counted else ()
    columns = (SpinnerColumn(), "{task.description}", BarColumn(), *count, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
