"""The systems that are compared: trained networks, model-free baselines, the oracle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.errors import ModelError, UsageError
from n2q_edge.evaluation import baselines, oracle
from n2q_edge.evaluation.baselines import Fitted
from n2q_edge.evaluation.cases import cases
from n2q_edge.evaluation.predictions import Answerer, answer_with, torch_predictor
from n2q_edge.files import make_folder, write_text
from n2q_edge.model import checkpoint
from n2q_edge.model.recipe import load_recipe
from n2q_edge.network import build
from n2q_edge.spec import ModelSpec

NETWORK, BASELINE, ORACLE = "network", "baseline", "oracle"
FIT_PATIENTS = 24  # baselines have few numbers: one slice each of so many training patients is plenty
SIDE = 512  # of the slice that operations are counted on


@dataclass(frozen=True)
class System:
    """One row of the comparison.

    Attributes:
        name: short name.
        kind: `network`, `baseline` or `oracle`.
        digest: of all its answers follow from: scores under another digest are of something else.
        answer: what it says of a case.
        about: JSON-able facts: how it was trained or fitted.
    """

    name: str
    kind: str
    digest: str
    answer: Answerer
    about: dict[str, Any]


def load_networks(recipes: Sequence[Path], device: torch.device) -> tuple[ModelSpec, list[System]]:
    """The trained checkpoints of some recipes, and the spec that says what all of them predict.

    Raises:
        ModelError: a recipe or its checkpoint is missing or wrong.
        UsageError: they have a name in common, or predict different things.
    """
    loaded = [_load_network(recipe, device) for recipe in recipes]
    names = [system.name for _, system in loaded]
    if len(set(names)) < len(names):
        raise UsageError(f"two systems of one name among {', '.join(names)}: give each recipe once")
    first = loaded[0][0]
    for spec, system in loaded:
        if _truth(spec) != _truth(first):
            raise UsageError(
                f"{system.name} and {loaded[0][1].name} differ in window, dose levels or SSIM: "
                "compare them apart"
            )
    return first, [system for _, system in loaded]


def _truth(spec: ModelSpec) -> tuple[Any, ...]:
    """What the truth of a case depends on."""
    return spec.window_center, spec.window_width, spec.dose_levels, spec.ssim


def _load_network(recipe_file: Path, device: torch.device) -> tuple[ModelSpec, System]:
    recipe = load_recipe(recipe_file)
    path = recipe.checkpoint
    if not path.exists():
        raise ModelError(f"{path} does not exist: train it with 'n2q-edge train {recipe_file} --data DIR'")
    data = path.read_bytes()
    spec, network = checkpoint.load_network(path, data)
    predict = torch_predictor(network.eval().to(device), device, spec.outputs, spec.size_multiple)
    about = {
        "recipe": recipe_file.name,
        "version": spec.version,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "gflop": round(_gflop(spec), 2),
        "training": {name: value for name, value in spec.training.items() if name != "test"},
    }
    return spec, System(
        spec.name, NETWORK, hashlib.sha256(data).hexdigest()[:12], answer_with(predict), about
    )


def _gflop(spec: ModelSpec) -> float:
    """Operations of one 512x512 slice, in 1e9; a multiplication and an addition are two."""
    network = build(spec).eval().to("meta")  # shapes only: nothing is computed
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 1, SIDE, SIDE, device="meta"))
    return float(counter.get_total_flops() / 1e9)


def load_baselines(
    training: Sequence[CachedSlice],
    spec: ModelSpec,
    folder: Path,
    on_fit: Callable[[float, str], None] = lambda fraction, label: None,
) -> list[System]:
    """The model-free baselines, fitted on training slices; the fit is kept in a folder.

    Raises:
        UsageError: no training slices.
        OutputError: the fit cannot be written.
    """
    chosen = per_patient(training, 1)
    chosen = [chosen[index] for index in _spread(len(chosen), FIT_PATIENTS)]
    if not chosen:
        raise UsageError("no training slices to fit the baselines on")
    facts = [baselines.VERSION, [item.key for item in chosen], [str(part) for part in _truth(spec)]]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    file = folder / f"baselines-{digest}.json"
    if file.exists():
        fitted = Fitted(**json.loads(file.read_text()))
    else:
        total = len(chosen) * len(spec.dose_levels)

        def counted() -> Any:
            for number, case in enumerate(cases(chosen, spec)):
                on_fit(number / total, "fitting baselines")
                yield case

        fitted = baselines.fit(counted(), spec)
        make_folder(folder)
        write_text(file, json.dumps(dataclasses.asdict(fitted)))
    return [
        System(name, BASELINE, digest, baselines.baseline(name, fitted, spec), _about(name, fitted, chosen))
        for name in baselines.NAMES
    ]


def _about(name: str, fitted: Fitted, chosen: Sequence[CachedSlice]) -> dict[str, Any]:
    return {"fitted_on_slices": len(chosen), "native": fitted.native[name], "reduced": fitted.reduced[name]}


def load_oracle(spec: ModelSpec) -> System:
    """The Bayes oracle, for phantoms only."""
    about = {"noise_images": oracle.DRAWS, "draws": 2 * oracle.DRAWS}
    digest = f"{oracle.VERSION}-{oracle.DRAWS}"
    return System("oracle", ORACLE, digest, lambda case: oracle.oracle(case, spec), about)


def per_patient(slices: Sequence[CachedSlice], count: int) -> list[CachedSlice]:
    """At most `count` slices of every patient, spread evenly over what there are."""
    patients: dict[str, list[CachedSlice]] = {}
    for item in slices:
        patients.setdefault(item.patient, []).append(item)
    return [own[index] for own in patients.values() for index in _spread(len(own), count)]


def _spread(available: int, count: int) -> list[int]:
    """At most `count` of `available` indices, evenly spaced, the middle one for a single one."""
    if available <= count:
        return list(range(available))
    return [int((number + 0.5) * available / count) for number in range(count)]
