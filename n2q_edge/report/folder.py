"""The folder of `assess -o`: report.json, slices.csv, report.html and pictures.

File names are counted, never taken from DICOM values.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from n2q_edge.assessment.results import Assessment, SeriesReport
from n2q_edge.files import write_file
from n2q_edge.report import document, html, slices_csv

OWN_PICTURE = re.compile(r"series\d{3,}_(along\.svg|slice\d{4,}\.png)")


def write_folder(assessment: Assessment, built: dict[str, Any], folder: Path) -> list[Path]:
    """Write everything; the numbers first.

    Args:
        assessment: the run; pictures are made of `SeriesReport.worst`.
        built: its JSON document.
        folder: an existing folder.

    Returns:
        The pictures.

    Raises:
        OutputError: disk full, no permission, ...; the files written before stay.
    """
    _remove_old_pictures(folder)
    write_file(folder / "report.json", (piece.encode("ascii") for piece in document.json_pieces(built)))
    write_file(folder / "slices.csv", slices_csv.to_csv(assessment).encode("utf-8"))
    page = html.html_pieces(built, assessment)
    write_file(folder / "report.html", (piece.encode("utf-8") for piece in page))
    return [
        path
        for report in assessment.series
        if report.slices
        for path in _pictures(report, assessment, folder)
    ]


def _remove_old_pictures(folder: Path) -> None:
    """Pictures of an earlier run would pass for this one's."""
    for path in folder.glob("series*_*"):
        if OWN_PICTURE.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def _pictures(report: SeriesReport, assessment: Assessment, folder: Path) -> list[Path]:
    from n2q_edge.report.pictures import series_pictures

    written = []
    for name, content in series_pictures(report, assessment.spec):
        write_file(folder / name, content)
        written.append(folder / name)
    return written
