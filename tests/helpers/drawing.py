"""Draw a run without a folder."""

from __future__ import annotations

from pathlib import Path

from n2q_edge.assessment.results import RunReport
from n2q_edge.report.drawing import Drawing, OnPage


def drawn(run: RunReport) -> OnPage:
    """What report.html shows of a run."""
    drawing = Drawing(run.spec, len(run.series), lambda name, _: Path(name))
    for report in run.series:
        drawing.draw(report)
    return drawing.on_page
