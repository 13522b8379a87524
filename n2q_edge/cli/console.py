"""What commands say: results on stdout, notes on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from n2q_edge.errors import OutputError
from n2q_edge.report.text import printable

if TYPE_CHECKING:
    from rich.console import Console


def note(message: str) -> None:
    """Tell the user something that is not a result: one printable line, whatever a file or a peer says."""
    with contextlib.suppress(OSError, ValueError):  # nobody reads stderr
        print(f"n2q-edge: {printable(' '.join(message.split()))}", file=sys.stderr)


class _State:
    """Of the process: whether a failure shows its traceback."""

    debug = False


def show_tracebacks(wanted: bool) -> None:
    """Whether `fail` shows where an error was raised."""
    _State.debug = wanted


def fail(message: str) -> None:
    """Tell what went wrong; to be called while the error is handled."""
    if _State.debug:
        traceback.print_exc()
    note(message)


@contextmanager
def results() -> Iterator[None]:
    """Results go to stdout. A reader that has seen enough (`| head -1`) is a normal end.

    Raises:
        OutputError: they could not be written (disk full).
    """
    try:
        yield
        if sys.stdout is not None:  # started with stdout closed
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
    except OSError as error:
        _discard_stdout()
        raise OutputError(f"cannot write to stdout: {error.strerror}") from None


def _discard_stdout() -> None:
    """Or Python's last flush fails again."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)


def table_console() -> Console:
    """A console for tables on stdout, which leaves a closed pipe to `results`."""
    from rich.console import Console

    class TableConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich itself would end the process with 1

    return TableConsole(highlight=False)
