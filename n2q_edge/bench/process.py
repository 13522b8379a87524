"""The parent's side of a candidate: start it, ask it, end it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from n2q_edge import errors
from n2q_edge.errors import ModelError, N2QError

MODULE = "n2q_edge.bench.child"


class Process:
    """A candidate in a fresh process. A context manager.

    Attributes:
        ready: its first line.
        cold_start_ms: from starting the interpreter to the result of the first slice.
    """

    def __init__(self, options: dict[str, Any], module: str = MODULE, folder: Path | None = None) -> None:
        """Start it and wait until it is ready.

        Args:
            options: go to the child as one JSON argument.
            module: run with `python -m`.
            folder: where to run it; None for here.

        Raises:
            N2QError: whatever the child reports.
            ModelError: the child died.
        """
        # Errors of a library go to a file: nobody reads a pipe while the candidate works.
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
            cwd=folder,
        )
        try:
            self.ready = self._reply()
        except BaseException:
            self.close()
            raise
        self.cold_start_ms = (time.perf_counter() - began) * 1000

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Give a command and wait for its reply.

        Raises:
            N2QError: whatever the child reports.
            ModelError: the child died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind = getattr(errors, reply["kind"], ModelError)
            raise kind(reply["error"])
        return reply

    def _death(self) -> N2QError:
        code = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines() or ["no message"]
        return ModelError(f"the process of a candidate ended with {code}: {lines[-1][:300]}")

    def close(self) -> None:
        """End it; closing twice is harmless."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it died with a command unread
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._complaints.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
