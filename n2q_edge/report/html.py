"""report.html: one page that a physicist reads in ten seconds and can print, offline and without JavaScript.

Its numbers are those of the JSON document; only the pictures come from the assessment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from n2q_edge.assessment.results import NO_BODY, Assessment, ModelReason, SeriesReport
from n2q_edge.dicom.reasons import Reason
from n2q_edge.dicom.records import SERIES_FLAGS, SLICE_FLAGS
from n2q_edge.quality.crosscheck import NOISE_DISAGREEMENT, NOISE_RATIO_LIMIT
from n2q_edge.quality.domain import OUT_OF_DOMAIN
from n2q_edge.report.charts import Axis, Plot, axis
from n2q_edge.report.overlay import bar_colours, pictures
from n2q_edge.report.page import capital, data_uri, render_pieces
from n2q_edge.report.text import number, percent
from n2q_edge.spec import ModelSpec

MAX_SLICE_PICTURES = 60
"""Over all series of a run, so that the page of a whole tree still opens; all keep their worst slice."""

FLAGS = {
    **SERIES_FLAGS,
    **SLICE_FLAGS,
    NO_BODY: "no patient was found in the slice; it has no scores",
    NOISE_DISAGREEMENT: "the model's noise and the noise measured without it differ by more than a factor of "
    f"{NOISE_RATIO_LIMIT:g}: the model may be out of its domain",
    OUT_OF_DOMAIN: "the slice is unlike what the model was trained on: its numbers deserve less trust",
}
CAUTIONS = {
    NOISE_DISAGREEMENT: ("In {} the model and a model-free measure disagree on the noise", 0.1),
    "lossy_compressed": ("{} were lossily compressed, which changes noise", 0.0),
    NO_BODY: ("No patient was found in {}; they are not scored", 0.0),
}
"""Flag: what to say at the top, and over which share of the slices; a few disagree in most series."""
OUT_OF_DOMAIN_SHARE = 0.1  # of the slices; below it the flags say so, but not the top of the page
REASONS = {reason.value: reason.description for kind in (Reason, ModelReason) for reason in kind}
PROTOCOL = (
    ("series_description", "Series", ""),
    ("protocol_name", "Protocol", ""),
    ("body_part", "Body part", ""),
    ("manufacturer", "Manufacturer", ""),
    ("model", "Scanner", ""),
    ("station", "Station", ""),
    ("kvp", "Tube voltage", "kV"),
    ("tube_current_ma", "Tube current", "mA"),
    ("exposure_mas", "Exposure", "mAs"),
    ("ctdivol", "CTDIvol", "mGy"),
    ("pitch", "Pitch", ""),
    ("slice_thickness_mm", "Slice thickness", "mm"),
    ("kernel", "Kernel", ""),
)
STAGES = {
    "total": "total, arrival to result",
    "h2d": "host to device",
    "d2h": "device to host",
}


def html_pieces(document: dict[str, Any], assessment: Assessment) -> Iterator[str]:
    """The page, piece by piece: a series of thousands of slices need not be in memory as a whole.

    Args:
        document: the run's JSON document.
        assessment: the run; the pictures are of `SeriesReport.worst`.
    """
    reports = {report.number: report for report in assessment.series}
    allowed = max(1, MAX_SLICE_PICTURES // max(1, len(reports)))
    series = [
        _series(entry, reports[entry["number"]], assessment.spec, document, allowed)
        for entry in document["series"]
        if entry["slices"]
    ]
    return render_pieces(
        "report.html.j2",
        {
            "document": document,
            "series": series,
            "overall": _overall(document["series"]),
            "colour_bar": bar_colours(21),
            "rejected": _by_reason(document["rejected"]),
            "skipped": _by_reason(document["skipped"]),
            "empty": [entry for entry in document["series"] if not entry["slices"]],
            "provenance": _provenance(document),
        },
    )


def _overall(series: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The worst verdict of the series that were judged, and how many share each."""
    counts = Counter(entry["verdict"]["code"] for entry in series if entry["slices"])
    order = ("unusable", "usable_does_not_meet", "usable", None)
    worst = next((code for code in order if counts[code]), None)
    return {"code": worst, "counts": [(code, counts[code]) for code in order if counts[code]]}


def _series(
    entry: dict[str, Any], report: SeriesReport, spec: ModelSpec, document: dict[str, Any], allowed: int
) -> dict[str, Any]:
    slices = entry["slices"]
    shown = [result for result in report.worst if result.images is not None][:allowed]
    by_number = {item["number"]: item for item in slices}
    return {
        "entry": entry,
        "title": entry["protocol"].get("series_description")
        or entry["protocol"].get("protocol_name")
        or f"Series {entry['number']}",
        "why": [capital(reason) for reason in entry["verdict"]["reasons"]],
        "cautions": _cautions(entry),
        "strange": _is_strange(entry),
        "figures": _figures(entry, predicts_dose=bool(document["model"]["dose_levels_percent"])),
        "protocol": _protocol(entry["protocol"]),
        "regions": sorted(entry["summary"]["regions"], key=lambda region: region["mean"]),
        "charts": _charts(entry, document),
        "histogram": _histogram(slices, document["settings"]["quality_threshold"]),
        "worst": [(by_number[result.number], *_picture_uris(result.images, spec)) for result in shown],
        "not_shown": len(entry["summary"]["worst"]) - len(shown) if shown else 0,
        "stages": [
            (STAGES.get(name, name), values) for name, values in entry["latency"]["stages_ms"].items()
        ],
        "flags": _flags(entry),
    }


def _picture_uris(images: Any, spec: ModelSpec) -> tuple[Markup, Markup]:
    png, jpeg = pictures(images, spec)
    return data_uri("image/png", png), data_uri("image/jpeg", jpeg)


def _cautions(entry: dict[str, Any]) -> list[str]:
    """What should make a reader doubt the scores of this series."""
    counts = Counter(flag for item in entry["slices"] for flag in item["flags"])
    total = len(entry["slices"])
    first = [entry["summary"]["out_of_domain"]["text"]] if _is_strange(entry) else []
    return first + [
        text.format(f"{counts[flag]} of {total} slices")
        for flag, (text, share) in CAUTIONS.items()
        if counts[flag] > share * total
    ]


def _is_strange(entry: dict[str, Any]) -> bool:
    """Whether so many slices are unlike the training data that the reader must know it first."""
    strange = entry["summary"]["out_of_domain"]
    return bool(strange) and strange["slices"] > OUT_OF_DOMAIN_SHARE * len(entry["slices"])


def _figures(entry: dict[str, Any], predicts_dose: bool) -> list[tuple[str, str, str]]:
    """The numbers at the top: name, value, what else."""
    summary, total = entry["summary"], entry["latency"]["stages_ms"].get("total")
    quality, dose = summary["quality"], max(summary["dose"], key=lambda item: item["slices"], default=None)
    no_dose = "no slice has a body" if predicts_dose else "the model does not tell"
    model_noise = sorted(
        item["model_noise_hu"] for item in entry["slices"] if item["model_noise_hu"] is not None
    )
    return [
        ("Quality (SSIM)", number(quality["mean"], 2), f"lowest slice {number(quality['min'], 2)}"),
        (
            "Looks like dose",
            percent(dose["level"]) if dose else "–",
            f"{dose['slices']} of {summary['slices']} slices" if dose else no_dose,
        ),
        (
            "Noise",
            "–" if summary["noise_hu_median"] is None else f"{summary['noise_hu_median']:.1f} HU",
            f"the model says {model_noise[len(model_noise) // 2]:.1f}" if model_noise else "model-free",
        ),
        ("Slices", str(summary["slices"]), f"{summary['slices_scored']} scored"),
        (
            "Latency a slice",
            f"{number(total['p50'], 0)} ms" if total else "–",
            f"90 % within {number(total['p90'], 0)} ms" if total else "",
        ),
    ]


def _protocol(protocol: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, label, unit in PROTOCOL:
        value = protocol.get(name)
        text = "–" if value in (None, "") else f"{value:.4g}" if isinstance(value, float) else str(value)
        rows.append((label, f"{text} {unit}".strip() if text != "–" else text))
    return rows


def _charts(entry: dict[str, Any], document: dict[str, Any]) -> list[Markup]:
    """Quality, noise and, if the model tells, dose along z, on one horizontal axis."""
    slices = entry["slices"]
    positions = [item["position_mm"] for item in slices]
    usable = None not in positions and len(set(positions)) > 1
    where = [float(item["position_mm"] if usable else item["number"]) for item in slices]
    round_axis = axis(where, "position along z, mm" if usable else "slice number", ticks=8)
    low, high = (min(where), max(where)) if len(set(where)) > 1 else (round_axis.low, round_axis.high)
    inside = tuple(tick for tick in round_axis.ticks if low <= tick[0] <= high)
    along = Axis(low, high, inside, round_axis.title)
    levels = document["model"]["dose_levels_percent"]
    quality = _quality_chart(entry, where, along)
    if not levels:
        return [quality, _noise_chart(slices, where, along, lowest=True)]
    return [
        quality,
        _noise_chart(slices, where, along, lowest=False),
        _dose_chart(slices, where, along, levels),
    ]


def _quality_chart(entry: dict[str, Any], where: list[float], along: Axis) -> Markup:
    slices, summary = entry["slices"], entry["summary"]
    means = [item["quality"]["mean"] for item in slices]
    scale = Axis(0, 1, tuple((tick / 5, f"{tick / 5:.1f}") for tick in range(6)), "quality, SSIM")
    plot = Plot(along, scale, height=240, x_labels=False)
    plot.band(where, [item["quality"]["p05"] for item in slices], means)
    for standard, label in (("meets", "meets the standard"), ("usable", "usable")):
        limits = entry["verdict"]["limits"]
        if limits:
            plot.level(limits[standard]["slice_mean"], f"slice limit, {label}", f"limit {standard}")
    plot.line(where, means)
    plot.dots(_points(slices, where, "mean", lambda item: item["quality"]["mean"], 3))
    worst = set(summary["worst"])
    rows = [(item, x) for item, x in zip(slices, where, strict=True) if item["number"] in worst]
    plot.dots(((x, item["quality"]["mean"], f"slice {item['number']}") for item, x in rows), "mark", 4)
    lowest = next(((item, x) for item, x in rows if item["number"] == summary["worst"][0]), None)
    if lowest is None:
        return plot.svg("Quality along z: no slice has a score")
    plot.label(lowest[1], lowest[0]["quality"]["mean"], f"slice {lowest[0]['number']}")
    quality = summary["quality"]
    return plot.svg(
        f"Quality along z, {len(slices)} slices: mean {number(quality['mean'], 2)}, "
        f"lowest {number(quality['min'], 2)} at slice {lowest[0]['number']}"
    )


def _noise_chart(slices: list[dict[str, Any]], where: list[float], along: Axis, *, lowest: bool) -> Markup:
    """The `lowest` of the charts has the labels of the axis they share, and the room for them."""
    measured = [item["noise_hu"] for item in slices]
    model = [item["model_noise_hu"] for item in slices]
    scale = axis([*measured, *model], "noise, HU", zero=True, ticks=3)
    plot = Plot(along, scale, height=140 if lowest else 110, x_labels=lowest)
    plot.line(where, model, "second")
    plot.line(where, measured)
    plot.dots(_points(slices, where, "noise", lambda item: item["noise_hu"], 1))
    flagged = [
        (x, item["noise_hu"], f"slice {item['number']}: disagreement")
        for item, x in zip(slices, where, strict=True)
        if NOISE_DISAGREEMENT in item["flags"] and item["noise_hu"] is not None
    ]
    plot.dots(flagged, "mark", 4)
    known = [value for value in measured if value is not None]
    said = f"{min(known):.1f} to {max(known):.1f} HU" if known else "not measured"
    return plot.svg(f"Noise along z, model-free: {said}; {len(flagged)} slices disagree with the model")


def _dose_chart(slices: list[dict[str, Any]], where: list[float], along: Axis, levels: list[float]) -> Markup:
    # Levels, not amounts: 50 and 75 % would nearly touch on a true scale.
    ticks = tuple((float(row), percent(level)) for row, level in enumerate(levels))
    plot = Plot(along, Axis(-0.5, len(levels) - 0.5, ticks, "looks like"), height=150)
    row = {level: float(index) for index, level in enumerate(levels)}
    plot.dots(
        (
            (
                x,
                row[item["dose"]["level"]],
                f"slice {item['number']}: looks like {percent(item['dose']['level'])}",
            )
            for item, x in zip(slices, where, strict=True)
            if item["dose"]["level"] is not None
        ),
        radius=2.6,
    )
    found = Counter(item["dose"]["level"] for item in slices if item["dose"]["level"] is not None)
    said = ", ".join(f"{percent(level)}: {found[level]} slices" for level in sorted(found))
    return plot.svg(f"Dose level along z: {said or 'none'}")


def _points(
    slices: list[dict[str, Any]], where: list[float], name: str, value: Any, digits: int
) -> list[tuple[float, float, str]]:
    return [
        (x, value(item), f"slice {item['number']}: {name} {number(value(item), digits)}")
        for item, x in zip(slices, where, strict=True)
        if value(item) is not None
    ]


def _histogram(slices: list[dict[str, Any]], threshold: float) -> Markup | None:
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
    return plot.svg(
        f"Histogram of the quality of all body pixels; {below:.1f} percent are below {threshold:g}"
    )


def _flags(entry: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Flag, where it holds, what it means."""
    counts = Counter(flag for item in entry["slices"] for flag in item["flags"])
    meanings = dict(FLAGS)
    strange = entry["summary"]["out_of_domain"]
    if strange:
        reasons = ", ".join(f"{each['text']} in {each['slices']}" for each in strange["reasons"])
        meanings[OUT_OF_DOMAIN] += f"; {reasons}"
    rows = [(flag, "series", meanings.get(flag, "")) for flag in entry["flags"]]
    return rows + [
        (flag, f"{count} slice{'s' if count > 1 else ''}", meanings.get(flag, ""))
        for flag, count in counts.most_common()
    ]


def _by_reason(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Files by reason, the most frequent first, with the first few named."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        groups.setdefault(item["reason"], []).append(item)
    return [
        {"code": code, "meaning": REASONS.get(code, ""), "count": len(group), "items": group[:20]}
        for code, group in sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    ]


def _provenance(document: dict[str, Any]) -> list[tuple[str, str]]:
    model, machine, policy = document["model"], document["machine"], document["policy"]
    runtime = model["runtime"]
    rows = [
        ("Made", f"{document['created']} by n2q-edge {document['n2q_edge_version']}"),
        ("Model", f"{model['name']} {model['version']}, {model['precision']}"),
        ("Model SHA-256", model["sha256"] or "–"),
        ("Quality is", f"SSIM against the unseen full-dose slice, window {_window(model)}, inside the body"),
        ("Runtime", " ".join(str(runtime[key]) for key in ("name", "version", "device") if runtime.get(key))),
        ("Threads, batch", f"{runtime.get('threads', '–')}, {document['settings']['batch']}"),
        ("Machine", f"{machine['cpu']}, {machine['cores_usable']} cores, {machine['memory_gib']} GiB"),
        ("System", f"{machine['os']}, Python {machine['python']}"),
        ("Out of domain", _domain(document)),
        ("Policy", f"{policy['name']} ({policy['source'] or 'built in'})"),
        ("Policy SHA-256", policy["sha256"]),
    ]
    if document["settings"]["fail_below"] is not None:
        rows.append(("--fail-below", f"{document['settings']['fail_below']:g}"))
    return rows


def _domain(document: dict[str, Any]) -> str:
    """Whether the model can tell that a slice is unlike its training data."""
    if document["model"]["domain"]:
        return "every slice was compared with what the model was trained on"
    return "not checked: the model does not say what it was trained on"


def _window(model: dict[str, Any]) -> str:
    centre, width = model["window_center_hu"], model["window_width_hu"]
    return f"{centre - width / 2:.0f} to {centre + width / 2:.0f} HU"
