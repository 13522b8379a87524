"""What each idea of N2Q+ is worth: the small model's recipe, one idea taken out at a time, a short training.

    python -m benchmarks.ablation --data ../shared/ct --minutes 2        # every variant; resumes
    python -m benchmarks.ablation --data ../shared/ct --only full --only "direct head"

Results go to benchmarks/results/ablation.json as they come; the table of `export/ABLATION.md` is
made from it. A variant that was trained stays in `runs/ablation` and is not trained again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.marks import fill
from benchmarks.slices import parser

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "export" / "n2q-small.toml"
RESULTS = ROOT / "benchmarks" / "results" / "ablation.json"
PAGE = ROOT / "export" / "ABLATION.md"
BEGIN = "<!-- begin: python -m benchmarks.ablation -->"

VARIANTS: dict[str, dict[str, str]] = {
    "full": {},
    "no other kernels": {"kernel_change": "0.0"},
    "no noisier twins": {"noisier_twin": "0.0"},
    "no other contrasts": {"contrast_change": "0.0"},
    "no half resolution": {"reduced": "0.0"},
    "crops count to their edge": {"ignore_edge": "false"},
    "five dose levels only": {"doses": '"levels"'},
    "no context": {"context": "false"},
    "no refined middle stage": {"merge": "false"},
    "direct head": {"head": '"direct"'},
    "instance normalisation": {"normalise": "true"},
    "no noise map": {"noise_weight": "0.0"},
    "L1 alone": {"map_loss": '"l1"'},
    "air weighs like the body": {"air_weight": "1.0"},
}
COLUMNS = {
    "body MAE": ("body", "mae"),
    "body RMSE": ("body", "rmse"),
    "body PLCC": ("body", "plcc"),
    "win MAE": ("window", "mae"),
    "win PLCC": ("window", "plcc"),
    "slice MAE": ("slice", "mae"),
    "slice PLCC": ("slice", "plcc"),
    "log-dose error": ("dose", "log_error"),
}


def recipe_text(changes: dict[str, str]) -> str:
    """The small model's recipe with some of its settings changed."""
    text = RECIPE.read_text(encoding="utf-8")
    for name, value in changes.items():
        text, found = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        if not found:  # network arguments at their defaults are not in the recipe
            text = text.replace('class = "compact"\n', f'class = "compact"\n{name} = {value}\n')
    return text


def train_variant(name: str, data: list[Path], runs: Path, minutes: float) -> dict[str, Any]:
    """Train one variant, or go on with it, and return its metrics on a slice of each test patient."""
    import torch

    from n2q_edge.dataset.collect import TEST, TRAIN, collect, of_split
    from n2q_edge.evaluation.evaluate import evaluate
    from n2q_edge.evaluation.predictions import torch_predictor
    from n2q_edge.evaluation.systems import per_patient
    from n2q_edge.model.recipe import load_recipe
    from n2q_edge.training.loop import fit
    from n2q_edge.training.sampling import Sampler

    folder = runs / "ablation" / re.sub(r"\W+", "-", name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RECIPE.name
    file.write_text(recipe_text(VARIANTS[name]), encoding="utf-8")
    recipe, device = load_recipe(file), torch.device("cpu")
    slices = collect(data, runs / "cache")
    sampler = Sampler(list(of_split(slices, TRAIN)), recipe.spec, recipe.training)
    trained = fit(recipe, sampler, folder / "state", device=device, minutes=minutes)
    predict = torch_predictor(trained.result.eval(), device, recipe.spec.outputs, recipe.spec.size_multiple)
    testing = per_patient(list(of_split(slices, TEST)), 1)
    metrics = evaluate(predict, testing, recipe.spec)
    kept = {part: metrics[part] for part in ("body", "window", "slice", "dose")}
    return {"steps": trained.progress.step, "minutes": minutes, "slices": len(testing), **kept}


def table(results: dict[str, Any]) -> str:
    """The Markdown table."""
    lines = ["| variant | steps | " + " | ".join(COLUMNS) + " |", "|---|---:|" + "---:|" * len(COLUMNS)]
    for name, metrics in results.items():
        values = [f"{metrics[part][key]:.3f}" for part, key in COLUMNS.values()]
        lines.append(f"| {name} | {metrics['steps']} | " + " | ".join(values) + " |")
    first = next(iter(results.values()))
    lines += ["", f"{first['minutes']:g} processor minutes and {first['slices']} test slices each."]
    return "\n".join(lines)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--minutes", type=float, default=2.0)
    arguments.add_argument("--only", action="append", choices=list(VARIANTS))
    options = arguments.parse_args()
    for name in options.only or VARIANTS:
        metrics = train_variant(name, options.data, options.runs, options.minutes)
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[name] = metrics
        ordered = {variant: known[variant] for variant in VARIANTS if variant in known}
        RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        fill(PAGE, BEGIN, table(ordered))
        print(name, json.dumps(metrics["body"]), json.dumps(metrics["slice"]), flush=True)


if __name__ == "__main__":
    main()
