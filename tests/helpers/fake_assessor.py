"""An assessor without a model: counts what it is given, writes one text file as its result."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path

from n2q_edge.service.identify import digest
from n2q_edge.service.open_series import Outcome, Written


class FakeAssessor:
    """Every file is assessed at once.

    Attributes:
        submitted: files, in order.
        written: (slices, revision, predecessor) of every result.
    """

    def __init__(self) -> None:
        self.submitted: list[Path] = []
        self.written: list[tuple[int, int, str | None]] = []

    def submit(self, path: Path) -> Future[Outcome]:
        self.submitted.append(path)
        done: Future[Outcome] = Future()
        done.set_result(Outcome("assessed", digest(path), None))
        return done

    def write(
        self, folder: Path, outcomes: Iterable[Outcome], revision: int, predecessor: str | None
    ) -> Written:
        slices = len(list(outcomes))
        self.written.append((slices, revision, predecessor))
        (folder / "report.html").write_text("report")
        return Written((), {"slices": slices, "verdict": None}, {"name": "fake"})

    def add_dose(self, path: Path) -> str:
        return "stored"
