"""The 4x space-to-depth domain of the compact networks: HU as cells, and the SSIM's local variance there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from n2q_edge.spec import SsimDefinition

BLOCK = 4  # side of the space-to-depth block
CELLS = BLOCK * BLOCK
VARIANCE_FLOOR = 1e-6  # of the windowed image in [0, 1]: 0.3 HU at a width of 300


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
