"""`n2q-edge send`. Parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import note
from n2q_edge.errors import ExitCode


def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="DICOM files or folders.")],
    to: Annotated[str, typer.Option(metavar="HOST:PORT/AET", help="Where to.")],
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "N2Q-SEND",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Send DICOM files by C-STORE, as they are."""
    from n2q_edge.cli.progress import ticks
    from n2q_edge.errors import require
    from n2q_edge.service.client import parse_address
    from n2q_edge.service.client import send as send_all

    require("pynetdicom", "service")
    with ticks("sending", None, quiet=quiet) as tick:
        sent = send_all(paths, parse_address(to), calling, tick)
    for path, reason in sent.failed[:10]:
        note(f"{path}: {reason}")
    if not quiet:
        note(f"{sent.stored} stored, {len(sent.failed)} failed, {sent.skipped} are no DICOM files")
    if not sent.stored:
        return ExitCode.NOTHING_ASSESSED
    return ExitCode.PARTIAL if sent.failed else ExitCode.OK
