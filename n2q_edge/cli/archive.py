"""`n2q-edge assess --resume` and `n2q-edge merge`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli import signals
from n2q_edge.cli.console import note
from n2q_edge.errors import ExitCode


def assess_archive(
    paths: list[Path],
    out: Path,
    shard: str,
    *,
    model: Path | None,
    runtime: str,
    threads: int | None,
    batch: int,
    with_phi: bool,
    quiet: bool,
) -> int:
    """Assess the series of a shard that are not in the folder `out` yet."""
    from n2q_edge.cli.progress import ticks
    from n2q_edge.dicom import scan
    from n2q_edge.fleet.folder import ArchiveFolder, Run
    from n2q_edge.fleet.shard import Shard, assess_shard, pending
    from n2q_edge.malloc import keep_freed_memory
    from n2q_edge.runtimes import open_model

    own = Shard.parse(shard)
    keep_freed_memory()
    with open_model(model, runtime=runtime, threads=threads) as opened:
        facts, spec = opened.describe(), opened.spec
        run = Run(spec.name, spec.version, str(facts["model_sha256"]), with_phi)
        folder = ArchiveFolder(out, run)
        with ticks("finding CT slices", None, quiet=quiet) as tick:
            inventory = scan(paths, on_file=tick)
        with signals.held(), ticks("assessing", pending(inventory, folder, own), quiet=quiet) as tick:
            done = assess_shard(
                inventory,
                opened,
                folder,
                own,
                with_phi=with_phi,
                batch=batch,
                on_outcome=tick,
                interruptible=signals.raised,
            )
    if not quiet:
        note(f"{done.series} series in shard {shard}: {done.known} known, {done.slices} slices written now")
    return int(ExitCode.PARTIAL if done.rejected or done.files_rejected else ExitCode.OK)


def merge(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of 'assess --resume OUT'.")],
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write slices.parquet.")] = False,
) -> int:
    """Merge what the shards of an archive have written into one table and one page."""
    from n2q_edge.fleet.merge import merge as merge_parts

    merged = merge_parts(folder, parquet=parquet)
    note(f"{merged.slices} slices of {merged.series} series are in {folder}")
    if merged.missing:
        note(f"shards not finished: {', '.join(merged.missing)} (exit code 3)")
    return int(ExitCode.PARTIAL if merged.missing else ExitCode.OK)
