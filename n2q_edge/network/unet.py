"""N2Q as published: a U-Net with a dose-classification branch (Haque, Wang, Imran 2022), and its variants.

Five more of the paper's systems are this network with parts left out: AE (no skips, no head), U-Net (slice
alone, no head), U-HPF (high-pass alone, no head), U-Con (both, no head), U-SSL (slice alone). Attribute names
follow the authors' notebook, so that their state dicts load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from n2q_edge.errors import ModelError
from n2q_edge.network.preprocess import HighPass, Window
from n2q_edge.spec import ModelSpec

INPUTS = ("slice", "high_pass")
LEVELS = 5
SLOPE = 0.2
DROPOUT = 0.25


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """(conv3x3, InstanceNorm without affine, LeakyReLU) twice and dropout; the convs have indices 0 and 3."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.InstanceNorm2d(outputs),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.InstanceNorm2d(outputs),
        nn.LeakyReLU(SLOPE),
        nn.Dropout(DROPOUT),
    )


class UNet(nn.Module):
    """N2Q's network.

    Args:
        spec: window and dose levels.
        inputs: channels fed to the encoder, of `INPUTS`: N2Q takes both, U-SSL the slice alone.
        width: channels of the first level; each level doubles them.
        skips: decoder levels see the encoder's; without them it is an autoencoder.
        dose_head: classify the dose at the bottleneck.
        tile: if not 0, work on tiles of that many pixels a side, each on its own, as it was trained: the
            instance normalisation of a crop is not that of a slice. H and W are then multiples of it.
    """

    def __init__(
        self,
        spec: ModelSpec,
        inputs: tuple[str, ...] | list[str] = INPUTS,
        width: int = 16,
        skips: bool = True,
        dose_head: bool = True,
        tile: int = 0,
    ) -> None:
        super().__init__()
        if not inputs or set(inputs) - set(INPUTS):
            raise ModelError(f"model {spec.name!r}: inputs {list(inputs)} are not of {list(INPUTS)}")
        self.inputs, self.skips, self.tile = tuple(inputs), skips, tile
        self.window = Window(spec.window_center, spec.window_width)
        self.high_pass = HighPass()
        widths = [width * 2**level for level in range(LEVELS)]
        self.dconv_down1 = double_conv(len(self.inputs), widths[0])
        self.dconv_down2 = double_conv(widths[0], widths[1])
        self.dconv_down3 = double_conv(widths[1], widths[2])
        self.dconv_down4 = double_conv(widths[2], widths[3])
        self.dconv_down5 = double_conv(widths[3], widths[4])
        skipped = widths if skips else [0] * LEVELS
        self.dconv_up4 = double_conv(widths[4] + skipped[3], widths[3])
        self.dconv_up3 = double_conv(widths[3] + skipped[2], widths[2])
        self.dconv_up2 = double_conv(widths[2] + skipped[1], widths[1])
        self.dconv_up1 = double_conv(widths[1] + skipped[0], widths[0])
        self.fc = nn.Linear(widths[4], len(spec.dose_levels)) if dose_head else None
        self.conv_last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, hu: Tensor) -> tuple[Tensor, ...]:
        """Predict from HU [N,1,H,W]: quality map [N,1,H,W] in [0, 1] and, with a head, dose [N,K]."""
        tiles = _to_tiles(hu, self.tile) if self.tile else hu
        map_logits, dose_logits = self.raw(tiles)
        quality = (map_logits + 1.0) / 2.0
        if self.tile:
            quality = _from_tiles(quality, hu)
        if dose_logits is None:
            return (quality,)
        probabilities = dose_logits.softmax(dim=1)
        return quality, probabilities.reshape(hu.shape[0], -1, probabilities.shape[1]).mean(dim=1)

    def raw(self, hu: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what the losses see: the map in the network's range [-1, 1], the dose logits [N,K]."""
        down1 = self.dconv_down1(self.encode_input(hu))
        down2 = self.dconv_down2(F.max_pool2d(down1, 2))
        down3 = self.dconv_down3(F.max_pool2d(down2, 2))
        down4 = self.dconv_down4(F.max_pool2d(down3, 2))
        bottleneck = self.dconv_down5(F.max_pool2d(down4, 2))
        dose = None if self.fc is None else self.fc(F.max_pool2d(bottleneck, 2).mean(dim=(2, 3)))
        up = self.dconv_up4(self._merge(bottleneck, down4))
        up = self.dconv_up3(self._merge(up, down3))
        up = self.dconv_up2(self._merge(up, down2))
        up = self.dconv_up1(self._merge(up, down1))
        return torch.tanh(self.conv_last(up)), dose

    def _merge(self, below: Tensor, beside: Tensor) -> Tensor:
        up = F.interpolate(below, scale_factor=2.0, mode="bilinear", align_corners=True)
        return torch.cat([up, beside], dim=1) if self.skips else up

    def encode_input(self, hu: Tensor) -> Tensor:
        """Windowed slice in [-1, 1] and its high-pass, as far as they are inputs: [N,C,H,W]."""
        image = (self.window(hu) - 0.5) / 0.5
        channels = {"slice": image}
        if "high_pass" in self.inputs:
            channels["high_pass"] = self.high_pass(image)
        return torch.cat([channels[name] for name in self.inputs], dim=1)


def _to_tiles(hu: Tensor, side: int) -> Tensor:
    """[N,1,H,W] as tiles [N*h*w,1,side,side], row by row."""
    n, _, height, width = hu.shape
    grid = hu.reshape(n, height // side, side, width // side, side)
    return grid.permute(0, 1, 3, 2, 4).reshape(-1, 1, side, side)


def _from_tiles(tiles: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_to_tiles`, for an input shaped `like`."""
    n, _, height, width = like.shape
    side = tiles.shape[-1]
    grid = tiles.reshape(n, height // side, width // side, side, side)
    return grid.permute(0, 1, 3, 2, 4).reshape(n, 1, height, width)
