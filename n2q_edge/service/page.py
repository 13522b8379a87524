"""The status page: one HTML page without script that a technologist reads at a glance."""

from __future__ import annotations

import time
from typing import Any

from n2q_edge.report.page import VERDICTS
from n2q_edge.service.index import SeriesRow
from n2q_edge.service.settings import Settings
from n2q_edge.service.status import Status


def render(status: Status, settings: Settings) -> str:
    """The page.

    Args:
        status: what to show.
        settings: of the node.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("n2q_edge.service"), PackageLoader("n2q_edge.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("status.html.j2").render(
        status=status,
        node=settings.node,
        rows=[_row(row, status) for row in status.series],
        clock=_clock,
    )


def _row(row: SeriesRow, status: Status) -> dict[str, Any]:
    """One line of the table."""
    summary = row.summary
    style, sign, word, meaning = VERDICTS.get(summary.get("verdict"), VERDICTS[None])
    if row.state != "done":
        word = "Arriving" if row.state == "arriving" else "Writing the result"
        style, sign, meaning = "none", "…", ""
    elif not summary.get("slices"):
        style, sign, word, meaning = "none", "–", "Nothing to assess", summary.get("not_assessed", "")
    return {
        "time": time.strftime("%H:%M", time.localtime(row.last)),
        "style": style,
        "sign": sign,
        "word": word,
        "why": "; ".join(filter(None, [meaning, *summary.get("reasons", [])])),
        "protocol": summary.get("protocol") or "",
        "scanner": summary.get("scanner", ""),
        "noise": summary.get("noise_hu"),
        "noise_ratio": summary.get("noise_ratio"),
        "received": row.received,
        "done": row.done,
        "arriving": row.state != "done",
        "latency": row.latency_s,
        "revision": row.revision,
        "waiting_for": status.undelivered.get(row.key, []),
        "link": f"series/{row.key}/r{row.revision:03d}/report.html" if summary.get("slices") else None,
        "name": summary.get("label") or row.key[:8],
    }


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))
