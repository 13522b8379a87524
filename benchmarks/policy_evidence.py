"""What the thresholds of the default policy and the limit of the noise cross-check rest on.

Every slice of the noise cache (made by `n2q-edge train`) that belongs to a split is assessed as it is and at
every simulated dose level of the model. The table shows how the scores are distributed over dose, and how far
the model's own noise lies from the model-free noise.

    python benchmarks/policy_evidence.py --cache runs/cache --split test --json
    benchmarks/results/policy-NAME.json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from n2q_edge.arrays import FloatArray
from n2q_edge.dataset import cache
from n2q_edge.machine import describe_machine
from n2q_edge.quality import scores
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level, model_noise, noise_disagrees
from n2q_edge.quality.policy import load_policy
from n2q_edge.runtimes import open_model
from n2q_edge.runtimes.base import Runtime
from n2q_edge.simulation.noise import inserted_noise
from n2q_edge.spec import HU_MAX, HU_MIN

LUNG_OF_A_CHEST = 0.2  # of the body's pixels
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def measure(runtime: Runtime, folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """Scores of every slice at every dose; 100 % is the slice as it is."""
    policy = load_policy()
    doses = sorted({*runtime.spec.dose_levels, 1.0})
    entries = (cache.load(folder, path.stem) for path in sorted(folder.glob("*.json")))
    for index, entry in enumerate(entry for entry in entries if entry and entry.split == split):
        full = np.asarray(entry.hu(), dtype=np.float32)
        spacing = (entry.pixel_mm, entry.pixel_mm)
        mask = body_mask(full, spacing)
        lung = float((full[mask] < -400).mean()) if mask.any() else 0.0
        for level, dose in enumerate(doses):
            noise = inserted_noise(entry.basis(), dose, np.random.default_rng((index, level)))
            hu = np.clip(full + noise, HU_MIN, HU_MAX)
            inference = runtime.infer(hu[None, None])
            quality = scores.quality_scores(inference.quality_map[0, 0], mask)
            if quality is None:
                continue
            row: dict[str, Any] = {
                "patient": entry.patient,
                "dose": round(100 * dose, 6),
                "lung": lung,
                "quality": quality.mean,
                "noise": global_noise_level(hu, mask, spacing),
            }
            verdict = policy.judge({}, [quality.mean]).verdict
            row["verdict"] = verdict.value if verdict else "not judged"
            if inference.noise_map is not None:
                row["model_noise"] = model_noise(inference.noise_map[0, 0], hu, mask)
            yield row
        for name, altered in alterations(full).items():
            inference = runtime.infer(altered[None, None])
            if inference.noise_map is not None:
                yield {
                    "patient": entry.patient,
                    "altered": name,
                    "noise": global_noise_level(altered, mask, spacing),
                    "model_noise": model_noise(inference.noise_map[0, 0], altered, mask),
                }


def alterations(hu: FloatArray) -> dict[str, FloatArray]:
    """What a reconstruction or an archive might do to a slice, and no training slice has seen."""
    return {
        "smoothed by 1 pixel": ndimage.gaussian_filter(hu, 1.0),
        "median filter 5x5": ndimage.median_filter(hu, 5),
        "sharpened": np.clip(2 * hu - ndimage.gaussian_filter(hu, 1.0), HU_MIN, HU_MAX),
        "white noise of 20 HU added": np.clip(
            hu + np.random.default_rng(0).normal(0, 20, hu.shape).astype(np.float32), HU_MIN, HU_MAX
        ),
    }


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
    """By dose: percentiles of quality and of the noise ratio, verdicts; by alteration: the noise ratio."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        ratio = row["model_noise"] / row["noise"] if row["noise"] and row.get("model_noise") else None
        if "altered" in row:
            if ratio:
                values["noise ratio"][row["altered"]].append(ratio)
            continue
        dose = f"{row['dose']:g} %"
        body = "chest" if row["lung"] > LUNG_OF_A_CHEST else "other"
        values["quality"][dose].append(row["quality"])
        values[f"quality, {body}"][dose].append(row["quality"])
        verdicts[dose][row["verdict"]] += 1
        if ratio:
            values["noise ratio"][dose].append(ratio)
            values["noise ratio"]["all doses"].append(ratio)
    return {
        "verdicts": verdicts,
        **{name: {key: spread(found) for key, found in groups.items()} for name, groups in values.items()},
        "noise disagrees": {
            key: sum(noise_disagrees(1e3, 1e3 * ratio) for ratio in found) / len(found)
            for key, found in values["noise ratio"].items()
        },
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
    for name, groups in summary.items():
        print(name)
        for key, found in groups.items():
            text = (
                f"{found:.1%}"
                if isinstance(found, float)
                else "  ".join(f"{k} {v:g}" for k, v in found.items())
            )
            print(f"  {key:>27}  {text}")
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
