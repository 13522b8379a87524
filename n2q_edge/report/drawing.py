"""Pictures of a run, drawn as each series ends: no pixel is kept for longer than its series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

from n2q_edge.assessment.results import SeriesReport, SliceResult
from n2q_edge.errors import OutputError
from n2q_edge.report.pictures import page_pictures, series_charts, slice_pictures
from n2q_edge.spec import ModelSpec

MAX_ON_PAGE = 60
"""Slices that the page shows, over all series of a run, so that the page of a whole tree still opens."""

OnPage = dict[int, list[tuple[int, bytes, bytes]]]
"""By number of the series: slice number, PNG of the slice and JPEG of its overlay, the worst first."""


class Drawing:
    """Draws every series once. A `Collector`, which must be the first to see that a series has ended.

    Attributes:
        written: the files.
        on_page: what report.html shows; compressed.
    """

    def __init__(self, spec: ModelSpec, series: int, write: Callable[[str, bytes], Path]) -> None:
        """Draw nothing yet.

        Args:
            spec: of the model.
            series: how many series the run has.
            write: writes a file of the output folder.
        """
        self._spec, self._write = spec, write
        self._full = False
        self._each = max(1, MAX_ON_PAGE // max(1, series))
        self.written: list[Path] = []
        self.on_page: OnPage = {}

    def add(self, report: SeriesReport, result: SliceResult) -> None:
        """Nothing is drawn before the worst slices are known."""

    def finish(self, report: SeriesReport) -> None:
        """Draw a series whose slices have all come."""
        self.draw(report)

    def draw(self, report: SeriesReport) -> None:
        """Draw a series and let go of the pixels of its worst slices; a second time does nothing.

        Raises:
            OutputError: a picture could not be written.
        """
        if report.number in self.on_page or not report.slices:
            return
        shown = self.on_page[report.number] = []
        drawn, report.worst = report.worst, [replace(result, images=None) for result in report.worst]
        room = MAX_ON_PAGE - sum(map(len, self.on_page.values()))
        for result in drawn[: min(self._each, room)]:
            if result.images is not None:
                shown.append((result.number, *page_pictures(result.images, self._spec)))
        try:
            for name, content in chain(
                slice_pictures(report, drawn, self._spec), series_charts(report, self._spec)
            ):
                if not self._full:
                    self.written.append(self._write(name, content))
        except OutputError:
            self._full = True  # the disk: said once, and not tried for every series of a tree
            raise
