"""Where a training begins: with fresh weights, or with those of another compact network.

A narrower network begins with the most important channels of a wider one. Channels that are added to one
another along the residual paths of a stage are one stream and are chosen together. The importance of a
channel is its share of the absolute weights in every layer that writes or reads it (after Li et al.,
"Pruning filters for efficient ConvNets", ICLR 2017).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from n2q_edge.errors import UsageError

STREAMS: dict[str, tuple[str | None, str | None]] = {
    "stem": ("fine", None),
    "down_middle": ("middle", "fine"),
    "down_coarse": ("coarse", "middle"),
    "context": ("coarse", "coarse"),
    "up_middle": ("middle", "coarse"),
    "merge_middle": ("middle", "middle"),
    "up_fine": ("fine", "middle"),
    "merge_fine": ("fine", "fine"),
    "head": (None, "fine"),
    "maps": (None, "middle"),
    "dose.0": ("dose", "coarse"),
    "dose.2": (None, "dose"),
}
"""Layers of `network.compact.CompactNet`: the stream each writes, and the one it reads."""


def inherit(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a compact network the weights of another one of the same layers, as wide or wider.

    Raises:
        UsageError: the layers differ, or the other network is narrower.
    """
    own = network.state_dict()
    if set(own) != set(weights) or any(name.rsplit(".", 1)[0] not in _layers(own) for name in own):
        raise UsageError("--start-from takes a checkpoint of a compact network with the recipe's blocks")
    layers = {name: _streams(name) for name in _layers(own)}
    kept = {}
    for stream in {stream for pair in layers.values() for stream in pair if stream}:
        width = _width(stream, layers, own)
        importance = _importance(stream, layers, weights)
        if width > importance.numel():
            raise UsageError("--start-from takes a checkpoint of a network as wide as the recipe's or wider")
        kept[stream] = importance.topk(width).indices.sort().values
    for name in own:
        layer, kind = name.rsplit(".", 1)
        writes, reads = layers[layer]
        chosen = weights[name]
        if writes:
            chosen = chosen[kept[writes]]
        if reads and kind == "weight":
            chosen = chosen[:, kept[reads]]
        own[name] = chosen.clone()
    network.load_state_dict(own)


def _layers(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers that have streams."""
    names = dict.fromkeys(name.rsplit(".", 1)[0] for name in weights)
    return [name for name in names if name in STREAMS or name.endswith((".first", ".second"))]


def _streams(layer: str) -> tuple[str | None, str | None]:
    if layer in STREAMS:
        return STREAMS[layer]
    block, place = layer.rsplit(".", 1)
    stage = block.split(".")[0]
    return (block, stage) if place == "first" else (stage, block)


Layers = Mapping[str, tuple[str | None, str | None]]


def _width(stream: str, layers: Layers, weights: Mapping[str, Tensor]) -> int:
    writer = next(layer for layer, (writes, _) in layers.items() if writes == stream)
    return int(weights[f"{writer}.weight"].shape[0])


def _importance(stream: str, layers: Layers, weights: Mapping[str, Tensor]) -> Tensor:
    """Of each channel of a stream."""
    shares = []
    for layer, ends in layers.items():
        for axis, end in enumerate(ends):
            if end == stream:
                sizes = weights[f"{layer}.weight"].abs().transpose(0, axis).flatten(1).sum(dim=1)
                shares.append(sizes / sizes.sum().clamp_min(1e-12))
    return torch.stack(shares).sum(dim=0)
