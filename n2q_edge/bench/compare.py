"""Two benchmarks side by side: two machines, or one before and after a change."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from n2q_edge.bench.table import machine_line, milliseconds
from n2q_edge.errors import UsageError


def pairs(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """The models that both documents have, in the order of the first.

    A model is known by its name; precision and runtime may differ, that is what two machines are about. If a
    document has a model more than once, the fastest counts.

    Returns:
        For each: `model`, `first` and `second` (how it ran, p50 and idle p50), `time_ratio` (second / first),
        `same_file`.

    Raises:
        UsageError: they have no model in common, or slices of another size.
    """
    if first["input"]["shape"] != second["input"]["shape"]:
        raise UsageError(
            f"the two were measured on slices of {first['input']['shape'][2:]} and "
            f"{second['input']['shape'][2:]}: measure one again with --size"
        )
    left, right = _fastest(first), _fastest(second)
    common = [name for name in left if name in right]
    if not common:
        raise UsageError("the two benchmarks have no model in common: measure the same one on both machines")
    return [_pair(left[name], right[name]) for name in common]


def _fastest(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    fastest: dict[str, dict[str, Any]] = {}
    for candidate in document["candidates"]:
        name = candidate["model"]["name"]
        if name not in fastest or p50(candidate) < p50(fastest[name]):
            fastest[name] = candidate
    return fastest


def p50(candidate: dict[str, Any]) -> float:
    """Median milliseconds of a slice, saturated."""
    return float(candidate["latency_ms"]["saturated"]["total"]["p50"])


def _pair(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": left["model"]["name"],
        "first": _side(left),
        "second": _side(right),
        "time_ratio": p50(right) / p50(left),
        "same_file": left["model"]["sha256"] == right["model"]["sha256"],
    }


def _side(candidate: dict[str, Any]) -> dict[str, Any]:
    idle = candidate["latency_ms"].get("idle")
    return {
        "how": f"{candidate['model']['precision']} {candidate['runtime']['name']}",
        "p50_ms": p50(candidate),
        "idle_p50_ms": idle["total"]["p50"] if idle else None,
    }


def render(first: dict[str, Any], second: dict[str, Any], console: Console) -> None:
    """Print two benchmarks side by side."""
    console.print(escape(f"A  {machine_line(first)}, {first['created']}"))
    console.print(escape(f"B  {machine_line(second)}, {second['created']}"))
    table = Table(title="p50 milliseconds a slice, saturated (idle)", box=SIMPLE_HEAD, title_justify="left")
    for name in ("model", "A", "B", "B / A"):
        table.add_column(name, justify="left" if name == "model" else "right")
    found = pairs(first, second)
    for pair in found:
        table.add_row(
            escape(pair["model"]),
            _cell(pair["first"]),
            _cell(pair["second"]),
            f"{pair['time_ratio']:.2f}",
        )
    console.print(table)
    for pair in found:
        if not pair["same_file"]:
            console.print(escape(f"{pair['model']}: not the same file (weights, precision or engine differ)"))


def _cell(side: dict[str, Any]) -> str:
    idle = f" ({milliseconds(side['idle_p50_ms'])})" if side["idle_p50_ms"] is not None else ""
    return escape(f"{milliseconds(side['p50_ms'])}{idle} {side['how']}")
