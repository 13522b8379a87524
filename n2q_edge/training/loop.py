"""The training loop: resumable, bounded by steps or by minutes, the same on CPU and GPU."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from n2q_edge.errors import UsageError
from n2q_edge.model.recipe import Recipe, TrainingSettings
from n2q_edge.network import build
from n2q_edge.network.compact import CompactNet
from n2q_edge.runtimes.libraries import first_line
from n2q_edge.training.losses import joint_loss
from n2q_edge.training.sampling import Batch, Sampler
from n2q_edge.training.start import inherit

LOG_EVERY = 25  # steps
SAVE_EVERY_SECONDS = 120.0
WARM_UP = 0.02
FINAL_RATE = 0.01
GRADIENT_NORM = 1.0

OnStep = Callable[["Progress"], None]
LossOf = Callable[[Batch], dict[str, Tensor]]


@dataclass
class Progress:
    """Where a training run stands.

    Attributes:
        step: optimiser steps done.
        seconds: training time so far, over all sessions: of the processor on a CPU, so that what else it does
            costs the budget nothing; by the clock on a GPU.
        fraction: share of the schedule done, 0 to 1.
        history: mean losses of each `LOG_EVERY` steps.
    """

    step: int = 0
    seconds: float = 0.0
    fraction: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Run:
    """Everything that must survive an interruption."""

    network: nn.Module
    average: nn.Module | None
    optimizer: torch.optim.Optimizer
    progress: Progress

    @property
    def result(self) -> nn.Module:
        """The network to keep: the averaged one when there is one."""
        return self.average if self.average is not None else self.network


def fit(
    recipe: Recipe,
    sampler: Sampler,
    state_file: Path,
    *,
    device: torch.device,
    minutes: float | None = None,
    compiled: bool = False,
    bf16: bool = False,
    start: Mapping[str, Tensor] | None = None,
    teacher: CompactNet | None = None,
    on_step: OnStep | None = None,
) -> Run:
    """Train until the schedule ends.

    Args:
        recipe: what to train.
        sampler: where batches come from.
        state_file: the run's state; training goes on from it when it exists.
        device: where to train.
        minutes: end the schedule after this much training time, if its steps have not ended it before.
        compiled: compile the loss with torch.compile (needs a C++ compiler): a minute or two of preparation,
            which no budget counts, for a quarter less time a step with compact networks; none with the U-Net.
        bf16: compute a compact network's layers in bfloat16; its weights, variances and formula stay float32.
        start: weights of another compact network to begin with; a state file outranks them.
        teacher: a trained network on the device, to learn from; see `losses.joint_loss`.
        on_step: called after every step.

    Raises:
        UsageError: `start` does not fit, the loss cannot be compiled, or `bf16` with another network.
        KeyboardInterrupt: after the state was saved.
    """
    settings = recipe.training
    torch.manual_seed(settings.seed)
    run = _start(recipe, device)
    if bf16:
        _in_bfloat16(run.network)
    if start is not None:
        for network in (run.network, run.average):
            if network is not None:
                inherit(network, start)
    if state_file.exists():
        _restore(run, state_file, device)
        run.progress.fraction = _fraction(run.progress, settings, minutes)  # the budget may have grown
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    pending: list[dict[str, float]] = []
    last_save = time.perf_counter()
    run.network.train()

    def eager(batch: Batch) -> dict[str, Tensor]:
        return joint_loss(run.network, batch, settings, teacher)

    loss_of: LossOf = eager
    if compiled:
        loss_of = _compiled(eager, sampler.batch(np.random.default_rng(settings.seed), device))
    try:
        while run.progress.fraction < 1.0:
            started = clock()
            pending.append(_step(run, loss_of, sampler, settings, device))
            run.progress.step += 1
            run.progress.seconds += clock() - started
            run.progress.fraction = _fraction(run.progress, settings, minutes)
            if run.progress.step % LOG_EVERY == 0:
                run.progress.history.append(_mean(pending, run.progress))
                pending.clear()
            if on_step:
                on_step(run.progress)
            if time.perf_counter() - last_save > SAVE_EVERY_SECONDS:
                _save(run, state_file)
                last_save = time.perf_counter()
    finally:
        _save(run, state_file)
    return run


def _start(recipe: Recipe, device: torch.device) -> Run:
    settings = recipe.training
    network = build(recipe.spec).to(device)
    average = build(recipe.spec).to(device).eval() if settings.ema else None
    if average is not None:
        average.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    return Run(network, average, optimizer, Progress())


def _in_bfloat16(network: nn.Module) -> None:
    if not isinstance(network, CompactNet):
        raise UsageError("--bf16 is for compact networks")
    network.autocast = torch.bfloat16
    # A fifth faster on a CPU with AMX.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _compiled(loss_of: LossOf, batch: Batch) -> LossOf:
    """The loss, compiled: a batch is tried."""
    fast: LossOf = torch.compile(loss_of)
    try:
        fast(batch)["total"].backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # compilers raise many kinds, and wrong code of theirs any
        raise UsageError(
            f"torch.compile fails on this network ({first_line(error)}): train without --compile"
        ) from None
    return fast


def _step(
    run: Run, loss_of: LossOf, sampler: Sampler, settings: TrainingSettings, device: torch.device
) -> dict[str, float]:
    # Every step draws from its own generator, so that a resumed run sees what an unbroken one would.
    rng = np.random.default_rng((settings.seed, run.progress.step))
    batch = sampler.batch(rng, device)
    for group in run.optimizer.param_groups:
        group["lr"] = settings.learning_rate * _rate(run.progress.fraction, settings.schedule)
    losses = loss_of(batch)
    run.optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(run.network.parameters(), GRADIENT_NORM)
    run.optimizer.step()
    if run.average is not None:
        _update_average(
            run.average, run.network, min(settings.ema, (1 + run.progress.step) / (10 + run.progress.step))
        )
    return {name: float(value.detach()) for name, value in losses.items()}


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1.0 - decay)


def _rate(fraction: float, schedule: str) -> float:
    """Learning rate over its peak."""
    if schedule == "constant":
        return 1.0
    warm = min(1.0, (fraction + 1e-3) / WARM_UP)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(fraction, 1.0)))
    return warm * (FINAL_RATE + (1.0 - FINAL_RATE) * cosine)


def _fraction(progress: Progress, settings: TrainingSettings, minutes: float | None) -> float:
    by_steps = progress.step / settings.steps
    by_time = progress.seconds / (60.0 * minutes) if minutes else 0.0
    return min(1.0, max(by_steps, by_time))


def _mean(losses: list[dict[str, float]], progress: Progress) -> dict[str, float]:
    means = {name: float(np.mean([loss[name] for loss in losses])) for name in losses[0]}
    return {"step": progress.step, "seconds": round(progress.seconds, 1), **means}


def _save(run: Run, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {
        "network": run.network.state_dict(),
        "average": run.average.state_dict() if run.average is not None else None,
        "optimizer": run.optimizer.state_dict(),
        "progress": json.dumps(run.progress.__dict__),
    }
    partial = path.with_name(path.name + ".part")
    torch.save(state, partial)
    partial.replace(path)


def _restore(run: Run, path: Path, device: torch.device) -> None:
    state = torch.load(path, map_location=device, weights_only=True)
    run.network.load_state_dict(state["network"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.progress = Progress(**json.loads(state["progress"]))
