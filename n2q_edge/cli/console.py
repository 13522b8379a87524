"""What commands say: results on stdout, notes on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from n2q_edge.errors import OutputError


def note(message: str) -> None:
    """Tell the user something that is not a result."""
    print(f"n2q-edge: {message}", file=sys.stderr)


@contextmanager
def results() -> Iterator[None]:
    """Results go to stdout; a full disk or a closed pipe there is an `OutputError`."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python's last flush fails again
        raise OutputError(f"cannot write to stdout: {error.strerror}") from None
