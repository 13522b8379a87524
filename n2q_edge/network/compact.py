"""N2Q-small: a network that never leaves the 4x space-to-depth domain, with an SSIM-formula head.

The head rests on one identity. If a slice is its full-dose twin plus independent noise, if v is the local
variance of the slice (known) and r the share of it that is inserted noise (to be predicted), then

    contrast-structure term of SSIM = (2 v (1 - r) + C2) / (v (2 - r) + C2).

The network therefore predicts r, not the SSIM, and the luminance term as a factor in (0, 1).
No normalisation layer anywhere: the noise magnitude is the signal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from n2q_edge.network.preprocess import Window
from n2q_edge.spec import HU_MAX, HU_MIN, ModelSpec, SsimDefinition

BLOCK = 4  # side of the space-to-depth block
CELLS = BLOCK * BLOCK
VARIANCE_FLOOR = 1e-6  # of the windowed image in [0, 1]: 0.3 HU at a width of 300
BODY_HU = -300.0
MEAN_LOG_DOSE = math.log(0.2)


class LocalVariance(nn.Module):
    """Gaussian-weighted local variance in the space-to-depth domain, exact, as dense convolutions.

    The Gaussian window of the SSIM, applied to all 16 phases of a 4x4 block at once, is a 5x1 and then a 1x5
    convolution from 16 to 16 channels. One 5x5 convolution would be the same in 2.5 times the operations, and
    its rounding errors are three times as large.
    """

    def __init__(self, ssim: SsimDefinition) -> None:
        super().__init__()
        down, across = _phase_kernels(ssim)
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("across", across, persistent=False)
        self.down: Tensor
        self.across: Tensor

    def forward(self, cells: Tensor) -> Tensor:
        """Variance [N,16,h,w] of cells [N,16,h,w] in [0, 1]."""
        # Deviations from mid-window keep E[x^2] - E[x]^2 from cancelling more digits than it must.
        shifted = cells - 0.5
        margin = self.across.shape[-1] // 2
        padded = F.pad(shifted, (margin,) * 4, mode="replicate")
        mean = self._blur(padded)
        return (self._blur(padded * padded) - mean * mean).clamp_min(VARIANCE_FLOOR)

    def _blur(self, padded: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(padded, self.down), self.across)


def _phase_kernels(ssim: SsimDefinition) -> tuple[Tensor, Tensor]:
    """The Gaussian along columns [16,16,5,1] and along rows [16,16,1,5]."""
    half = ssim.window // 2
    offset = torch.arange(-half, half + 1, dtype=torch.float64)
    line = torch.exp(-0.5 * (offset / ssim.sigma) ** 2)
    line = line / line.sum()
    reach = -(-half // BLOCK)  # blocks to each side
    taps = torch.zeros(BLOCK, BLOCK, 2 * reach + 1, dtype=torch.float64)  # out phase, in phase, block
    for phase in range(BLOCK):
        for tap in range(ssim.window):
            block, source = divmod(phase + tap - half, BLOCK)
            taps[phase, source, block + reach] = line[tap]
    same = torch.eye(BLOCK, dtype=torch.float64)
    # Row and column phases: out (a, c), in (b, d).
    down = torch.einsum("abi,cd->acbdi", taps, same).reshape(CELLS, CELLS, -1, 1)
    across = torch.einsum("ab,cdj->acbdj", same, taps).reshape(CELLS, CELLS, 1, -1)
    return down.float(), across.float()


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Refine features [N,C,h,w]."""
        refined: Tensor = self.second(F.relu(self.first(F.relu(features))))
        return features + refined


class CompactNet(nn.Module):
    """N2Q-small.

    Args:
        spec: window, dose levels, SSIM definition and outputs.
        widths: channels at 1/4, 1/8 and 1/16 of the input's resolution.
        blocks: residual blocks at these three.
    """

    def __init__(
        self,
        spec: ModelSpec,
        widths: tuple[int, int, int] | list[int] = (32, 48, 64),
        blocks: tuple[int, int, int] | list[int] = (1, 1, 2),
    ) -> None:
        super().__init__()
        self.window = Window(spec.window_center, spec.window_width)
        self.window_width = spec.window_width
        self.c2 = (spec.ssim.k2 * spec.ssim.data_range) ** 2
        self.variance = LocalVariance(spec.ssim)
        fine, middle, coarse = widths
        self.stem = nn.Conv2d(3 * CELLS, fine, 3, padding=1)
        self.fine = _blocks(fine, blocks[0])
        self.down_middle = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.middle = _blocks(middle, blocks[1])
        self.down_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse = _blocks(coarse, blocks[2])
        self.up_middle = nn.Conv2d(coarse, middle, 1)
        self.merge_middle = nn.Conv2d(middle, middle, 3, padding=1)
        self.up_fine = nn.Conv2d(middle, fine, 1)
        self.merge_fine = nn.Conv2d(fine, fine, 3, padding=1)
        self.head = nn.Conv2d(fine, 3 * CELLS, 1)
        self.noise = nn.Conv2d(middle, 1, 1)
        self.dose = nn.Sequential(nn.Linear(coarse, coarse), nn.ReLU(), nn.Linear(coarse, 2))
        self.register_buffer("log_levels", torch.tensor(spec.dose_levels).log(), persistent=False)
        self.log_levels: Tensor
        assert self.head.bias is not None
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[2 * CELLS :] = 4.0  # luminance term: sigmoid(4) = 0.98

    def forward(self, hu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict from HU [N,1,H,W] (multiples of 16).

        Returns:
            Quality map [N,1,H,W] in [0, 1], dose probabilities [N,K], noise map [N,1,H,W] in HU.
        """
        quality, log_dose, log_noise = self.raw(hu)
        noise = F.interpolate(log_noise, scale_factor=8.0, mode="bilinear", align_corners=False).exp()
        return quality.clamp(0.0, 1.0), self.level_probabilities(log_dose), noise

    def raw(self, hu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the losses see.

        Returns:
            Quality map [N,1,H,W]; mean and log standard deviation of log dose [N,2]; log of the noise
            standard deviation in HU [N,1,H/8,W/8].
        """
        hu = hu.clamp(HU_MIN, HU_MAX)
        hu_cells = F.pixel_unshuffle(hu, BLOCK)
        cells = self.window(hu_cells)
        log_variance = self.variance(cells).log()
        wide = hu_cells / 500.0
        features = self.stem(torch.cat([cells * 2.0 - 1.0, wide, log_variance / 4.0 + 1.5], dim=1))
        fine = self.fine(features)
        middle = self.middle(self.down_middle(F.relu(fine)))
        coarse = self.coarse(self.down_coarse(F.relu(middle)))
        middle = middle + _double(self.up_middle(F.relu(coarse)))
        middle = middle + F.relu(self.merge_middle(F.relu(middle)))
        fine = fine + _double(self.up_fine(F.relu(middle)))
        fine = fine + F.relu(self.merge_fine(F.relu(fine)))
        quality = F.pixel_shuffle(self._ssim(self.head(F.relu(fine)), log_variance), BLOCK)
        log_noise = self.noise(F.relu(middle)) + math.log(15.0)
        return quality, self._log_dose(coarse, hu), log_noise

    def _ssim(self, head: Tensor, log_variance: Tensor) -> Tensor:
        intercept, slope, luminance = head.chunk(3, dim=1)
        share = torch.sigmoid(intercept + (slope - 1.0) * (log_variance + 5.0) / 4.0)
        variance = log_variance.exp()
        structure = (2.0 * variance * (1.0 - share) + self.c2) / (variance * (2.0 - share) + self.c2)
        return structure * torch.sigmoid(luminance)

    def _log_dose(self, coarse: Tensor, hu: Tensor) -> Tensor:
        body = F.avg_pool2d(torch.sigmoid((hu - BODY_HU) / 50.0), 16) + 1e-3
        pooled = (F.relu(coarse) * body).mean(dim=(2, 3)) / body.mean(dim=(2, 3))
        offset = torch.tensor([MEAN_LOG_DOSE, -0.5], dtype=pooled.dtype, device=pooled.device)
        dose: Tensor = self.dose(pooled) + offset
        return dose

    def level_probabilities(self, log_dose: Tensor) -> Tensor:
        """Probability of each dose level [N,K]: the predicted log-normal at the levels, normalised."""
        mean, log_std = log_dose[:, :1], log_dose[:, 1:].clamp(-3.0, 2.0)
        return (-0.5 * ((self.log_levels - mean) / log_std.exp()) ** 2).softmax(dim=1)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(channels) for _ in range(count)))


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)
