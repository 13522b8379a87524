"""The anchor: what is known of the full-dose noise, as part of the SSIM formula.

If the full-dose twin of a slice has the noise s_ref and the slice the noise s, the share of its variance that
is left of the twin's is, in flat tissue,

    kept = (s_ref / s)^2,

whatever kernel, dose and texture it has. The logits of the share that a network predicts pixel by pixel are
therefore shifted, all alike, until their mean over flat soft tissue is that of the reference: the network
says where more is kept and where less, the reference how much on the whole. What is learned beside that is
small and bounded: how far the reference is trusted (it may be off), how much of what is taken for noise is
anatomy that noise hides (`FIRST_HIDDEN`, measured with n2q-plus 2 on 14 patients at five doses: 0.05 in the
median), and the coarse noise that small patches do not see.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from n2q_edge.network.noise_level import Noise

SMALLEST_SHARE, LARGEST_SHARE = 0.002, 0.98
LEAST_TRUST = 0.7  # in a reference, over the network's own estimate
FIRST_TRUST = 3.0  # logit of the rest: 0.985 in all
FIRST_HIDDEN, HIDDEN_RANGE = 0.055, 0.12  # share of the inserted variance that is anatomy; how far off
LARGEST_NOISE_CORRECTION = 0.35  # of log HU: noise that patches of 8x8 pixels do not see
UNITS = 16  # of the hidden layer
GIVEN = 4  # see `Reference.given`


class Reference(NamedTuple):
    """What a reference noise says of a slice.

    Attributes:
        known: 1 where a reference is given and the slice's noise could be measured, else 0 [N].
        share: of the variance that is the twin's [N].
        log_dose: log of the dose over the twin's [N]; 0 where unknown.
        given: what a network is told [N,4]: `known`, the logit, the slice's own noise and its whiteness.
    """

    known: Tensor
    share: Tensor
    log_dose: Tensor
    given: Tensor


def compare(noise: Noise, reference_noise_hu: Tensor) -> Reference:
    """Hold the measured noise of slices against their references [N] in HU, 0 for unknown."""
    known = (reference_noise_hu > 0).to(noise.log_std.dtype) * noise.amount
    log_dose = 2.0 * (reference_noise_hu.clamp_min(1e-3).log() - noise.log_std)
    share = log_dose.exp().clamp(SMALLEST_SHARE, LARGEST_SHARE)
    logit = _logit(share)
    given = torch.stack(
        [known, known * logit / 4.0, noise.log_std - 3.0, noise.whiteness.clamp(0.0, 2.0)], dim=1
    )
    return Reference(known, share, known * log_dose.clamp_max(0.0), given)


class Anchor(nn.Module):
    """Ties shares, dose and noise map to what is measured and what is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(GIVEN + 1, UNITS)
        self.second = nn.Linear(UNITS, 4)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(
        self, logits: Tensor, log_dose: Tensor, log_noise: Tensor, noise: Noise, reference: Reference
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shift a network's own estimates.

        Args:
            logits: of the share kept, of every pixel [N,16,H/4,W/4].
            log_dose: mean of the log dose [N].
            log_noise: log of the noise in HU [N,1,H/8,W/8].
            noise: measured of the slice.
            reference: what is known of its twin.

        Returns:
            The three, shifted.
        """
        cells = noise.flat / (noise.flat.sum(dim=(2, 3), keepdim=True) + 1e-3)
        own = (cells * logits.mean(dim=1, keepdim=True)).sum(dim=(1, 2, 3))
        gap = reference.known * (_logit(reference.share) - own)
        learned = self.second(F.relu(self.first(torch.cat([reference.given, gap[:, None] / 2.0], dim=1))))
        trust, hidden, dose_trust, noise_correction = learned.to(gap.dtype).unbind(dim=1)
        anatomy = (1.0 - reference.share) * (FIRST_HIDDEN + HIDDEN_RANGE * hidden.tanh())
        kept = (reference.share + anatomy).clamp(SMALLEST_SHARE, LARGEST_SHARE)
        shift = reference.known * _trusted(trust) * (_logit(kept) - own)
        logits = logits + shift[:, None, None, None]
        log_dose = log_dose + reference.known * _trusted(dose_trust) * (reference.log_dose - log_dose)
        coarse = F.avg_pool2d(cells, 2) * 4.0
        measured = noise.log_std + LARGEST_NOISE_CORRECTION * noise_correction.tanh()
        offset = noise.amount * (measured - (coarse * log_noise).sum(dim=(1, 2, 3)))
        return logits, log_dose, log_noise + offset[:, None, None, None]


def _logit(share: Tensor) -> Tensor:
    return share.log() - torch.log1p(-share)


def _trusted(learned: Tensor) -> Tensor:
    return LEAST_TRUST + (1.0 - LEAST_TRUST) * torch.sigmoid(learned + FIRST_TRUST)
