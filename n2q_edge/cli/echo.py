"""`n2q-edge echo`. Parse, call, render; no logic."""

from __future__ import annotations

from typing import Annotated

import typer

from n2q_edge.cli.console import note
from n2q_edge.errors import ExitCode


def echo(
    to: Annotated[str, typer.Argument(metavar="HOST:PORT/AET", help="Whom to ask.")],
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "N2Q-SEND",
) -> int:
    """Ask by C-ECHO whether a DICOM node answers."""
    from n2q_edge.errors import require
    from n2q_edge.service.client import echo as ask
    from n2q_edge.service.client import parse_address

    require("pynetdicom", "service")
    peer = parse_address(to)
    ask(peer, calling)
    note(f"{peer.ae_title} at {peer.host}:{peer.port} answers")
    return ExitCode.OK
