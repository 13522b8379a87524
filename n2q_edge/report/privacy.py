"""What reports leave out unless the user wants it: free text of the headers, paths above what was given.

A Series Description, a Protocol Name or a folder may hold a patient's name: people type them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from n2q_edge.assessment.results import RunReport, SliceResult

FREE_TEXT = ("series_description", "protocol_name")


def leave_out_identity(assessment: RunReport, given: Sequence[Path]) -> None:
    """Take free text and the paths above what was given out of a run that is over.

    A folder's file is named relative to it, a file that was given itself by its name. If several paths were
    given, `[2]/slice.dcm` is in the second. Verdicts stay what they were: a policy may go by the protocol.

    Args:
        assessment: the run; changed in place.
        given: the paths the user named.
    """

    def shortened(result: SliceResult) -> SliceResult:
        return replace(result, ref=replace(result.ref, path=Path(relative(result.ref.path, given))))

    for report in assessment.series:
        summary = report.summary
        report.slices = [shortened(result) for result in report.slices]
        report.worst = [shortened(result) for result in report.worst]
        report.series = replace(
            report.series, protocol={**report.series.protocol, **dict.fromkeys(FREE_TEXT)}
        )
        report.summary = replace(summary, worst=tuple(report.worst))
    rejected, skipped = assessment.rejected, assessment.skipped
    assessment.rejected = [replace(item, path=Path(relative(item.path, given))) for item in rejected]
    assessment.skipped = [replace(item, path=Path(relative(item.path, given))) for item in skipped]


def relative(path: Path | str, given: Sequence[Path]) -> str:
    """A path as it is seen from what was given; a member of an archive begins with the archive's name."""
    for number, root in enumerate(given, start=1):
        try:
            below = Path(path).relative_to(root)
        except ValueError:
            continue
        shown = below if root.is_dir() else Path(root.name) / below
        return f"[{number}]/{shown}" if len(given) > 1 else str(shown)
    return Path(path).name  # a DICOMDIR may name files beside it
