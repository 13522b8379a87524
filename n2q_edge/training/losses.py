"""The joint loss L = L_map + alpha * L_dose (+ noise map), for each class of network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from n2q_edge.model.recipe import TrainingSettings
from n2q_edge.network.compact import CompactNet
from n2q_edge.network.redcnn import RedCnn
from n2q_edge.network.unet import UNet
from n2q_edge.training.sampling import Batch

SMALLEST_LOG_VARIANCE = -12.0  # an error of 0.0025 SSIM


def joint_loss(
    network: nn.Module, batch: Batch, settings: TrainingSettings, teacher: CompactNet | None = None
) -> dict[str, Tensor]:
    """The loss of a batch and its parts.

    Args:
        network: what is trained.
        batch: what it sees and what would be right.
        settings: weights of the parts.
        teacher: a trained network; half of a compact network's map loss is then the distance to its map. The
            true map holds the chance of one noise realisation, which nothing can predict.

    Returns:
        `total`, `map`, `dose` and, for networks with a noise map, `noise`: scalars.
    """
    if isinstance(network, UNet | RedCnn):
        return _published_loss(network, batch, settings)
    if isinstance(network, CompactNet):
        return _compact_loss(network, batch, settings, teacher)
    raise TypeError(f"no loss for {type(network).__name__}")


def _published_loss(network: UNet | RedCnn, batch: Batch, settings: TrainingSettings) -> dict[str, Tensor]:
    """As the authors: the map in [-1, 1]; cross-entropy on the dose level where there is a head for it."""
    quality, dose_logits = network.raw(batch.hu)
    target = 2.0 * batch.quality.clamp(0.0, 1.0) - 1.0
    map_loss = _map_loss(quality, target, batch, settings)
    if dose_logits is None:
        return {"total": map_loss, "map": map_loss}
    dose_loss = F.cross_entropy(dose_logits, batch.level)
    return {"total": map_loss + settings.alpha * dose_loss, "map": map_loss, "dose": dose_loss}


def _compact_loss(
    network: CompactNet, batch: Batch, settings: TrainingSettings, teacher: CompactNet | None
) -> dict[str, Tensor]:
    """The map in [0, 1], log dose as a normal variable, log noise by its absolute error, the map's error."""
    quality, log_dose, log_noise, log_variance = network.raw(batch.hu, batch.reference_noise_hu)
    map_loss = _map_loss(quality, batch.quality, batch, settings)
    if teacher is not None:
        with torch.no_grad():
            taught = teacher.raw(batch.hu, batch.reference_noise_hu)[0]
        map_loss = (map_loss + _map_loss(quality, taught, batch, settings)) / 2
    mean, log_std = log_dose[:, 0], log_dose[:, 1].clamp(-3.0, 2.0)
    dose_loss = (log_std + 0.5 * ((batch.log_dose - mean) / log_std.exp()) ** 2).mean()
    cell = batch.hu.shape[-1] // log_noise.shape[-1]
    body = F.avg_pool2d(batch.weight, cell)
    noise_loss = _weighted_mean((log_noise - batch.log_noise).abs(), body)
    error_loss = _weighted_mean(_variance_loss(log_variance, quality - batch.quality, cell), body)
    total = map_loss + settings.alpha * dose_loss + settings.noise_weight * noise_loss
    slice_loss = _slice_loss(quality - batch.quality, batch.weight)
    total = total + settings.error_weight * error_loss + settings.slice_weight * slice_loss
    return {
        "total": total,
        "map": map_loss,
        "dose": dose_loss,
        "noise": noise_loss,
        "error": error_loss,
        "slice": slice_loss,
    }


def _slice_loss(error: Tensor, weight: Tensor) -> Tensor:
    """Mean over the samples of the absolute value of each one's mean error."""
    axes = (1, 2, 3)
    means: Tensor = torch.sum(error * weight, axes) / torch.sum(weight, axes).clamp_min(1.0)
    return means.abs().mean()


def _variance_loss(log_variance: Tensor, error: Tensor, cell: int) -> Tensor:
    """Negative log-likelihood of the map's errors, taken as given, under a normal of each cell's variance."""
    squared = F.avg_pool2d(error.detach().square(), cell)
    # Or air, which has no error, would drag it down forever.
    log_variance = log_variance.clamp_min(SMALLEST_LOG_VARIANCE)
    return 0.5 * (log_variance + squared * (-log_variance).exp())


def _map_loss(quality: Tensor, target: Tensor, batch: Batch, settings: TrainingSettings) -> Tensor:
    error = quality - target
    losses = {
        "l1": lambda: error.abs(),
        "mse": lambda: error.square(),
        "l1+2mse": lambda: error.abs() + 2.0 * error.square(),
    }
    return _weighted_mean(losses[settings.map_loss](), batch.weight)


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    return torch.sum(values * weight) / torch.sum(weight)
