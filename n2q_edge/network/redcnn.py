"""RED-CNN (Chen et al., IEEE TMI 36, 2017) as the N2Q paper compares it: a map regressor without a dose head.

Five 5x5 convolutions and five 5x5 transposed ones of 96 channels, no padding, internal residuals. The
residual from the input and the final ReLU belong to denoising and are dropped; the map ends in tanh.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from n2q_edge.network.preprocess import Window
from n2q_edge.spec import ModelSpec

CHANNELS = 96
KERNEL = 5
LAYERS = 5
REACH = 2 * LAYERS * (KERNEL // 2)  # pixels: what lies farther away does not matter


class RedCnn(nn.Module):
    """RED-CNN on the windowed slice.

    Args:
        spec: the window.
        channels: of every hidden layer.
    """

    reach = REACH

    def __init__(self, spec: ModelSpec, channels: int = CHANNELS) -> None:
        super().__init__()
        self.window = Window(spec.window_center, spec.window_width)
        widths = [1] + [channels] * LAYERS
        self.convs = nn.ModuleList(nn.Conv2d(into, out, KERNEL) for into, out in pairwise(widths))
        self.deconvs = nn.ModuleList(
            nn.ConvTranspose2d(into, out, KERNEL) for into, out in pairwise(reversed(widths))
        )

    def forward(self, hu: Tensor) -> tuple[Tensor]:
        """Predict from HU [N,1,H,W]: quality map [N,1,H,W] in [0, 1]."""
        return ((self.raw(hu)[0] + 1.0) / 2.0,)

    def raw(self, hu: Tensor) -> tuple[Tensor, None]:
        """Return what the loss sees: the map in [-1, 1], and no dose."""
        features = (self.window(hu) - 0.5) / 0.5
        skips = []
        for index, conv in enumerate(self.convs):
            features = F.relu(conv(features))
            if index in (1, 3):  # after the second and the fourth convolution
                skips.append(features)
        features = F.relu(self.deconvs[0](features) + skips.pop())
        features = F.relu(self.deconvs[1](features))
        features = F.relu(self.deconvs[2](features) + skips.pop())
        features = F.relu(self.deconvs[3](features))
        return torch.tanh(self.deconvs[4](features)), None
