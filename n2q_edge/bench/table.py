"""A benchmark on the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

NOTHING = "-"


def render(document: dict[str, Any], console: Console) -> None:
    """Print a document of `bench`."""
    console.print(escape(machine_line(document)))
    console.print(_candidates(document))
    if document["comparison"]:
        _comparison(document["comparison"], console)
    for candidate in document["candidates"]:
        if candidate["throughput"]:
            console.print(escape(f"{candidate['label']}: slices a second"))
            console.print(_batches(candidate))
        if candidate["stream"]:
            console.print(escape(_stream_line(candidate)))
            console.print(_stream(candidate))
    for candidate in document["candidates"]:
        if "loadgen" in candidate:
            console.print(escape(_loadgen_line(candidate)))
    for candidate in document["candidates"]:
        for warning in candidate["warnings"]:
            console.print(f"[yellow]warning:[/] {escape(candidate['label'])}: {escape(warning)}")
    _sensors(document, console)


def machine_line(document: dict[str, Any]) -> str:
    """The machine in one line."""
    machine = document["machine"]
    gpus = [gpu["name"] for gpu in document["sensors"]["before"]["gpu"]]
    line = f"{machine['cpu']}, {machine['cores_usable']} cores, {machine['memory_gib']} GiB"
    return ", ".join([line, *gpus])


def milliseconds(value: float | None) -> str:
    """Three significant digits; a dash for nothing."""
    return NOTHING if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _candidates(document: dict[str, Any]) -> Table:
    rows = [_cells(candidate) for candidate in document["candidates"]]
    table = Table(title="milliseconds a slice", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("candidate", no_wrap=True)
    shown = [name for name in rows[0] if any(row[name] != NOTHING for row in rows)]
    for name in shown:
        table.add_column(name, justify="right")
    for candidate, row in zip(document["candidates"], rows, strict=True):
        table.add_row(escape(candidate["label"]), *(row[name] for name in shown))
    return table


def _cells(candidate: dict[str, Any]) -> dict[str, str]:
    saturated, idle = candidate["latency_ms"]["saturated"], candidate["latency_ms"].get("idle")
    total = saturated["total"]
    transfers = {
        stage: milliseconds(saturated[stage]["p50"] if saturated["h2d"] and saturated[stage] else None)
        for stage in ("h2d", "compute", "d2h")
    }
    return {
        "p50": milliseconds(total["p50"]),
        "p90": milliseconds(total["p90"]),
        "p99": milliseconds(total["p99"]),
        "cv": NOTHING if total["cv"] is None else f"{total['cv']:.0%}",
        **transfers,
        "idle": milliseconds(idle["total"]["p50"] if idle else None),
        "first": milliseconds(candidate["start_ms"]["to_first_result"]),
        "MiB": milliseconds(candidate["peak_mib"]),
    }


def _comparison(comparison: dict[str, Any], console: Console) -> None:
    for compared in comparison["time_ratio"][1:]:
        line = f"{compared['label']}: {ratio_text(compared)} of the time of {comparison['baseline']}"
        console.print(escape(line))


def ratio_text(compared: dict[str, Any]) -> str:
    """A ratio with its spread over the rounds."""
    return f"{compared['median']:.2f} ({compared['low']:.2f}-{compared['high']:.2f})"


def _batches(candidate: dict[str, Any]) -> Table:
    table = Table(
        title=f"{escape(candidate['label'])}: slices a second", box=SIMPLE_HEAD, title_justify="left"
    )
    for name in ("batch", "median", "lowest", "highest"):
        table.add_column(name, justify="right")
    for row in candidate["throughput"]:
        rates = row["slices_per_s"]
        table.add_row(str(row["batch"]), *(f"{rates[key]:.1f}" for key in ("p50", "minimum", "maximum")))
    return table


def _stream(candidate: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("stage, ms")
    for name in ("p50", "p90", "p99"):
        table.add_column(name, justify="right")
    for stage, figures in candidate["stream"]["stages_ms"].items():
        table.add_row(stage, *(milliseconds(figures[rank]) for rank in ("p50", "p90", "p99")))
    return table


def _stream_line(candidate: dict[str, Any]) -> str:
    stream = candidate["stream"]
    return (
        f"{candidate['label']}: {stream['slices']} slices from files to scores, "
        f"{stream['slices_per_s']['p50']:.1f} a second, {ratio_text(stream['of_inference_only'])} of "
        "inference alone"
    )


def _loadgen_line(candidate: dict[str, Any]) -> str:
    found = candidate["loadgen"]
    return (
        f"{candidate['label']}: LoadGen {found['scenario']} is {found.get('Result is')}: "
        f"{_loadgen_figure(found)}"
    )


def _loadgen_figure(found: dict[str, Any]) -> str:
    if found["scenario"] == "Offline":
        return f"{found.get('Samples per second')} slices a second"
    nanoseconds = found.get("90.00 percentile latency (ns)")
    return f"p90 {milliseconds(None if nanoseconds is None else nanoseconds / 1e6)} ms"


def _sensors(document: dict[str, Any], console: Console) -> None:
    for candidate in document["candidates"]:
        for source, joules in (candidate["energy"] or {}).get("joules_per_slice", {}).items():
            console.print(escape(f"{candidate['label']}: {joules:.3g} J a slice ({source})"))
    if not document["sensors"]["read"]:
        reasons = "; ".join(f"{kind}: {why}" for kind, why in document["sensors"]["not_readable"].items())
        console.print(escape(f"energy not readable: {reasons}"), style="dim")
