"""Find the CT series under some paths, and account for every file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from n2q_edge.dicom import tags
from n2q_edge.dicom.archives import ARCHIVE_ERRORS, Opener, check_not_packed, os_detail
from n2q_edge.dicom.header import read_header
from n2q_edge.dicom.image import Image, read_image, sop_instance_uid
from n2q_edge.dicom.nifti import is_nifti, read_nifti
from n2q_edge.dicom.order import make_series
from n2q_edge.dicom.reasons import Reason, Refusal, Rejected, Skipped, unexpected
from n2q_edge.dicom.records import Inventory, Source, SourceHeader
from n2q_edge.dicom.sources import find


def scan(paths: Sequence[Path], on_file: Callable[[int], None] | None = None) -> Inventory:
    """Read the header of every file under `paths` and sort CT slices into series.

    A path may be a DICOM or NIfTI file, a folder (walked as a tree, links followed, loops not), a zip
    archive, or a DICOMDIR, which means the files it lists. In a tree, files that end in `.zip` are opened,
    and a DICOMDIR is skipped since what it lists is found anyway. No pixels are read.

    Args:
        paths: where to look.
        on_file: called after each file with the number of files so far.

    Raises:
        UsageError: a path does not exist.
    """
    images: list[Image] = []
    rejected: list[Rejected] = []
    skipped: list[Skipped] = []
    headers: dict[SourceHeader, SourceHeader] = {}  # slices of a series share one
    seen = 0
    with Opener() as opener:
        for found in find(paths):
            outcome = examine(found, opener) if isinstance(found, Source) else found
            if isinstance(outcome, Image):
                outcome.header = headers.setdefault(outcome.header, outcome.header)
                images.append(outcome)
                rejected += [other for other in outcome.others if isinstance(other, Rejected)]
                skipped += [other for other in outcome.others if isinstance(other, Skipped)]
            elif isinstance(outcome, Rejected):
                rejected.append(outcome)
            else:
                skipped.append(outcome)
            seen += 1
            if on_file is not None:
                on_file(seen)
    return Inventory(make_series(images), tuple(rejected), tuple(skipped), seen)


def examine(source: Source, opener: Opener) -> Image | Rejected | Skipped:
    """What one file is."""
    uid = ""
    try:
        if source.member is None and is_nifti(source.file):
            return read_nifti(source)
        file, stamp = opener.open(source)
        with file:
            try:
                header = read_header(file, tags.VALUES, tags.SEQUENCES)
            except Refusal as refusal:
                if refusal.reason is Reason.NOT_DICOM:
                    check_not_packed(file)
                raise
            with header.data:
                uid = sop_instance_uid(header)
                return read_image(header, source, stamp)
    except Refusal as refusal:
        if refusal.reason.kind == "skipped":
            return Skipped(source.path, refusal.reason)
        return Rejected(source.path, refusal.reason, refusal.detail, uid or None)
    except OSError as error:
        return Rejected(source.path, Reason.UNREADABLE, os_detail(error))
    except ARCHIVE_ERRORS as error:
        return Rejected(source.path, Reason.CORRUPT_ARCHIVE, str(error))
    except Exception as error:  # whatever was not thought of costs this file, never the run
        return Rejected(source.path, Reason.CORRUPT_HEADER, unexpected(error), uid or None)
