"""`n2q-edge listen`. Parse, call; no logic."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from n2q_edge.cli.console import note

if TYPE_CHECKING:
    from n2q_edge.service.settings import Settings


def listen(
    config: Annotated[
        Path | None,
        typer.Option(help="TOML with every setting (docs/reference/listen.md); loopback without one."),
    ] = None,
    watch: Annotated[Path | None, typer.Option(help="Take files from this folder, too.")] = None,
    with_phi: Annotated[
        bool, typer.Option("--with-phi", help="Keep UIDs and descriptions in trend database and status page.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Check settings, certificates and model; end.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Put results that were given up back into the outbox; end.")
    ] = False,
) -> int:
    """Receive series from scanners, assess them as they arrive, send results on, serve a status page."""
    from n2q_edge.errors import require
    from n2q_edge.service.configuration import load

    for package in ("pynetdicom", "dicomweb_client", "prometheus_client"):
        require(package, "service")
    require("highdicom", "service")
    environment = dict(os.environ)
    if watch:
        environment["N2Q_EDGE_WATCH_FOLDER"] = str(watch)
    if with_phi:
        environment["N2Q_EDGE_ASSESS_WITH_PHI"] = "true"
    settings = load(config, environment)
    if retry:
        return _retry(settings)
    if check:
        return _check(settings)
    from n2q_edge.service.supervisor import run

    node, status = settings.node, settings.status
    note(
        f"{node.ae_title} listens on {node.host}:{node.port}; status page http://{status.host}:{status.port}/"
    )
    return run(settings)


def _check(settings: Settings) -> int:
    from n2q_edge.service.checks import check

    for line in check(settings):
        note(line)
    return 0


def _retry(settings: Settings) -> int:
    from n2q_edge.service.outbox import retry_dead

    note(f"{retry_dead(settings.data)} results are in the outbox again")
    return 0
