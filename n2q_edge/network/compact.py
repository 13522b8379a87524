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
from n2q_edge.network.anchor import GIVEN, Anchor, compare
from n2q_edge.network.cells import BLOCK, CELLS, Cells, LocalVariance
from n2q_edge.network.noise_level import NoiseLevel
from n2q_edge.spec import REFERENCE_INPUT, ModelSpec

COARSE_MAP = 8  # pixels a side of a value of the noise map and of the log variance
TRUNKS = (4, 8)  # pixels a side of a cell of the trunk's finest stage
LOG_VARIANCE_SCALE = 0.25  # brings log variances of -14 to -1 near the range of the other inputs
BODY_HU = -300.0
BODY_SOFTNESS_HU = 50.0
MEAN_LOG_DOSE = math.log(0.2)
MEAN_LOG_NOISE = math.log(15.0)
MEAN_LOG_ERROR_VARIANCE = math.log(0.01)
HEADS = ("formula", "direct")


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
        trunk: pixels a side of a cell of the finest stage, 4 or 8: with 8 everything between the local
            variance and the formula has half the resolution, and `widths` are those of 1/8, 1/16 and 1/32.

    With `reference_noise_hu` among the spec's inputs the share of noise is anchored (see `anchor`).

    `autocast`, if set, is the type that the layers with weights compute in while training, e.g.
    `torch.bfloat16`; variance, noise, anchor and formula stay in float32.
    """

    autocast: torch.dtype | None = None

    def __init__(
        self,
        spec: ModelSpec,
        widths: tuple[int, int, int] | list[int] = (24, 32, 64),
        blocks: tuple[int, int, int] | list[int] = (1, 1, 2),
        merge: bool = False,
        context: bool = True,
        head: str = "formula",
        normalise: bool = False,
        trunk: int = BLOCK,
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ModelError(f"model {spec.name!r}: head {head!r} is not one of {list(HEADS)}")
        if trunk not in TRUNKS or spec.size_multiple % (4 * trunk):
            raise ModelError(
                f"model {spec.name!r}: trunk {trunk} is not one of {list(TRUNKS)}, or size_multiple is no "
                "multiple of 4 times it"
            )
        referenced = REFERENCE_INPUT in spec.inputs
        if referenced and head != "formula":
            raise ModelError(f"model {spec.name!r}: {REFERENCE_INPUT} needs the formula head")
        low, _ = spec.window_hu
        self.wide = Cells(1 / spec.window_width, 0.0)
        self.windowed = Cells(1 / spec.window_width, -low / spec.window_width)
        self.c2 = (spec.ssim.k2 * spec.ssim.data_range) ** 2
        self.formula = head == "formula"
        self.variance = LocalVariance(spec.ssim)
        fine, middle, coarse = widths
        self.coarsest = 4 * trunk  # pixels a side of a cell of the coarsest stage
        self.ratio = trunk // BLOCK
        self.stem = nn.Conv2d(3 * CELLS, fine, 3, stride=self.ratio, padding=1)
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
        self.head = nn.Conv2d(fine, (CELLS + 2) * self.ratio**2, 1)
        self.maps = nn.Conv2d(middle if trunk < COARSE_MAP else fine, 2, 1)
        self.dose = nn.Sequential(nn.Linear(coarse, coarse), nn.ReLU(), nn.Linear(coarse, 2))
        self.noise_level = NoiseLevel() if referenced else None
        self.anchor = Anchor() if referenced else None
        self.given_coarse = nn.Linear(GIVEN, coarse) if referenced else None
        self.given_fine = nn.Linear(GIVEN, fine) if referenced else None
        self.outputs, self.map_cell = spec.outputs, spec.map_cell
        self.register_buffer("log_levels", torch.tensor(spec.dose_levels).log(), persistent=False)
        self.log_levels: Tensor
        assert self.head.bias is not None
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            luminance = slice((CELLS + 1) * self.ratio**2, None)
            self.head.bias[luminance] = 4.0  # luminance term: sigmoid(4) = 0.98
            for layer in (self.context, self.given_coarse, self.given_fine):
                if layer is not None:  # begins without a say
                    layer.weight.zero_()
                    layer.bias.zero_()

    def forward(self, hu: Tensor, reference_noise_hu: Tensor | None = None) -> tuple[Tensor, ...]:
        """Predict from HU [N,1,H,W] (multiples of `spec.size_multiple`).

        Args:
            hu: the slices.
            reference_noise_hu: noise of their full-dose twins in HU [N], 0 where unknown; for networks whose
                spec has that input.

        Returns:
            What the spec's outputs name, in its order: quality map [N,1,H,W] in [0, 1], dose probabilities
            [N,K], noise map in HU and log variance of the quality map's error, both [N,1,H/c,W/c] with c the
            spec's `map_cell`.
        """
        quality, log_dose, log_noise, log_variance = self.raw(hu, reference_noise_hu)
        enlarged = COARSE_MAP // self.map_cell
        made = {
            "quality_map": lambda: quality.clamp(0.0, 1.0),
            "dose_probabilities": lambda: self.level_probabilities(log_dose),
            "noise_map": lambda: _enlarge(log_noise.exp(), enlarged),
            "log_variance": lambda: _enlarge(log_variance, enlarged),
        }
        return tuple(made[name]() for name in self.outputs)

    def raw(
        self, hu: Tensor, reference_noise_hu: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what the losses see.

        Returns:
            Quality map [N,1,H,W]; mean and log standard deviation of log dose [N,2]; log of the noise
            standard deviation in HU [N,1,H/8,W/8]; log of the variance of the map's error, same shape.
        """
        wide, cells = self.wide(hu), self.windowed(hu).clamp(0.0, 1.0)
        variance = self.variance(cells)
        log_variance = variance.log() * LOG_VARIANCE_SCALE
        noise, reference = None, None
        if self.noise_level is not None:
            noise = self.noise_level(hu)
            unknown = torch.zeros_like(noise.log_std)
            reference = compare(noise, unknown if reference_noise_hu is None else reference_noise_hu)
        given = None if reference is None else reference.given
        head, maps, log_dose = self._layers(torch.cat([cells, wide, log_variance], dim=1), hu, given)
        mean, log_std = log_dose[:, 0] + MEAN_LOG_DOSE, log_dose[:, 1] - 0.5
        log_noise, log_error = maps[:, :1] + MEAN_LOG_NOISE, maps[:, 1:] + MEAN_LOG_ERROR_VARIANCE
        luminance = head[:, CELLS + 1 :]
        if self.formula:
            # 1 - r, the share of the variance that is not inserted noise, grows with the variance.
            logits = head[:, :CELLS] + (head[:, CELLS : CELLS + 1] + 1.0) * (log_variance + 1.25)
            if self.anchor is not None and noise is not None and reference is not None:
                logits, mean, log_noise = self.anchor(logits, mean, log_noise, noise, reference)
            quality = self._ssim(logits, luminance, variance)
        else:
            quality = torch.sigmoid(head[:, :CELLS] + 1.0)
        return F.pixel_shuffle(quality, BLOCK), torch.stack([mean, log_std], dim=1), log_noise, log_error

    def _layers(self, features: Tensor, hu: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """All that has weights, in `autocast`: head [N,18,H/4,W/4], maps [N,2,H/8,W/8], log dose [N,2]."""
        if self.autocast is None:
            found = self._trunk(features, hu, given)
        else:
            with torch.autocast(hu.device.type, self.autocast):
                found = self._trunk(features, hu, given)
        head, maps, log_dose = (layer.to(features.dtype) for layer in found)
        return head, maps, log_dose

    def _trunk(self, features: Tensor, hu: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.fine(self.stem(features))
        middle = self.middle(self.down_middle(F.relu(fine)))
        coarse = F.relu(self.coarse(self.down_coarse(F.relu(middle))))
        pooled = _body_mean(coarse, hu, self.coarsest)
        if self.context is not None:
            coarse = F.relu(coarse + self.context(pooled)[:, :, None, None])
        if self.given_coarse is not None and given is not None:
            coarse = F.relu(coarse + self.given_coarse(given)[:, :, None, None])
        middle = middle + _enlarge(self.up_middle(coarse), 2)
        if self.merge_middle is not None:
            middle = middle + F.relu(self.merge_middle(F.relu(middle)))
        middle = F.relu(middle)
        fine = fine + _enlarge(self.up_fine(middle), 2)
        if self.given_fine is not None and given is not None:
            fine = fine + self.given_fine(given)[:, :, None, None]
        fine = F.relu(fine + F.relu(self.merge_fine(F.relu(fine))))
        head = self.head(fine)
        if self.ratio > 1:
            head = F.pixel_shuffle(head, self.ratio)
        return head, self.maps(middle if self.ratio == 1 else fine), self.dose(pooled)

    def _ssim(self, logits: Tensor, luminance: Tensor, variance: Tensor) -> Tensor:
        """The formula above, from the logits of 1 - r."""
        kept = variance * torch.sigmoid(logits) + self.c2 / 2
        return kept / (kept + variance + self.c2 / 2) * (2.0 * torch.sigmoid(luminance))

    def level_probabilities(self, log_dose: Tensor) -> Tensor:
        """Probability of each dose level [N,K]: the predicted log-normal at the levels, normalised."""
        mean, log_std = log_dose[:, :1], log_dose[:, 1:].clamp(-3.0, 2.0)
        return (-0.5 * ((self.log_levels - mean) / log_std.exp()) ** 2).softmax(dim=1)


def _body_mean(coarse: Tensor, hu: Tensor, cell: int) -> Tensor:
    """Mean of coarse features [N,C,H/cell,W/cell] over what is denser than air: [N,C]."""
    density = F.avg_pool2d(hu, cell)
    body = torch.sigmoid((density - BODY_HU) / BODY_SOFTNESS_HU) + 1e-3
    return (coarse * body).mean(dim=(2, 3)) / body.mean(dim=(2, 3))


def _blocks(channels: int, count: int, normalise: bool) -> nn.Sequential:
    return nn.Sequential(*(Residual(channels, normalise) for _ in range(count)))


def _enlarge(features: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return features
    return F.interpolate(features, scale_factor=float(factor), mode="bilinear", align_corners=False)
