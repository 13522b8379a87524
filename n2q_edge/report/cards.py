"""The numbers at the top of a series: what was measured first, then the reference, then what a model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from n2q_edge.report.text import number, percent

MEASURED = (
    ("noise_hu", "Noise", "HU", 1),
    ("noise_frequency_per_mm", "Noise texture", "/mm", 2),
    ("water_equivalent_diameter_mm", "Water-equivalent diameter", "mm", 0),
    ("ssde_mgy", "SSDE", "mGy", 1),
)
"""Measured without a model: name in the document's summary, label, unit, decimals."""


@dataclass(frozen=True)
class Card:
    """One number: what it is, its value with unit, what else there is to say."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class Group:
    """Cards that belong together."""

    title: str
    cards: tuple[Card, ...]


def groups(entry: dict[str, Any], levels: list[float]) -> list[Group]:
    """The numbers of a series in the order in which they deserve trust.

    Args:
        entry: the series in the JSON document.
        levels: dose levels the model knows, percent, ascending; empty if it predicts none.
    """
    summary = entry["summary"]
    found = [
        Group("Measured, without a model", tuple(_measured(summary))),
        Group("Predicted by the model", tuple(_predicted(summary, levels))),
        Group("This run", tuple(_run(entry))),
    ]
    return [group for group in found if group.cards]


def dose_statement(level: float, levels: list[float]) -> str:
    """What a dose level may claim: the highest the model knows is where full-dose scans end up, too."""
    return f"at least {percent(level)}" if level == levels[-1] else f"about {percent(level)}"


def _measured(summary: dict[str, Any]) -> list[Card]:
    cards = []
    for name, label, unit, digits in MEASURED:
        median = summary.get(f"{name}_median")
        if median is not None:
            low, high = (number(summary[f"{name}_{end}"], digits) for end in ("min", "max"))
            cards.append(Card(label, f"{median:.{digits}f} {unit}", f"median; {low} to {high}"))
    return cards or [Card("Noise", "–", "too little soft tissue to measure it")]


def _predicted(summary: dict[str, Any], levels: list[float]) -> list[Card]:
    quality = summary["quality"]
    if quality["mean"] is None:
        return [Card("Predicted SSIM", "–", "no slice has a body")]
    cards = [
        Card(
            "Predicted SSIM",
            number(quality["mean"], 2),
            f"against an assumed full dose; lowest slice {number(quality['min'], 2)}",
        )
    ]
    most = max(summary["dose"], key=lambda count: count["slices"], default=None)
    if most:
        typical = "as typical full-dose scans" if most["level"] == levels[-1] else "of an assumed full dose"
        said = f"{typical}; {most['slices']} of {summary['slices']} slices"
        cards.append(Card("Dose it looks like", dose_statement(most["level"], levels), said))
    return cards


def _run(entry: dict[str, Any]) -> list[Card]:
    summary, total = entry["summary"], entry["latency"]["stages_ms"].get("total")
    cards = [Card("Slices", str(summary["slices"]), f"{summary['slices_scored']} scored")]
    if total:
        within = f"90 % within {number(total['p90'], 0)} ms"
        cards.append(Card("Latency per slice", f"{number(total['p50'], 0)} ms", within))
    return cards
