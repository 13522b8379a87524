"""`n2q-edge bench`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import results, table_console
from n2q_edge.errors import ExitCode


def bench(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL", help="Model files; the released one if not given."),
    ] = None,
    runtimes: Annotated[
        list[str] | None,
        typer.Option("--runtime", help="May be repeated; the first is the baseline."),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="latency, throughput or stream; may be repeated. Default: latency."),
    ] = None,
    series: Annotated[
        Path | None,
        typer.Option(help="CT series to stream and to take the slice from; else synthetic."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of the runtime; one per physical core if not given."),
    ] = None,
    slices: Annotated[int, typer.Option(min=1, help="Slices per candidate; a p99 needs 662.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every candidate takes a turn in each.")] = 5,
    size: Annotated[int, typer.Option(min=16, help="Side of the synthetic slice in pixels.")] = 512,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the JSON document here.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a plot here (.png, .svg or .pdf).")] = None,
    loadgen: Annotated[
        str | None, typer.Option(help="Also measure with MLPerf's LoadGen: SingleStream or Offline.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", help="Compare two JSON documents; measures nothing."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no table.")] = False,
) -> int:
    """Measure how fast models are on this machine, or compare two such measurements."""
    from n2q_edge.bench import document

    if compare:
        from n2q_edge.bench.compare import render as render_comparison

        first, second = document.read(compare[0]), document.read(compare[1])
        with results():
            render_comparison(first, second, table_console())
        return int(ExitCode.OK)
    from n2q_edge.bench.measure import Candidate, Plan, measure
    from n2q_edge.bench.table import render
    from n2q_edge.cli.progress import gauge

    plan = Plan(tuple(mode or ["latency"]), slices, rounds, series=series, size=size)
    files: list[Path | None] = [*models] if models else [None]
    candidates = [Candidate(file, runtime, threads) for file in files for runtime in runtimes or ["auto"]]
    if plot:
        from n2q_edge.bench.plot import check

        check(plot)
    with gauge(quiet=quiet) as show:
        measured = document.build(measure(candidates, plan, loadgen=loadgen, on_step=show))
    if json_out:
        document.write(measured, json_out)
    if plot:
        from n2q_edge.bench.plot import write

        write(measured, plot)
    if not quiet:
        with results():
            render(measured, table_console())
    return int(ExitCode.OK)
