"""What the thresholds of the default policy and the limit of the noise cross-check rest on.

Every slice of the noise cache (made by `n2q-edge train`) that belongs to a split is assessed as it is and at every
simulated dose level of the model. The table shows how the scores are distributed over dose, and how far the
model's own noise lies from the model-free noise.

    python benchmarks/policy_evidence.py --cache runs/cache --split test --json benchmarks/results/policy-NAME.json
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from n2q_edge import scoring
from n2q_edge.report.machine import describe_machine
from n2q_edge.runtimes import open_model
from n2q_edge.runtimes.base import Runtime
from n2q_edge.simulation.noise import inserted_noise
from n2q_edge.spec import HU_MAX, HU_MIN
from n2q_edge.training import cache

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def measure(runtime: Runtime, folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """Scores of every slice at every dose; 100 % is the slice as it is."""
    doses = sorted({*runtime.spec.dose_levels, 1.0})
    entries = (cache.load(folder, path.stem) for path in sorted(folder.glob("*.json")))
    for index, entry in enumerate(entry for entry in entries if entry and entry.split == split):
        full = np.asarray(entry.hu(), dtype=np.float32)
        spacing = (entry.pixel_mm, entry.pixel_mm)
        mask = scoring.body_mask(full, spacing)
        lung = float((full[mask] < -400).mean()) if mask.any() else 0.0
        for level, dose in enumerate(doses):
            noise = inserted_noise(entry.basis(), dose, np.random.default_rng((index, level)))
            hu = np.clip(full + noise, HU_MIN, HU_MAX)
            inference = runtime.infer(hu[None, None])
            quality = scoring.quality_scores(inference.quality_map[0, 0], mask)
            if quality is None:
                continue
            row: dict[str, Any] = {
                "patient": entry.patient,
                "dose": round(100 * dose, 6),
                "lung": lung,
                "quality": quality.mean,
                "noise": scoring.global_noise_level(hu, mask, spacing),
            }
            if inference.noise_map is not None:
                row["model_noise"] = scoring.model_noise(inference.noise_map[0, 0], mask)
                soft = mask & (hu >= scoring.SOFT_TISSUE_HU[0]) & (hu <= scoring.SOFT_TISSUE_HU[1])
                row["model_noise_soft"] = scoring.model_noise(inference.noise_map[0, 0], soft)
            yield row


def spread(values: list[float]) -> dict[str, float]:
    """Percentiles of values, and how many there are."""
    if not values:
        return {"n": 0}
    found = np.percentile(values, PERCENTILES)
    named = {
        f"p{percentile}": round(float(value), 4) for percentile, value in zip(PERCENTILES, found, strict=True)
    }
    return {"n": len(values), **named}


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Percentiles by dose of quality (chest: over 20 % of the body is lung) and of the noise ratio."""
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        dose = f"{row['dose']:g}"
        groups["quality"][dose].append(row["quality"])
        groups["quality, chest" if row["lung"] > 0.2 else "quality, not chest"][dose].append(row["quality"])
        for key in ("model_noise", "model_noise_soft"):
            if row["noise"] and row.get(key):
                groups[f"{key} / noise"][dose].append(row[key] / row["noise"])
                groups[f"{key} / noise"]["all"].append(row[key] / row["noise"])
    return {
        name: {dose: spread(values) for dose, values in by_dose.items()} for name, by_dose in groups.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with open_model(options.model, threads=options.threads) as runtime:
        rows = list(measure(runtime, options.cache, options.split))
        facts = runtime.describe()
    summary = summarise(rows)
    for name, by_dose in summary.items():
        print(name)
        for dose, values in by_dose.items():
            print(f"  {dose:>5}  " + "  ".join(f"{key} {value:g}" for key, value in values.items()))
    if options.json:
        result = {
            "machine": describe_machine(),
            "model_sha256": facts.get("model_sha256"),
            "split": options.split,
            "patients": len({row["patient"] for row in rows}),
            "summary": summary,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
