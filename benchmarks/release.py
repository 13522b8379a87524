"""Release trained models: files, hashes, and the tables of their figures in the cards and the README.

    python -m benchmarks.release n2q-small n2q-plus     # the first is the default model
    python -m benchmarks.release --tables-only n2q-small n2q-plus

Takes export/NAME.safetensors and export/NAME.metrics.json, which `n2q-edge train` wrote. The ONNX file passes
the parity gate or nothing is released.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.marks import fill
from n2q_edge.model.export import export_model

ROOT = Path(__file__).resolve().parents[1]
EXPORT, MODELS = ROOT / "export", ROOT / "n2q_edge" / "released_models"
README = ROOT / "README.md"
FIGURES, DOSES = "<!-- figures of {} -->", "<!-- figures of {} by dose -->"
ACCURACY = "<!-- accuracy: made by benchmarks.release -->"

ROWS = (
    ("pixels in the body: mean absolute error, SSIM", "body.mae"),
    ("pixels in the body: root mean square error", "body.rmse"),
    ("pixels in the body: correlation (PLCC)", "body.plcc"),
    ("pixels in the window 40/300: mean absolute error", "window.mae"),
    ("pixels in the window: correlation", "window.plcc"),
    ("body mean of a slice: mean absolute error", "slice.mae"),
    ("body mean of a slice: PLCC", "slice.plcc"),
    ("body mean of a slice: rank correlation (SROCC)", "slice.srocc"),
    ("dose level of five: accuracy", "dose.accuracy"),
    ("mean error of log dose", "dose.log_error"),
)


# What the README shows, in words for somebody who has not met these measures.
README_ROWS = (
    ("quality of a slice, SSIM: mean absolute error", "slice.mae"),
    ("order of slices by quality: rank correlation", "slice.srocc"),
    ("quality of a pixel in the body, SSIM: mean absolute error", "body.mae"),
    ("quality of pixels in the body: correlation", "body.plcc"),
    ("dose level right, of five", "dose.accuracy"),
)


def accuracy(tests: dict[str, dict[str, Any]]) -> str:
    """The README's table: a column for each model, 95 % intervals over patients in brackets."""
    test = next(iter(tests.values()))
    doses = len(test["per_dose"])
    cases = f"{test['slices']} slices of {test['patients']} patients at {doses} simulated doses"
    lines = [f"| {cases} | {' | '.join(tests)} |", f"|---|{'---:|' * len(tests)}"]
    for text, name in README_ROWS:
        part, key = name.split(".")
        cells = (
            f"{test[part][key]:.3f} ({test['intervals'][name][0]:.3f} to {test['intervals'][name][1]:.3f})"
            for test in tests.values()
        )
        lines.append(f"| {text} | {' | '.join(cells)} |")
    shares = (f"{100 * test['rises_with_dose']:.0f} %" for test in tests.values())
    lines.append(f"| slices whose quality rises with every step of the dose | {' | '.join(shares)} |")
    return "\n".join(lines)


def figures(test: dict[str, Any]) -> str:
    """The table of a model's metrics, with intervals."""
    cases = (
        f"{test['slices']} slices of {test['patients']} patients, x {len(test['per_dose'])} simulated doses"
    )
    lines = [
        f"| on {cases} | value | 95 % interval over patients |",
        "|---|---:|---:|",
    ]
    for text, name in ROWS:
        part, key = name.split(".")
        low, high = test["intervals"][name]
        lines.append(f"| {text} | {test[part][key]:.3f} | {low:.3f} to {high:.3f} |")
    lines.append(
        f"| slices whose mean quality rises over all doses | {100 * test['rises_with_dose']:.0f} % | |"
    )
    return "\n".join(lines)


def by_dose(test: dict[str, Any]) -> str:
    """The table of a model's metrics at each dose."""
    lines = [
        "| dose | body MAE | body PLCC | slice MAE | slice PLCC | level right |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for dose, found in test["per_dose"].items():
        body, mean = found["body"], found["slice"]
        values = (body["mae"], body["plcc"], mean["mae"], mean["plcc"])
        cells = " | ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {100 * float(dose):.0f} % | {cells} | {found['dose']['accuracy']:.2f} |")
    return "\n".join(lines)


def test_of(name: str) -> dict[str, Any]:
    """A model's figures on the patients held out, as `n2q-edge train` measured them."""
    metrics: dict[str, Any] = json.loads((EXPORT / f"{name}.metrics.json").read_text(encoding="utf-8"))
    return dict(metrics["test"])


def write_tables(name: str) -> None:
    """Put a model's tables between their marks in its card."""
    test, page = test_of(name), EXPORT / f"{name}.md"
    for mark, table in ((FIGURES.format(name), figures(test)), (DOSES.format(name), by_dose(test))):
        if mark in page.read_text(encoding="utf-8"):
            fill(page, mark, table)


def release(name: str) -> dict[str, str]:
    """Export a model into the package; what `released.json` says of it."""
    onnx, weights = MODELS / f"{name}.onnx", MODELS / f"{name}.safetensors"
    report = export_model(EXPORT / f"{name}.toml", onnx)
    shutil.copyfile(EXPORT / weights.name, weights)
    print(f"{name}: max {max(parity.max_difference for parity in report.parity):.1e} SSIM from PyTorch")
    return {
        "onnx": onnx.name,
        "sha256": report.sha256,
        "checkpoint": weights.name,
        "checkpoint_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tables-only", action="store_true")
    options = parser.parse_args()
    if not options.tables_only:
        released = {"default": options.models[0], **{name: release(name) for name in options.models}}
        (MODELS / "released.json").write_text(json.dumps(released, indent=1) + "\n", encoding="utf-8")
    for name in options.models:
        write_tables(name)
    fill(README, ACCURACY, accuracy({name: test_of(name) for name in options.models}))


if __name__ == "__main__":
    main()
