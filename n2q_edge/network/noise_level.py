"""The noise of a slice, measured in the graph and without weights: the mode of the local deviation.

The same measure as `scoring.global_noise_level` (after Christianson et al., AJR 205:W93, 2015), for a graph
that knows no pixel spacing: patches of 8x8 pixels, 5.6 mm at 0.7 mm a pixel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from n2q_edge.network.cells import BLOCK

PATCH = 8  # pixels; one around every 4x4 cell
PIXELS = PATCH * PATCH
SOFT_TISSUE_HU = (0.0, 170.0)
CLIP_HU = (-300.0, 500.0)  # soft tissue of 100 HU of noise, not the squares of air and metal
CENTER_HU, SCALE_HU = 85.0, 100.0
NOISE_HU = (1.0, 300.0)
LEAST_VARIANCE = 0.1  # HU^2, rounding to whole HU has 0.08
BINS = 40
MODE_SMOOTHING = 0.12  # standard deviation of the histogram's smoothing, in log HU
MODE_SHARPNESS = 16.0  # the mean of the bins by this power of their density is the mode of any sharp peak
FLATNESS = 0.25  # log HU from the mode at which a patch counts as much less flat
ENOUGH_CELLS = 64.0  # flat cells of 4x4 pixels, 500 mm2, that a measurement rests on


class Noise(NamedTuple):
    """What is measured of a slice.

    Attributes:
        log_std: log of the noise in HU [N].
        flat: weight of every 4x4 cell as flat soft tissue [N,1,H/4,W/4], 0 to 1.
        amount: 0 to 1 [N], whether there is flat soft tissue enough to have measured anything.
        whiteness: half the mean square difference of neighboring pixels over the variance [N]: 1 minus their
            correlation.
    """

    log_std: Tensor
    flat: Tensor
    amount: Tensor
    whiteness: Tensor


class NoiseLevel(nn.Module):
    """Measures the noise of slices."""

    def __init__(self) -> None:
        super().__init__()
        edges = torch.linspace(math.log(NOISE_HU[0]), math.log(NOISE_HU[1]), BINS)
        self.register_buffer("bins", edges[None, :, None], persistent=False)
        self.bins: Tensor

    def forward(self, hu: Tensor) -> Noise:
        """Measure HU [N,1,H,W] (multiples of 4)."""
        pixels = (hu.clamp(*CLIP_HU) - CENTER_HU) / SCALE_HU
        mean = _patches(pixels)
        variance = (_patches(pixels * pixels) - mean * mean).clamp_min(0.0) * (PIXELS / (PIXELS - 2))
        log_std = 0.5 * (variance * SCALE_HU**2 + LEAST_VARIANCE).log()
        level = mean * SCALE_HU + CENTER_HU
        soft = ((level > SOFT_TISSUE_HU[0]) & (level < SOFT_TISSUE_HU[1])).to(hu.dtype)
        mode = self._mode(*(cells[..., ::2, ::2].flatten(1)[:, None] for cells in (log_std, soft)))
        flat = soft * _bell(log_std - mode[:, None, None, None], FLATNESS)
        total = flat.sum(dim=(1, 2, 3))
        step = pixels[..., ::2] - pixels[..., 1::2]
        rough = F.avg_pool2d(step * step, (BLOCK, BLOCK // 2)) * (SCALE_HU**2 / 2)
        whiteness = (flat * rough).sum(dim=(1, 2, 3)) / (total + 1.0) * (-2.0 * mode).exp()
        return Noise(mode, flat, (total / ENOUGH_CELLS).clamp(0.0, 1.0), whiteness)

    def _mode(self, log_std: Tensor, soft: Tensor) -> Tensor:
        """Log HU [N] where the density per HU of log deviations [N,1,P], weighted by [N,1,P], is highest."""
        near = _bell(log_std - self.bins, MODE_SMOOTHING)
        density = (near * (soft * (-log_std).exp())).sum(dim=2)
        weight = (density / (density.amax(dim=1, keepdim=True) + 1e-12)) ** MODE_SHARPNESS + 1e-9
        return (weight * self.bins[..., 0]).sum(dim=1) / weight.sum(dim=1)


def _patches(pixels: Tensor) -> Tensor:
    """Means [N,1,H/4,W/4] of the 8x8 pixels around every cell."""
    margin = (PATCH - BLOCK) // 2
    return F.avg_pool2d(pixels, PATCH, BLOCK, padding=margin, count_include_pad=False)


def _bell(distance: Tensor, width: float) -> Tensor:
    return (distance * distance * (-0.5 / width**2)).exp()


@torch.no_grad()
def noise_hu(level: NoiseLevel, hu: Tensor) -> tuple[Tensor, Tensor]:
    """Noise in HU [N] of slices [N,1,H,W], and how far there was enough to measure it on [N], 0 to 1."""
    noise = level(hu)
    return noise.log_std.exp(), noise.amount
