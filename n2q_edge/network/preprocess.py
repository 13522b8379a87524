"""What stands between HU and the first convolution, as modules of the graph.

Because they are part of the exported graph there is no second implementation anywhere that could drift.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIGH_PASS_SIZE = 5
HIGH_PASS_SIGMA = 4.0  # nearly a box, as in the authors' code


class Window(nn.Module):
    """HU to [0, 1] through a display window."""

    def __init__(self, center: float, width: float) -> None:
        super().__init__()
        self.low = center - width / 2
        self.width = width

    def forward(self, hu: Tensor) -> Tensor:
        """Map HU [N,1,H,W] to [0, 1], saturating outside the window."""
        return ((hu - self.low) / self.width).clamp(0.0, 1.0)


class HighPass(nn.Module):
    """x - up2(down2(gauss5x5(x))): the authors' high-frequency channel."""

    def __init__(self) -> None:
        super().__init__()
        offset = torch.arange(HIGH_PASS_SIZE) - HIGH_PASS_SIZE // 2
        weights = torch.exp(-0.5 * (offset / HIGH_PASS_SIGMA) ** 2)
        kernel = torch.outer(weights, weights) / weights.sum() ** 2
        self.register_buffer("kernel", kernel[None, None], persistent=False)
        self.kernel: Tensor

    def forward(self, image: Tensor) -> Tensor:
        """High-pass an image [N,1,H,W] with even H and W."""
        margin = HIGH_PASS_SIZE // 2
        blurred = F.conv2d(F.pad(image, (margin,) * 4, mode="reflect"), self.kernel)
        return image - F.interpolate(
            F.avg_pool2d(blurred, 2), scale_factor=2.0, mode="bilinear", align_corners=False
        )
