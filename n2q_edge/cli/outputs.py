"""Every output of a run is written on its own: one that fails costs only itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from n2q_edge.assessment.results import SeriesReport, SliceResult
from n2q_edge.assessment.run import Collector
from n2q_edge.cli.console import fail
from n2q_edge.errors import ExitCode, N2QError


class Outputs:
    """Remembers what could not be written.

    Attributes:
        code: how the process must end because of it; 0 if all was written.
        failures: how many outputs failed.
    """

    def __init__(self) -> None:
        """Nothing has failed yet."""
        self.code = ExitCode.OK
        self._failed: set[str] = set()

    @property
    def failures(self) -> int:
        """How many outputs failed."""
        return len(self._failed)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Write an output in the block; what goes wrong is told once, and the run goes on.

        Args:
            what: names the output.
        """
        try:
            yield
        except N2QError as error:
            self._tell(what, str(error), error.exit_code)
        except Exception as error:
            bug = f"unexpected {type(error).__name__}: {error} (a bug; --debug shows where)"
            self._tell(what, f"{what} could not be written: {bug}", ExitCode.BUG)

    def _tell(self, what: str, message: str, code: ExitCode) -> None:
        if what not in self._failed:
            fail(message)
        self._failed.add(what)
        if self.code is ExitCode.OK or code is ExitCode.BUG:
            self.code = code


class Collectors:
    """Several collectors of a run as one, in their order. One that fails does not stop the others."""

    def __init__(self, outputs: Outputs, collectors: Sequence[Collector]) -> None:
        """Pass on to `collectors`."""
        self._outputs, self._all = outputs, collectors

    def add(self, report: SeriesReport, result: SliceResult) -> None:
        """Take a slice."""
        for collector in self._all:
            with self._outputs.attempt(type(collector).__name__):
                collector.add(report, result)

    def finish(self, report: SeriesReport) -> None:
        """The series has ended."""
        for collector in self._all:
            with self._outputs.attempt(type(collector).__name__):
                collector.finish(report)
