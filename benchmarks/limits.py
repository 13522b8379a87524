"""What limits a released model: its size and training, or the patients it has seen?

Errors on one slice of each patient at five doses, of the training patients and of those held out, and the
same with the mean quality of every slice put right (by a shift of the map's logit). Training patients show
what more patients would bring, right means what is unknown about a slice as a whole: how noisy its scanner's
full dose is.

    python -m benchmarks.limits --data ../shared/ct     # also writes its table of export/n2q-plus.md
    python -m benchmarks.limits --data ../shared/ct --model other.safetensors     # prints
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from benchmarks.marks import fill
from benchmarks.slices import one_a_patient, parser
from n2q_edge.arrays import FloatArray
from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.dataset.collect import TEST, TRAIN
from n2q_edge.evaluation.cases import cases
from n2q_edge.machine import describe_machine
from n2q_edge.released_models import names
from n2q_edge.runtimes import open_model
from n2q_edge.runtimes.base import Runtime

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "limits.json"
PAGE = ROOT / "export" / "n2q-plus.md"
BEGIN = "<!-- begin: python -m benchmarks.limits -->"
SMALLEST = 1e-4  # from 0 and 1: the logit is finite
LARGEST_SHIFT = 12.0


def put_right(quality: FloatArray, mean: float) -> FloatArray:
    """A map's values with this mean, by a shift of their logit."""
    values = logit(np.clip(quality.astype(np.float64), SMALLEST, 1 - SMALLEST))
    shift = brentq(lambda by: float(expit(values + by).mean()) - mean, -LARGEST_SHIFT, LARGEST_SHIFT)
    return np.asarray(expit(values + shift), dtype=np.float32)


def errors(slices: list[CachedSlice], runtime: Runtime) -> dict[str, float]:
    """Mean absolute errors: of body pixels, of slice means, of body pixels with the right slice means."""
    pixels, absolute, corrected, means = 0, 0.0, 0.0, []
    for item in slices:
        for case in cases([item], runtime.spec):
            predicted = runtime.infer(case.scan.hu[None, None]).quality_map[0, 0][case.body]
            true = case.quality[case.body]
            mean = float(true.mean(dtype=np.float64))
            pixels += true.size
            absolute += float(np.abs(predicted - true).sum(dtype=np.float64))
            corrected += float(np.abs(put_right(predicted, mean) - true).sum(dtype=np.float64))
            means.append(abs(float(predicted.mean(dtype=np.float64)) - mean))
    return {
        "slices": len(slices),
        "body_mae": absolute / pixels,
        "slice_mae": float(np.mean(means)),
        "body_mae_right_means": corrected / pixels,
    }


def table(models: dict[str, dict[str, Any]]) -> str:
    """The Markdown table."""
    lines = [
        "| mean absolute error, a slice of each patient | " + " | ".join(models) + " |",
        "|---|" + "---:|" * len(models),
    ]
    for text, split, name in (
        ("body pixels, patients held out", TEST, "body_mae"),
        ("body pixels, patients held out, slice means put right", TEST, "body_mae_right_means"),
        ("body pixels, training patients", TRAIN, "body_mae"),
        ("body pixels, training patients, slice means put right", TRAIN, "body_mae_right_means"),
        ("slice means, patients held out", TEST, "slice_mae"),
        ("slice means, training patients", TRAIN, "slice_mae"),
    ):
        cells = " | ".join(f"{found[split][name]:.3f}" for found in models.values())
        lines.append(f"| {text} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--model", type=Path, action="append", help="instead of the released ones; repeatable"
    )
    options = arguments.parse_args()
    chosen = one_a_patient(options, TEST, TRAIN)
    models: dict[str, dict[str, Any]] = {}
    for path in options.model or map(Path, names()):
        name = path.name
        with open_model(path) as runtime:
            models[name] = {split: errors(own, runtime) for split, own in chosen.items()}
        print(name, json.dumps(models[name], indent=1), flush=True)
    if options.model:
        return
    result = {"machine": describe_machine(), "models": models}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    fill(PAGE, BEGIN, table(models))


if __name__ == "__main__":
    main()
