"""report.html: one page that a physicist reads in ten seconds and can print, offline and without JavaScript.

Its numbers are those of the JSON document; charts and pictures come from the assessment.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from n2q_edge.assessment.results import RunReport, SeriesReport
from n2q_edge.quality.overlay import bar_colors
from n2q_edge.report import notes, provenance
from n2q_edge.report.along import charts_along, limits_below
from n2q_edge.report.cards import dose_statement, groups
from n2q_edge.report.charts import Axis, Chart, Plot, axis
from n2q_edge.report.page import capital, data_uri, render_pieces
from n2q_edge.report.text import shorten
from n2q_edge.spec import ModelSpec

PATH_WIDTH = 60  # characters of a folder in the index
STAGES = {
    "total": "total, arrival to result",
    "h2d": "host to device",
    "d2h": "device to host",
}


def html_pieces(
    document: dict[str, Any],
    assessment: RunReport,
    on_page: Mapping[int, Sequence[tuple[int, bytes, bytes]]],
) -> Iterator[str]:
    """The page, piece by piece: a series of thousands of slices need not be in memory as a whole.

    Args:
        document: the run's JSON document.
        assessment: the run.
        on_page: the pictures to show, see `drawing.OnPage`.
    """
    reports = {report.number: report for report in assessment.series}
    series = [
        _series(entry, reports[entry["number"]], assessment.spec, document, on_page.get(entry["number"], ()))
        for entry in document["series"]
        if entry["slices"]
    ]
    return render_pieces(
        "report.html.j2",
        {
            "document": document,
            "series": series,
            "overall": _overall(document["series"]),
            "color_bar": bar_colors(41),
            "window": provenance.window(document["model"]),
            "policy": provenance.policy_sentence(document["policy"]),
            "rejected": notes.by_reason(document["rejected"]),
            "skipped": notes.by_reason(document["skipped"]),
            "empty": [entry for entry in document["series"] if not entry["slices"]],
            "provenance": provenance.provenance_rows(document),
        },
    )


def _overall(series: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The worst verdict of the series that were judged, and how many share each."""
    counts = Counter(entry["verdict"]["code"] for entry in series if entry["slices"])
    order = ("unusable", "usable_does_not_meet", "usable", None)
    worst = next((code for code in order if counts[code]), None)
    return {"code": worst, "counts": [(code, counts[code]) for code in order if counts[code]]}


def _series(
    entry: dict[str, Any],
    report: SeriesReport,
    spec: ModelSpec,
    document: dict[str, Any],
    shown: Sequence[tuple[int, bytes, bytes]],
) -> dict[str, Any]:
    levels = document["model"]["dose_levels_percent"]
    by_number = {item["number"]: item for item in entry["slices"]}
    return {
        "entry": entry,
        "title": entry["protocol"].get("series_description")
        or entry["protocol"].get("protocol_name")
        or f"Series {entry['number']}",
        "study": entry["study_instance_uid"],
        "scanner": provenance.scanner(entry["protocol"]),
        "folder": shorten(
            os.path.commonpath([_folder(item["path"]) for item in entry["slices"]]), PATH_WIDTH
        ),
        "why": [capital(reason) for reason in entry["verdict"]["reasons"]],
        "cautions": notes.cautions(entry),
        "out_of_domain": notes.is_out_of_domain(entry),
        "groups": groups(entry, levels, spec.takes_reference),
        "doses": {level: dose_statement(level, levels) for level in levels},
        "protocol": provenance.protocol_rows(entry),
        "regions": sorted(entry["summary"]["regions"], key=lambda region: region["mean"]),
        "charts": charts_along(report),
        "limits_below": limits_below(report),
        "has_error": any(item["expected_error"] is not None for item in entry["slices"]),
        "has_reference": any("noise_hu" in (item["reference"] or {}) for item in entry["slices"]),
        "has_model_noise": any(item["model_noise_hu"] is not None for item in entry["slices"]),
        "histogram": _histogram(entry["slices"], document["settings"]["quality_threshold"]),
        "worst": [
            (by_number[number], data_uri("image/png", png), data_uri("image/jpeg", jpeg))
            for number, png, jpeg in shown
        ],
        "not_shown": len(entry["summary"]["worst"]) - len(shown) if shown else 0,
        "stages": [
            (STAGES.get(name, name), values) for name, values in entry["latency"]["stages_ms"].items()
        ],
        "flags": notes.flag_rows(entry),
    }


def _folder(path: str) -> str:
    return os.path.dirname(path) or "."  # noqa: PTH120 - of a text that may name a member of an archive


def _histogram(slices: list[dict[str, Any]], threshold: float) -> Chart | None:
    """How the quality of the body's pixels is distributed over the whole series."""
    counted = [item["quality"]["histogram"] for item in slices if item["quality"]["histogram"]]
    if not counted:
        return None
    counts = [sum(column) for column in zip(*counted, strict=True)]
    share = [100 * count / sum(counts) for count in counts]
    edges = [index / len(counts) for index in range(len(counts) + 1)]
    scale = Axis(0, 1, tuple((tick / 5, f"{tick / 5:.1f}") for tick in range(6)), "predicted SSIM of a pixel")
    plot = Plot(scale, axis(share, "body pixels, %", zero=True, ticks=4), width=420, height=230)
    spans = zip(edges, edges[1:], share, strict=False)
    plot.bars(edges, share, [f"{low:.2f} to {high:.2f}: {part:.1f} %" for low, high, part in spans])
    below = sum(part for edge, part in zip(edges, share, strict=False) if edge < threshold - 1e-9)
    return Chart(
        plot,
        f"Histogram of the predicted SSIM of all body pixels; {below:.1f} percent are below {threshold:g}",
    )
