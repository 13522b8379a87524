"""Do the models know low doses, or this project's simulator? Their errors on noise that it would not make.

The noise inserted into a slice of each test patient is changed: its texture, where it is strong, its
electronic part. Its standard deviation in the body stays what it was, so that a dose means what it meant, and
the truth is computed anew. A model that had learned to tell inserted noise from a slice's own by some trait
of the simulator would fail.

    python -m benchmarks.mismatch --data ../shared/ct     # writes its table in docs/explanation/simulation.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.marks import fill
from benchmarks.slices import one_a_patient, parser
from n2q_edge.arrays import FloatArray
from n2q_edge.dataset.cache import STD_BLOCK, CachedSlice
from n2q_edge.dataset.collect import TEST
from n2q_edge.evaluation.cases import Case, FullDose, Scan, full_dose, level_noise, make_cases
from n2q_edge.evaluation.predictions import Prediction, Predictor, answer_with
from n2q_edge.evaluation.scores import score, summary
from n2q_edge.machine import describe_machine
from n2q_edge.quality.body import body_mask
from n2q_edge.released_models import names
from n2q_edge.runtimes import open_model
from n2q_edge.runtimes.base import Runtime
from n2q_edge.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "mismatch.json"
PAGE = ROOT / "docs" / "explanation" / "simulation.md"
BEGIN = "<!-- begin: python -m benchmarks.mismatch -->"
TEXTURE_SIGMA = 1.0  # pixels

Change = Callable[[FloatArray, CachedSlice], FloatArray]
"""Noise [H,W] in HU and the slice it is for -> noise of another kind, of any strength."""


def textured(strength: float) -> Change:
    """High frequencies times 1 + strength."""

    def change(noise: FloatArray, _: CachedSlice) -> FloatArray:
        high = noise - ndimage.gaussian_filter(noise, TEXTURE_SIGMA)
        return np.asarray(noise + np.float32(strength) * high)

    return change


def outward(growth: float) -> Change:
    """Stronger by `growth` at the edge of the image than in its centre, or weaker."""

    def change(noise: FloatArray, _: CachedSlice) -> FloatArray:
        rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in noise.shape)
        return np.asarray(noise * (1 + np.float32(growth) * np.hypot(rows[:, None], columns)))

    return change


def quantum_std(item: CachedSlice) -> FloatArray:
    """Local standard deviation [H,W] of the slice's quantum noise."""
    return np.asarray(ndimage.zoom(np.asarray(item.noise_std()[0]), STD_BLOCK, order=1))


def even(noise: FloatArray, item: CachedSlice) -> FloatArray:
    """Equally strong everywhere."""
    local = quantum_std(item)
    return np.asarray(noise / np.maximum(local, local.mean() / 10))


def white(noise: FloatArray, item: CachedSlice) -> FloatArray:
    """Without correlation between pixels, as strong as before in every place."""
    draws = np.random.default_rng((1, int(item.key, 16))).standard_normal(noise.shape, dtype=np.float32)
    return np.asarray(draws * quantum_std(item))


def same(noise: FloatArray, _: CachedSlice) -> FloatArray:
    """As simulated."""
    return noise


CHANGES: dict[str, tuple[Change, float]] = {
    "as simulated": (same, 1.0),
    "smoother: high frequencies x 0.7": (textured(-0.3), 1.0),
    "sharper: high frequencies x 1.5": (textured(0.5), 1.0),
    "white": (white, 1.0),
    "a third stronger at the edge": (outward(0.33), 1.0),
    "a third weaker at the edge": (outward(-0.33), 1.0),
    "equally strong everywhere": (even, 1.0),
    "no electronic noise": (same, 0.0),
    "electronic noise x 3": (same, 3.0),
}
"""What is changed: how, and the factor of the electronic part, which does change the strength."""


def changed_noise(
    item: CachedSlice, full: FullDose, spec: ModelSpec, change: Change, electronic: float
) -> Iterator[FloatArray]:
    """The noise of every dose level as evaluation draws it, changed."""
    basis = item.basis()
    basis = replace(basis, electronic=basis.electronic * np.float32(electronic))
    body = body_mask(full.hu, (full.pixel_mm, full.pixel_mm))
    for noise in level_noise(item.key, basis, spec):
        other = change(noise, item)
        yield np.asarray(other * np.float32(noise[body].std() / other[body].std()))


def changed_cases(item: CachedSlice, spec: ModelSpec, change: Change, electronic: float) -> Iterator[Case]:
    full = full_dose(item)
    return make_cases(full, changed_noise(item, full, spec, change, electronic), spec)


def predictor(runtime: Runtime) -> Predictor:
    def predict(scan: Scan) -> Prediction:
        found = runtime.infer(scan.hu[None, None])
        assert found.dose_probabilities is not None
        return Prediction(found.quality_map[0, 0], found.dose_probabilities[0])

    return predict


def measure(model: str, slices: list[CachedSlice]) -> dict[str, Any]:
    """Metrics of a released model under every change."""
    found = {}
    with open_model(Path(model)) as runtime:
        answer = answer_with(predictor(runtime))
        for name, (change, electronic) in CHANGES.items():
            results = [
                score(case, answer(case), runtime.spec)
                for item in slices
                for case in changed_cases(item, runtime.spec, change, electronic)
            ]
            metrics = summary(results)
            bias = float(np.mean([result.mean - result.true_mean for result in results]))
            found[name] = {
                "body_mae": metrics["body"]["mae"],
                "body_plcc": metrics["body"]["plcc"],
                "slice_mae": metrics["slice"]["mae"],
                "slice_bias": bias,
                "log_dose_error": metrics["dose"]["log_error"],
            }
            print(model, name, {key: round(value, 4) for key, value in found[name].items()}, flush=True)
    return found


def table(models: dict[str, dict[str, Any]]) -> str:
    """The Markdown table."""
    heads = ("body MAE", "slice MAE", "slice bias", "log-dose error")
    lines = [
        "| inserted noise | " + " | ".join(f"{model}: {head}" for model in models for head in heads) + " |",
        "|---|" + "---:|" * (len(models) * len(heads)),
    ]
    for name in CHANGES:
        cells = []
        for found in models.values():
            values = found[name]
            cells += [f"{values['body_mae']:.3f}", f"{values['slice_mae']:.3f}"]
            cells += [f"{values['slice_bias']:+.3f}", f"{values['log_dose_error']:.2f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    slices = one_a_patient(parser(__doc__).parse_args(), TEST)[TEST]
    models = {model: measure(model, slices) for model in names()}
    result = {"machine": describe_machine(), "slices": len(slices), "models": models}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    fill(PAGE, BEGIN, table(models))


if __name__ == "__main__":
    main()
