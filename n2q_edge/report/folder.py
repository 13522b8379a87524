"""The folder of `assess -o`: report.json, slices.csv, report.html, pictures and DICOM objects of one run.

A folder belongs to one run at a time: it is locked, and a list in it names every file that was written. The
next run removes what is listed, and refuses a folder that holds anything else under the names it needs: two
runs, which may be of two patients, never mix. File names are counted, never taken from DICOM values.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from n2q_edge.assessment.results import RunReport
from n2q_edge.errors import OutputError, UsageError
from n2q_edge.files import make_folder, write_file
from n2q_edge.report import document, html, slices_csv
from n2q_edge.report.drawing import Drawing

LOCK, LIST = ".n2q-edge.lock", ".n2q-edge.files"
OWN_FILE = re.compile(r"report\.(json|html)|slices\.csv|series\d{3,}_(along\.svg|slice\d{4,}\.png)")
OWN_FOLDER = re.compile(r"dicom/series\d{3,}")
LEFT_BY_A_KILL = re.compile(r"\.(report\.|slices\.|series\d).*\.part")

Content = bytes | Iterable[bytes]


class OutputFolder:
    """A folder that this run alone writes into. A context manager."""

    def __init__(self, path: Path) -> None:
        """Make the folder and lock it.

        Raises:
            OutputError: it cannot be written to, or another run is writing to it.
            UsageError: it holds files of somebody else under our names.
        """
        make_folder(path)
        self.path = path
        self._lock = FileLock(path / LOCK, timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise OutputError(f"another run is writing to {path}: wait for it or choose another") from None
        except (OSError, NotImplementedError) as error:
            raise OutputError(f"cannot lock the folder {path}: {error}; choose another") from None
        try:
            self._refuse_foreign()
        except BaseException:
            self.close()
            raise

    def _listed(self) -> list[str]:
        """What the run before wrote; names that cannot be ours are left out, whoever put them there."""
        try:
            names = (self.path / LIST).read_text("ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"cannot read {self.path / LIST}: {error.strerror}; choose another") from None
        return [name for name in names if OWN_FILE.fullmatch(name) or OWN_FOLDER.fullmatch(name)]

    def _refuse_foreign(self) -> None:
        listed = set(self._listed())
        for path in [*self.path.iterdir(), *(self.path / "dicom").glob("*")]:
            name = path.relative_to(self.path).as_posix()
            if (OWN_FILE.fullmatch(name) or OWN_FOLDER.fullmatch(name)) and name not in listed:
                raise UsageError(
                    f"{path} is not of an earlier run that this folder has on record: choose another folder"
                )

    def clear(self) -> None:
        """Remove all that the run before has written.

        Raises:
            OutputError: something of it cannot be removed.
        """
        try:
            for name in self._listed():
                path = self.path / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            for path in self.path.iterdir():
                if LEFT_BY_A_KILL.fullmatch(path.name):
                    path.unlink()
            (self.path / LIST).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot remove {error.filename} of an earlier run: {error.strerror}; choose another folder"
            ) from None

    def record(self, path: Path) -> None:
        """List a file or folder, before it is made: a run that is killed then leaves nothing unlisted.

        Raises:
            OutputError: disk full, no permission, ...
        """
        try:
            with (self.path / LIST).open("a", encoding="ascii") as file:
                file.write(f"{path.relative_to(self.path).as_posix()}\n")
        except OSError as error:
            raise OutputError(f"cannot write {self.path / LIST}: {error.strerror}; free some space") from None

    def write(self, name: str, content: Content) -> Path:
        """Write a file, whole or not at all.

        Raises:
            OutputError: disk full, no permission, ...
        """
        path = self.path / name
        self.record(path)
        write_file(path, content)
        return path

    def close(self) -> None:
        """Unlock it."""
        self._lock.release()

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def report_files(
    assessment: RunReport, built: dict[str, Any], drawing: Drawing
) -> dict[str, Callable[[], Content]]:
    """What makes the content of every report, by file name, the numbers first.

    Args:
        assessment: the run.
        built: its JSON document.
        drawing: its pictures.
    """
    return {
        "report.json": lambda: (piece.encode("ascii") for piece in document.json_pieces(built)),
        "slices.csv": lambda: slices_csv.to_csv(assessment).encode("utf-8"),
        "report.html": lambda: (
            piece.encode("utf-8") for piece in html.html_pieces(built, assessment, drawing.on_page)
        ),
    }


def write_folder(assessment: RunReport, built: dict[str, Any], path: Path) -> list[Path]:
    """Write everything; the numbers first.

    Args:
        assessment: the run; pictures are made of `SeriesReport.worst`.
        built: its JSON document.
        path: the folder; it is made if it is not there.

    Returns:
        The pictures.

    Raises:
        OutputError: disk full, no permission, another run in it, ...; the files written before stay.
        UsageError: it holds files of somebody else under our names.
    """
    with OutputFolder(path) as folder:
        folder.clear()
        drawing = Drawing(assessment.spec, len(assessment.series), folder.write)
        for report in assessment.series:
            drawing.draw(report)
        for name, content in report_files(assessment, built, drawing).items():
            folder.write(name, content())
        return drawing.written
