"""What is a reference noise worth, and what does a wrong one cost? Every model with and without one.

Slices of the patients held out, at five simulated doses, against their full-dose twin (100 %) and against
twins that are declared to have half and a quarter of the dose. A model is told nothing, the noise of the twin
itself, that of the rest of the series, or the twin's wrong by a factor. A model that cannot be told is
shifted by the plain offset (see `n2q_edge.network.anchor`, untrained). Every figure rests on simulated doses.

    python -m benchmarks.reference --data ../shared/ct --data ../shared/ct2
    python -m benchmarks.reference --data ../shared/ct --model other.safetensors -o other.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.slices import parser
from n2q_edge import released_models as models
from n2q_edge.arrays import FloatArray
from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.dataset.collect import TEST, collect, of_split
from n2q_edge.evaluation.cases import full_dose, regions, true_quality
from n2q_edge.evaluation.systems import per_patient
from n2q_edge.machine import describe_machine
from n2q_edge.model import checkpoint
from n2q_edge.network import build
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.simulation.noise import inserted_noise
from n2q_edge.spec import HU_INPUT, HU_MAX, HU_MIN, REFERENCE_INPUT, ModelSpec
from n2q_edge.training.start import inherit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reference.json"
TWINS = (1.0, 0.5, 0.25)  # doses of the twin, in doses of the slice
WRONG = (0.7, 0.8, 0.9, 1.1, 1.2, 1.3)
UNKNOWN, SAME, REST = "unknown", "same slice", "rest of the series"

Predict = Callable[[FloatArray, float], FloatArray]
"""HU [H,W] and a reference noise in HU, 0 for unknown -> quality map [H,W]."""


@dataclass(frozen=True)
class Question:
    """A low-dose slice, its truth, and what a model may be told: HU by the name of the column."""

    patient: str
    dose: float
    twin: float
    hu: FloatArray
    quality: FloatArray
    body: Any
    window: Any
    told: dict[str, float]


def noise_hu(hu: FloatArray, pixel_mm: float) -> float | None:
    """Noise as the tool reports it."""
    spacing = (pixel_mm, pixel_mm)
    return global_noise_level(hu, body_mask(hu, spacing), spacing)


def questions(item: CachedSlice, rest: float | None, spec: ModelSpec) -> Iterator[Question]:
    """A slice at every dose level against every twin; none where nothing of its body lies in the window."""
    full = full_dose(item)
    body, window = regions(full.hu, full.pixel_mm, spec)
    if not window.any():
        return
    whole = item.basis()
    # The twin's noise and the slice's come from different images: mixtures of the same would be correlated.
    basis = replace(whole, quantum=whole.quantum[::2], electronic=whole.electronic[::2])
    other = replace(whole, quantum=whole.quantum[1::2], electronic=whole.electronic[1::2])
    for twin in TWINS:
        rng = np.random.default_rng((int(item.key, 16), round(100 * twin)))
        hu = full.hu if twin == 1.0 else full.hu + inserted_noise(basis, twin, rng)
        known = noise_hu(hu, full.pixel_mm)
        told = {UNKNOWN: 0.0}
        if known:
            told[SAME] = known
        if known and twin == 1.0:
            told |= {f"x {factor:g}": known * factor for factor in WRONG}
        if rest and twin == 1.0:
            told[REST] = rest
        # Noise variances of quanta go with 1/D, of electronics with 1/D^2: both on top of the twin's own.
        noise = replace(other, quantum=other.quantum / twin**0.5, electronic=other.electronic / twin)
        for dose in spec.dose_levels:
            low = np.clip(hu + inserted_noise(noise, dose, rng), HU_MIN, HU_MAX).astype(np.float32)
            yield Question(item.patient, dose, twin, low, true_quality(low, hu, spec), body, window, told)


def rest_of_series(item: CachedSlice, slices: Sequence[CachedSlice]) -> float | None:
    """Median noise of the patient's other slices of the same thickness and pixels; None without any."""
    protocol = (item.patient, item.thickness_mm, item.pixel_mm)
    others = [
        noise_hu(np.asarray(other.hu(), dtype=np.float32), other.pixel_mm)
        for other in slices
        if (other.patient, other.thickness_mm, other.pixel_mm) == protocol and other.key != item.key
    ]
    found = [level for level in others if level]
    return float(np.median(found)) if found else None


def predictor(model: str) -> tuple[ModelSpec, Predict]:
    """A released model or a checkpoint; where it cannot be told a reference, with the plain offset."""
    path = models.released(model).checkpoint if model in models.names() else Path(model)
    spec, weights = checkpoint.load(path)
    network = build(replace(spec, inputs=(HU_INPUT, REFERENCE_INPUT)))
    inherit(network, weights)
    network.eval()

    @torch.inference_mode()
    def predict(hu: FloatArray, reference: float) -> FloatArray:
        pad = [(0, -side % spec.size_multiple) for side in hu.shape]
        padded = np.pad(hu, pad, constant_values=HU_MIN)
        found = network(torch.from_numpy(padded)[None, None], torch.tensor([reference]))[0]
        quality: FloatArray = found[0, 0, : hu.shape[0], : hu.shape[1]].numpy()
        return quality

    return spec, predict


def answers(question: Question, predict: Predict) -> Iterator[dict[str, Any]]:
    """The errors of a model that is told each of what it may be told."""
    for name, reference in question.told.items():
        error = predict(question.hu, reference) - question.quality
        yield {
            "patient": question.patient,
            "dose": question.dose,
            "twin": question.twin,
            "told": name,
            "body": float(np.abs(error[question.body]).mean(dtype=np.float64)),
            "window": float(np.abs(error[question.window]).mean(dtype=np.float64)),
            "bias": float(error[question.body].mean(dtype=np.float64)),
        }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean errors, patients weighted equally and slices weighted equally."""
    patients = sorted({row["patient"] for row in rows})
    found: dict[str, Any] = {"patients": len(patients), "cases": len(rows)}
    for name, value in (
        ("body", lambda row: row["body"]),
        ("window", lambda row: row["window"]),
        ("slice", lambda row: abs(row["bias"])),
        ("bias", lambda row: row["bias"]),
    ):
        own = [
            float(np.mean([value(row) for row in rows if row["patient"] == patient])) for patient in patients
        ]
        found[name] = {
            "patients": float(np.mean(own)),
            "slices": float(np.mean([value(row) for row in rows])),
            "by_patient": dict(zip(patients, own, strict=True)),
        }
    return found


def table(document: dict[str, Any]) -> str:
    """Markdown: a block of three columns a model, patients weighted equally (slices weighted equally)."""
    lines = []
    for model, found in document.items():
        lines += [
            f"| {model} | patients | body | window | slice | bias |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for name, one in found.items():
            cells = " | ".join(
                f"{one[key]['patients']:.4f} ({one[key]['slices']:.4f})"
                for key in ("body", "window", "slice", "bias")
            )
            lines.append(f"| {name} | {one['patients']} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def group(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summaries by what was told and by the twin's dose."""
    order = [UNKNOWN, SAME, REST, *(f"x {factor:g}" for factor in WRONG)]
    found = {}
    for twin in TWINS:
        for name in order:
            own = [row for row in rows if row["told"] == name and row["twin"] == twin]
            if own:
                found[f"{name}, twin at {100 * twin:g} %"] = summary(own)
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", action="append", help="instead of the released ones; repeatable")
    arguments.add_argument("--slices-per-patient", type=int, default=2)
    arguments.add_argument("--split", default=TEST)
    arguments.add_argument("-o", "--out", type=Path, default=RESULTS)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    slices = list(of_split(collect(options.data, options.runs / "cache"), options.split))
    chosen = per_patient(slices, options.slices_per_patient)
    named = {Path(model).stem: predictor(model) for model in options.model or models.names()}
    spec = next(iter(named.values()))[0]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in named}
    for number, item in enumerate(chosen, start=1):
        print(f"slice {number} of {len(chosen)}", flush=True)
        for question in questions(item, rest_of_series(item, slices), spec):
            for name, (_, predict) in named.items():
                rows[name] += answers(question, predict)
    found = {name: group(own) for name, own in rows.items()}
    document = {"machine": describe_machine(), "split": options.split, "models": found}
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
