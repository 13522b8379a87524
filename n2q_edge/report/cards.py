"""The numbers at the top of a series: what was measured, then what the model predicts, then the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from n2q_edge.report.text import number, percent

MEASURED = (
    ("noise_hu", "Noise", "HU", 1),
    ("noise_frequency_per_mm", "Noise texture", "mm⁻¹", 2),
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


def groups(entry: dict[str, Any], levels: list[float], takes_reference: bool = False) -> list[Group]:
    """The numbers of a series in the order in which they deserve trust.

    Args:
        entry: the series in the JSON document.
        levels: dose levels the model knows, percent, ascending; empty if it predicts none.
        takes_reference: the model was told the reference, so its SSIM is relative to that.
    """
    summary = entry["summary"]
    found = [
        Group("Measured", tuple(_measured(summary))),
        Group("Against the full-dose reference", tuple(_against_reference(summary.get("reference")))),
        Group("Predicted by the model", tuple(_predicted(summary, levels, takes_reference))),
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
    if cut := summary.get("truncated_slices"):
        cards.append(Card("Cut by the field of view", f"{cut} slices", "their diameter is too small"))
    return cards or [Card("Noise", "–", "too little soft tissue to measure it")]


def _against_reference(found: dict[str, Any] | None) -> list[Card]:
    """Noise and equivalent dose relative to the reference; why there is none; nothing if nobody asked."""
    if found is None:
        return []
    cards = []
    if found["equivalent_dose_interval"]:
        low, high = found["equivalent_dose_interval"]
        reference = f"reference {number(found['noise_hu_median'], 1)} HU ({found['source']})"
        within = f"of the reference's dose; 95 % within {low:.0%} to {high:.0%}"
        cards = [
            Card("Noise over reference", number(found["noise_ratio_median"], 2), reference),
            Card("Equivalent dose", f"{found['equivalent_dose_median']:.0%}", within),
        ]
    unknown = (f"{each['slices']} slices: {each['reason']}" for each in found["unknown"])
    return cards + [Card("Reference", "unknown", text) for text in unknown]


def _relative_to(summary: dict[str, Any], takes_reference: bool) -> str:
    """What the predicted SSIM compares with."""
    reference = summary.get("reference")
    if takes_reference and reference and reference["slices"]:
        return f"relative to {number(reference['noise_hu_median'], 1)} HU"
    return "against an assumed full dose"


def _predicted(summary: dict[str, Any], levels: list[float], takes_reference: bool) -> list[Card]:
    quality = summary["quality"]
    if quality["mean"] is None:
        return [Card("Predicted SSIM", "–", "no slice has a body")]
    cards = [
        Card(
            "Predicted SSIM",
            number(quality["mean"], 2) + _plus_minus(summary.get("expected_error_median")),
            f"{_relative_to(summary, takes_reference)}; lowest slice {number(quality['min'], 2)}",
        )
    ]
    most = max(summary["dose"], key=lambda count: count["slices"], default=None)
    if most:
        typical = "as typical full-dose scans" if most["level"] == levels[-1] else "of an assumed full dose"
        said = f"{typical}; {most['slices']} of {summary['slices']} slices"
        cards.append(Card("Dose it looks like", dose_statement(most["level"], levels), said))
    if summary["model_noise_hu_median"] is not None:
        cards.append(Card("Noise by the model", f"{summary['model_noise_hu_median']:.1f} HU", "median"))
    return cards


def _plus_minus(error: float | None) -> str:
    return "" if error is None else f" ± {error:.2f}"


def _run(entry: dict[str, Any]) -> list[Card]:
    summary, total = entry["summary"], entry["latency"]["stages_ms"].get("total")
    cards = [Card("Slices", str(summary["slices"]), f"{summary['slices_scored']} scored")]
    if total:
        within = f"90 % within {number(total['p90'], 0)} ms"
        cards.append(Card("Latency per slice", f"{number(total['p50'], 0)} ms", within))
    return cards
