"""Where the numbers come from: how the series was scanned, and what assessed it by whose standard."""

from __future__ import annotations

from typing import Any

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
RANGES = ("tube_current_ma", "exposure_mas")
"""They change along the series: the summary has their ranges."""


def protocol_rows(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and value with unit; a dash where the headers say nothing."""
    rows = []
    for name, label, unit in PROTOCOL:
        text = _range(entry["summary"][name]) if name in RANGES else _text(entry["protocol"].get(name))
        doubtful = name in RANGES and (entry["summary"][name] or {}).get("doubtful")
        value = f"{text} {unit}".strip() if text else "–"
        rows.append((label, f"{value} (doubtful: the header contradicts itself)" if doubtful else value))
    return rows


def scanner(protocol: dict[str, Any]) -> str:
    """Manufacturer, model and station, as far as the headers name them."""
    return " ".join(
        str(protocol[name]) for name in ("manufacturer", "model", "station") if protocol.get(name)
    )


def policy_sentence(policy: dict[str, Any]) -> str:
    """Whose standard the verdicts follow."""
    if policy["source"] is None:
        return f"Judged by {policy['name']}, the program's own policy: not a clinical standard of this site"
    return f"Judged by the policy {policy['name']} of {policy['source']}"


def provenance_rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and value of program, model, machine and policy."""
    model, machine, policy = document["model"], document["machine"], document["policy"]
    runtime = model["runtime"]
    rows = [
        ("Made", f"{document['created']} by n2q-edge {document['n2q_edge_version']}"),
        ("Model", f"{model['name']} {model['version']}, {model['precision']}"),
        ("Model SHA-256", model["sha256"] or "–"),
        ("Predicted SSIM", f"against the unseen full-dose slice, window {window(model)}, inside the body"),
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


def window(model: dict[str, Any]) -> str:
    """The model's window: '-110 to 190 HU'."""
    center, width = model["window_center_hu"], model["window_width_hu"]
    return f"{center - width / 2:.0f} to {center + width / 2:.0f} HU"


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _range(values: dict[str, Any] | None) -> str:
    if values is None:
        return ""
    low, high = (_text(float(values[end])) for end in ("low", "high"))
    return low if low == high else f"{low} to {high}"


def _domain(document: dict[str, Any]) -> str:
    """Whether the model can tell that a slice is out of domain."""
    if document["model"]["domain"]:
        return "every slice was compared with what the model was trained on"
    return "not checked: the model does not say what it was trained on"
