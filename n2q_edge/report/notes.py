"""What a reader must know before trusting the numbers: cautions, flags and reasons in words."""

from __future__ import annotations

from typing import Any

from n2q_edge.assessment.results import NO_BODY, ModelReason
from n2q_edge.dicom.reasons import Reason
from n2q_edge.dicom.records import SERIES_FLAGS, SLICE_FLAGS
from n2q_edge.quality.domain import OUT_OF_DOMAIN
from n2q_edge.quality.noise import NOISE_DISAGREEMENT, NOISE_RATIO_LIMIT

FLAGS = {
    **SERIES_FLAGS,
    **SLICE_FLAGS,
    NO_BODY: "no patient was found in the slice; it has no scores",
    NOISE_DISAGREEMENT: "the model's noise and the noise measured without it differ by more than a factor of "
    f"{NOISE_RATIO_LIMIT:g}: the prediction deserves less trust",
    OUT_OF_DOMAIN: "the slice is unlike what the model was trained on: the prediction deserves less trust",
}
CAUTIONS = {
    NOISE_DISAGREEMENT: ("In {} the model and a model-free measure disagree on the noise", 0.1),
    "lossy_compressed": ("{} were lossily compressed, which changes noise", 0.0),
    NO_BODY: ("No patient was found in {}; they are not scored", 0.0),
}
"""Flag: what to say at the top, and over which share of the slices; a few disagree in most series."""

OUT_OF_DOMAIN_SHARE = 0.1  # of the slices; below it the flags say so, but not the top of the page
REASONS = {reason.value: reason.description for kind in (Reason, ModelReason) for reason in kind}
FILES_NAMED = 20  # per reason


def cautions(entry: dict[str, Any]) -> list[str]:
    """What should make a reader doubt the scores of this series."""
    flags, total = entry["summary"]["flags"], entry["summary"]["slices"]
    first = [entry["summary"]["out_of_domain"]["text"]] if is_out_of_domain(entry) else []
    return first + [
        text.format(f"{flags[flag]} of {total} slices")
        for flag, (text, share) in CAUTIONS.items()
        if flags.get(flag, 0) > share * total
    ]


def is_out_of_domain(entry: dict[str, Any]) -> bool:
    """Whether so many slices are out of domain that the reader must know it first."""
    domain = entry["summary"]["out_of_domain"]
    return bool(domain) and domain["slices"] > OUT_OF_DOMAIN_SHARE * entry["summary"]["slices"]


def flag_rows(entry: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Flag, where it holds, what it means."""
    meanings = dict(FLAGS)
    domain = entry["summary"]["out_of_domain"]
    if domain:
        reasons = ", ".join(f"{each['text']} in {each['slices']}" for each in domain["reasons"])
        meanings[OUT_OF_DOMAIN] += f"; {reasons}"
    rows = [(flag, "series", meanings.get(flag, "")) for flag in entry["flags"]]
    return rows + [
        (flag, f"{count} slice{'s' if count > 1 else ''}", meanings.get(flag, ""))
        for flag, count in entry["summary"]["flags"].items()
    ]


def by_reason(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Files by reason, the most frequent first, with the first few named."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        groups.setdefault(item["reason"], []).append(item)
    return [
        {"code": code, "meaning": REASONS.get(code, ""), "count": len(group), "items": group[:FILES_NAMED]}
        for code, group in sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    ]
