"""N2Q as published: a U-Net with a dose-classification branch at the bottleneck (Haque, Wang, Imran 2022).

Attribute names follow the authors' notebook, so that their state dicts load as they are.
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
    """

    def __init__(
        self, spec: ModelSpec, inputs: tuple[str, ...] | list[str] = INPUTS, width: int = 16
    ) -> None:
        super().__init__()
        if not inputs or set(inputs) - set(INPUTS):
            raise ModelError(f"model {spec.name!r}: inputs {list(inputs)} are not of {list(INPUTS)}")
        self.inputs = tuple(inputs)
        self.window = Window(spec.window_center, spec.window_width)
        self.high_pass = HighPass()
        widths = [width * 2**level for level in range(LEVELS)]
        self.dconv_down1 = double_conv(len(self.inputs), widths[0])
        self.dconv_down2 = double_conv(widths[0], widths[1])
        self.dconv_down3 = double_conv(widths[1], widths[2])
        self.dconv_down4 = double_conv(widths[2], widths[3])
        self.dconv_down5 = double_conv(widths[3], widths[4])
        self.dconv_up4 = double_conv(widths[4] + widths[3], widths[3])
        self.dconv_up3 = double_conv(widths[3] + widths[2], widths[2])
        self.dconv_up2 = double_conv(widths[2] + widths[1], widths[1])
        self.dconv_up1 = double_conv(widths[1] + widths[0], widths[0])
        self.fc = nn.Linear(widths[4], len(spec.dose_levels))
        self.conv_last = nn.Conv2d(widths[0], 1, 1)

    def forward(self, hu: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from HU [N,1,H,W]: quality map [N,1,H,W] in [0, 1] and dose probabilities [N,K]."""
        map_logits, dose_logits = self.raw(hu)
        return (map_logits + 1.0) / 2.0, dose_logits.softmax(dim=1)

    def raw(self, hu: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the losses see: the map in the network's range [-1, 1], the dose logits [N,K]."""
        down1 = self.dconv_down1(self.encode_input(hu))
        down2 = self.dconv_down2(F.max_pool2d(down1, 2))
        down3 = self.dconv_down3(F.max_pool2d(down2, 2))
        down4 = self.dconv_down4(F.max_pool2d(down3, 2))
        bottleneck = self.dconv_down5(F.max_pool2d(down4, 2))
        dose = self.fc(F.max_pool2d(bottleneck, 2).mean(dim=(2, 3)))
        up = self.dconv_up4(torch.cat([_double(bottleneck), down4], dim=1))
        up = self.dconv_up3(torch.cat([_double(up), down3], dim=1))
        up = self.dconv_up2(torch.cat([_double(up), down2], dim=1))
        up = self.dconv_up1(torch.cat([_double(up), down1], dim=1))
        return torch.tanh(self.conv_last(up)), dose

    def encode_input(self, hu: Tensor) -> Tensor:
        """Windowed slice in [-1, 1] and its high-pass, as far as they are inputs: [N,C,H,W]."""
        image = (self.window(hu) - 0.5) / 0.5
        channels = {"slice": image}
        if "high_pass" in self.inputs:
            channels["high_pass"] = self.high_pass(image)
        return torch.cat([channels[name] for name in self.inputs], dim=1)


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=True)
