"""`n2q-edge train`: data, cache, loop, evaluation, checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from n2q_edge import __version__
from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.dataset.collect import TEST, TRAIN, OnSlice, check_split, collect, collect_pairs, of_split
from n2q_edge.dataset.pairs import MeasuredPairs
from n2q_edge.errors import UsageError
from n2q_edge.evaluation.evaluate import evaluate
from n2q_edge.evaluation.predictions import torch_predictor
from n2q_edge.files import write_file
from n2q_edge.malloc import keep_freed_memory
from n2q_edge.model import checkpoint
from n2q_edge.model.recipe import Recipe, load_recipe
from n2q_edge.network import build
from n2q_edge.network.compact import CompactNet
from n2q_edge.network.device import pick_device
from n2q_edge.spec import ModelSpec
from n2q_edge.training import learn_domain
from n2q_edge.training.loop import OnStep, Progress, Run, fit
from n2q_edge.training.sampling import Sampler

DEFAULT_RUNS = Path("runs")
SIMULATED = "projection-domain noise insertion, calibrated on each slice's own noise"
MEASURED = "noise of measured pairs at {:g} of the full dose, scaled in the image domain"
LOSS_POINTS = 50  # of the loss curve that the metrics file keeps


@dataclass(frozen=True)
class TrainResult:
    """What a finished training left behind.

    Attributes:
        checkpoint: weights and spec, safetensors.
        metrics_file: JSON of the metrics and of the losses over time.
        metrics: metrics on the held-out patients (see `evaluate`), None when there are none.
        progress: steps and seconds.
    """

    checkpoint: Path
    metrics_file: Path
    metrics: dict[str, Any] | None
    progress: Progress


def train(
    recipe_file: Path,
    data: Sequence[Path] = (),
    *,
    pairs: MeasuredPairs | None = None,
    out: Path | None = None,
    runs: Path = DEFAULT_RUNS,
    evaluation: bool = True,
    compiled: bool = False,
    bf16: bool = False,
    device: str = "auto",
    minutes: float | None = None,
    start_from: Path | None = None,
    teacher: Path | None = None,
    resume: bool = True,
    on_slice: OnSlice | None = None,
    on_step: OnStep | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train one recipe and evaluate it on the patients held out.

    Args:
        recipe_file: TOML recipe.
        data: DICOM files and folders, whose lower doses are simulated.
        pairs: the same scans at two doses.
        out: folder for the checkpoint and the metrics; beside the recipe when None.
        runs: folder of the run's state and of the noise cache.
        evaluation: evaluate on the patients held out; False leaves that to `n2q-edge evaluate`.
        compiled: compile the loss with torch.compile; see `fit`.
        bf16: compute a compact network's layers in bfloat16; see `fit`.
        device: `auto`, `cpu` or `cuda`.
        minutes: end the schedule after this much training time.
        start_from: a checkpoint of a compact network to begin with (see `start`).
        teacher: a checkpoint of a compact network to learn from (see `losses.joint_loss`).
        resume: go on from the run's state if there is one; False starts again.
        on_slice: progress of filling the cache.
        on_step: progress of training.
        on_stage: called with the name of each stage.

    Raises:
        ModelError: the recipe is wrong.
        UsageError: no data or none that is usable, or a device that is not there.
    """
    recipe = load_recipe(recipe_file)
    where = pick_device(device)
    keep_freed_memory()  # a sixth of a step on a CPU
    tell = on_stage or (lambda stage: None)
    if not data and not pairs:
        raise UsageError("nothing to train on: give --data or --pairs")
    origin = checkpoint.load(start_from) if start_from else None
    master = _teacher(recipe, teacher, where) if teacher else None
    tell("collecting slices")
    stored = runs / "cache"
    slices = collect(data, stored, on_slice) if data else []
    slices += collect_pairs(pairs, stored, on_slice) if pairs else []
    check_split(slices)
    training, testing = list(of_split(slices, TRAIN)), list(of_split(slices, TEST))
    state_file = runs / f"{recipe.spec.name}.state"
    if not resume:
        state_file.unlink(missing_ok=True)
    tell(f"training {recipe.spec.name} on {len(training)} slices ({where})")
    sampler = Sampler(training, recipe.spec, recipe.training)
    run = fit(
        recipe,
        sampler,
        state_file,
        device=where,
        minutes=minutes,
        compiled=compiled,
        bf16=bf16,
        start=origin[1] if origin else None,
        teacher=master[1] if master else None,
        on_step=on_step,
    )
    metrics = None
    if evaluation and testing:
        tell(f"evaluating on {len(testing)} slices of other patients")
        spec = recipe.spec
        predict = torch_predictor(run.result.eval(), where, spec.outputs, spec.size_multiple)
        metrics = evaluate(predict, testing, spec)
    made = [SIMULATED] if data else []
    made += [MEASURED.format(pairs.dose)] if pairs else []
    facts = {"simulation": "; ".join(made)}
    if origin:
        facts["started_from"] = f"{origin[0].name} {origin[0].version}"
    if master:
        facts["teacher"] = f"{master[0].name} {master[0].version}"
    tell("measuring what the training slices are like")
    return _write(recipe, out or recipe.path.parent, run, metrics, training, facts)


def _teacher(recipe: Recipe, file: Path, device: torch.device) -> tuple[ModelSpec, CompactNet]:
    """The network of a checkpoint that is to teach the recipe's.

    Raises:
        UsageError: one of the two is not a compact network, or their maps are not of the same thing.
    """
    spec, network = checkpoint.load_network(file, checkpoint.read(file))
    if not isinstance(network, CompactNet) or not isinstance(build(recipe.spec), CompactNet):
        raise UsageError("--teacher takes a checkpoint of a compact network, for recipes of compact networks")
    own = recipe.spec
    if (spec.window_center, spec.window_width, spec.ssim) != (own.window_center, own.window_width, own.ssim):
        raise UsageError("--teacher takes a checkpoint with the recipe's display window and SSIM")
    return spec, network.to(device).eval()


def _write(
    recipe: Recipe,
    out: Path,
    run: Run,
    metrics: dict[str, Any] | None,
    training: Sequence[CachedSlice],
    facts: dict[str, str],
) -> TrainResult:
    spec = dataclasses.replace(
        recipe.spec,
        training=_provenance(recipe, run, metrics, training, facts),
        domain=learn_domain.learn(learn_domain.examples(training)),
    )
    weights = {name: tensor.cpu().contiguous() for name, tensor in run.result.state_dict().items()}
    out.mkdir(parents=True, exist_ok=True)
    checkpoint_file = out / recipe.checkpoint.name
    metrics_file = checkpoint_file.with_suffix(".metrics.json")
    checkpoint.save(checkpoint_file, spec, weights)
    history = run.progress.history[:: max(1, len(run.progress.history) // LOSS_POINTS)]
    document = {"model": spec.name, "version": spec.version, "test": metrics, "history": history}
    write_file(metrics_file, (json.dumps(document, indent=1) + "\n").encode())
    return TrainResult(checkpoint_file, metrics_file, metrics, run.progress)


def _provenance(
    recipe: Recipe,
    run: Run,
    metrics: dict[str, Any] | None,
    training: Sequence[CachedSlice],
    facts: dict[str, str],
) -> dict[str, Any]:
    """What a reader of the model must know of its making; small enough to travel with it."""
    headline = {name: metrics[name] for name in ("body", "window", "slice", "dose")} if metrics else None
    return {
        "n2q_edge": __version__,
        "torch": torch.__version__,
        "settings": dataclasses.asdict(recipe.training),
        "steps": run.progress.step,
        "minutes": round(run.progress.seconds / 60, 1),
        "slices": len(training),
        "patients": len({item.patient for item in training}),
        **facts,
        "test": headline,
    }
