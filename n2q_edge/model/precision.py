"""A network in another precision, before it is exported: what is in the ONNX file is what TensorRT computes.

- `fp16`: everything in float16.
- `fp16-norm32`: convolutions and linear layers in float16; normalisations in float32, and so is whatever a
  network computes from HU before its first convolution. Sums over a whole slice overflow float16 (65504),
  and a variance as E[x^2] - E[x]^2 has no digits left in it.

Input and outputs stay float32 in both: turning 512x512 pixels into float16 costs the host 1.5 ms (NumPy, one
core) and would save a copy to the GPU some 20 us.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

NORMALISATIONS = (nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)
MATRIX_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """A copy of a float32 network that computes in `precision`, float32 at its ends.

    Args:
        network: takes HU [N,1,H,W], and perhaps a reference noise [N], and returns a tuple of tensors.
        precision: one of `spec.FLOAT_PRECISIONS`.
    """
    if precision == "fp32":
        return network
    network = copy.deepcopy(network).eval()
    if precision == "fp16":
        return _Half(network.half())
    _lower(network)
    return _Float32Outputs(network)


def _lower(module: nn.Module) -> None:
    """Replace the layers of `fp16-norm32` in place."""
    for name, child in module.named_children():
        if isinstance(child, NORMALISATIONS):
            setattr(module, name, _Float32(child))
        elif isinstance(child, MATRIX_LAYERS):
            setattr(module, name, _Float16(child))
        else:
            _lower(child)


def _given(hu: Tensor, reference_noise_hu: Tensor | None) -> tuple[Tensor, ...]:
    return (hu,) if reference_noise_hu is None else (hu, reference_noise_hu)


class _Half(nn.Module):
    """A float16 network with float32 ends."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, hu: Tensor, reference_noise_hu: Tensor | None = None) -> tuple[Tensor, ...]:
        inputs = (tensor.half() for tensor in _given(hu, reference_noise_hu))
        return tuple(output.float() for output in self.network(*inputs))


class _Float32Outputs(nn.Module):
    """A network whose outputs are turned into float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, hu: Tensor, reference_noise_hu: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(output.float() for output in self.network(*_given(hu, reference_noise_hu)))


class _Float16(nn.Module):
    """A layer in float16, whatever it is given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.half()

    def forward(self, features: Tensor) -> Tensor:
        computed: Tensor = self.layer(features.half())
        return computed


class _Float32(nn.Module):
    """A layer that computes in float32 and returns the type it was given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        computed: Tensor = self.layer(features.float())
        return computed.to(features.dtype)
