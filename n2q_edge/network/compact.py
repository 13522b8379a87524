"""N2Q+: networks that never leave the 4x space-to-depth domain, with an SSIM-formula head.

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

from n2q_edge.errors import ModelError
from n2q_edge.spec import ModelSpec, SsimDefinition

BLOCK = 4  # side of the space-to-depth block
CELLS = BLOCK * BLOCK
COARSEST = 16  # side of a cell of the coarsest stage, pixels
VARIANCE_FLOOR = 1e-6  # of the windowed image in [0, 1]: 0.3 HU at a width of 300
LOG_VARIANCE_SCALE = 0.25  # brings log variances of -14 to -1 near the range of the other inputs
BODY_HU = -300.0
BODY_SOFTNESS_HU = 50.0
MEAN_LOG_DOSE = math.log(0.2)
MEAN_LOG_NOISE = math.log(15.0)
MEAN_LOG_ERROR_VARIANCE = math.log(0.01)
HEADS = ("formula", "direct")


class Cells(nn.Module):
    """HU [N,1,H,W] as [N,16,H/4,W/4] times `gain` plus `offset`: a convolution, as runtimes like it."""

    def __init__(self, gain: float, offset: float) -> None:
        super().__init__()
        self.register_buffer(
            "pick", gain * torch.eye(CELLS).reshape(CELLS, 1, BLOCK, BLOCK), persistent=False
        )
        self.register_buffer("offset", torch.full((CELLS,), offset), persistent=False)
        self.pick: Tensor
        self.offset: Tensor

    def forward(self, hu: Tensor) -> Tensor:
        """Rearrange HU [N,1,H,W] (multiples of 4)."""
        return F.conv2d(hu, self.pick, self.offset, stride=BLOCK)


class LocalVariance(nn.Module):
    """Gaussian-weighted local variance in the space-to-depth domain, exact, as dense convolutions.

    The Gaussian window of the SSIM, applied to all 16 phases of a 4x4 block at once, is a 5x1 and then a 1x5
    convolution from 16 to 16 channels. One 5x5 convolution would be the same in 2.5 times the operations, and
    its rounding errors are three times as large. Beyond the edge is air.
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
        mean = self._blur(cells)
        return (self._blur(cells * cells) - mean * mean).clamp_min(VARIANCE_FLOOR)

    def _blur(self, cells: Tensor) -> Tensor:
        reach = self.across.shape[-1] // 2
        return F.conv2d(F.conv2d(cells, self.down, padding=(reach, 0)), self.across, padding=(0, reach))


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
    """x + conv(relu(conv(relu(x)))); with `normalise` the inner features are instance-normalised."""

    def __init__(self, channels: int, normalise: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.InstanceNorm2d(channels) if normalise else nn.Identity()
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Refine features [N,C,h,w]."""
        refined: Tensor = self.second(F.relu(self.norm(self.first(F.relu(features)))))
        return features + refined


class CompactNet(nn.Module):
    """N2Q+.

    Args:
        spec: window, dose levels, SSIM definition and outputs.
        widths: channels at 1/4, 1/8 and 1/16 of the input's resolution.
        blocks: residual blocks at these three.
        merge: refine the middle stage again on the way up.
        context: let every place know the mean of the coarsest features over the body.
        head: `formula` predicts the share of noise (see above), `direct` the SSIM itself.
        normalise: instance normalisation in the residual blocks, to measure what it costs.
    """

    def __init__(
        self,
        spec: ModelSpec,
        widths: tuple[int, int, int] | list[int] = (24, 32, 64),
        blocks: tuple[int, int, int] | list[int] = (0, 1, 2),
        merge: bool = False,
        context: bool = True,
        head: str = "formula",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ModelError(f"model {spec.name!r}: head {head!r} is not one of {list(HEADS)}")
        low = spec.window_center - spec.window_width / 2
        self.wide = Cells(1 / spec.window_width, 0.0)
        self.windowed = Cells(1 / spec.window_width, -low / spec.window_width)
        self.c2 = (spec.ssim.k2 * spec.ssim.data_range) ** 2
        self.formula = head == "formula"
        self.variance = LocalVariance(spec.ssim)
        fine, middle, coarse = widths
        self.stem = nn.Conv2d(3 * CELLS, fine, 3, padding=1)
        self.fine = _blocks(fine, blocks[0], normalise)
        self.down_middle = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.middle = _blocks(middle, blocks[1], normalise)
        self.down_coarse = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.coarse = _blocks(coarse, blocks[2], normalise)
        self.context = nn.Linear(coarse, coarse) if context else None
        self.up_middle = nn.Conv2d(coarse, middle, 1)
        self.merge_middle = nn.Conv2d(middle, middle, 3, padding=1) if merge else None
        self.up_fine = nn.Conv2d(middle, fine, 1)
        self.merge_fine = nn.Conv2d(fine, fine, 3, padding=1)
        self.head = nn.Conv2d(fine, CELLS + 2, 1)
        self.maps = nn.Conv2d(middle, 2, 1)
        self.dose = nn.Sequential(nn.Linear(coarse, coarse), nn.ReLU(), nn.Linear(coarse, 2))
        self.outputs = spec.outputs
        self.register_buffer("log_levels", torch.tensor(spec.dose_levels).log(), persistent=False)
        self.log_levels: Tensor
        assert self.head.bias is not None
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.head.bias[CELLS + 1] = 4.0  # luminance term: sigmoid(4) = 0.98

    def forward(self, hu: Tensor) -> tuple[Tensor, ...]:
        """Predict from HU [N,1,H,W] (multiples of 16).

        Returns:
            What the spec's outputs name, in its order: quality map [N,1,H,W] in [0, 1], dose probabilities
            [N,K], noise map [N,1,H,W] in HU, log variance of the quality map's error [N,1,H,W].
        """
        quality, log_dose, log_noise, log_variance = self.raw(hu)
        made = {
            "quality_map": lambda: quality.clamp(0.0, 1.0),
            "dose_probabilities": lambda: self.level_probabilities(log_dose),
            "noise_map": lambda: _enlarge(log_noise.exp(), COARSEST // 2),
            "log_variance": lambda: _enlarge(log_variance, COARSEST // 2),
        }
        return tuple(made[name]() for name in self.outputs)

    def raw(self, hu: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what the losses see.

        Returns:
            Quality map [N,1,H,W]; mean and log standard deviation of log dose [N,2]; log of the noise
            standard deviation in HU [N,1,H/8,W/8]; log of the variance of the map's error, same shape.
        """
        wide, cells = self.wide(hu), self.windowed(hu).clamp(0.0, 1.0)
        variance = self.variance(cells)
        log_variance = variance.log() * LOG_VARIANCE_SCALE
        fine = self.fine(self.stem(torch.cat([cells, wide, log_variance], dim=1)))
        middle = self.middle(self.down_middle(F.relu(fine)))
        coarse = F.relu(self.coarse(self.down_coarse(F.relu(middle))))
        pooled = _body_mean(coarse, hu)
        if self.context is not None:
            coarse = F.relu(coarse + self.context(pooled)[:, :, None, None])
        middle = middle + _enlarge(self.up_middle(coarse), 2)
        if self.merge_middle is not None:
            middle = middle + self.merge_middle(F.relu(middle))
        middle = F.relu(middle)
        fine = F.relu(fine + _enlarge(self.up_fine(middle), 2))
        fine = F.relu(fine + self.merge_fine(fine))
        quality = F.pixel_shuffle(self._ssim(self.head(fine), variance, log_variance), BLOCK)
        maps = self.maps(middle)
        log_noise, log_error = maps[:, :1] + MEAN_LOG_NOISE, maps[:, 1:] + MEAN_LOG_ERROR_VARIANCE
        return quality, self._log_dose(pooled), log_noise, log_error

    def _ssim(self, head: Tensor, variance: Tensor, log_variance: Tensor) -> Tensor:
        intercept, slope, luminance = head[:, :CELLS], head[:, CELLS : CELLS + 1], head[:, CELLS + 1 :]
        if not self.formula:
            return torch.sigmoid(intercept + 1.0)
        # v (1 - r): what is left of the variance without the inserted noise. 1 - r grows with v.
        kept = variance * torch.sigmoid(intercept + (slope + 1.0) * (log_variance + 1.25))
        kept = kept + self.c2 / 2
        return kept / (kept + variance + self.c2 / 2) * (2.0 * torch.sigmoid(luminance))

    def _log_dose(self, pooled: Tensor) -> Tensor:
        offset = torch.tensor([MEAN_LOG_DOSE, -0.5], dtype=pooled.dtype, device=pooled.device)
        dose: Tensor = self.dose(pooled) + offset
        return dose

    def level_probabilities(self, log_dose: Tensor) -> Tensor:
        """Probability of each dose level [N,K]: the predicted log-normal at the levels, normalised."""
        mean, log_std = log_dose[:, :1], log_dose[:, 1:].clamp(-3.0, 2.0)
        return (-0.5 * ((self.log_levels - mean) / log_std.exp()) ** 2).softmax(dim=1)


def _body_mean(coarse: Tensor, hu: Tensor) -> Tensor:
    """Mean of coarse features [N,C,H/16,W/16] over what is denser than air: [N,C]."""
    density = F.avg_pool2d(hu, COARSEST)
    body = torch.sigmoid((density - BODY_HU) / BODY_SOFTNESS_HU) + 1e-3
    return (coarse * body).mean(dim=(2, 3)) / body.mean(dim=(2, 3))


def _blocks(channels: int, count: int, normalise: bool) -> nn.Sequential:
    return nn.Sequential(*(Residual(channels, normalise) for _ in range(count)))


def _enlarge(features: Tensor, factor: int) -> Tensor:
    return F.interpolate(features, scale_factor=float(factor), mode="bilinear", align_corners=False)
