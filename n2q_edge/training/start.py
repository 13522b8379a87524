"""Where a training begins: with fresh weights, or with those of another compact network.

A narrower network begins with the most important channels of a wider one. Channels that are added to one
another along the residual paths of a stage are one stream and are chosen together. The importance of a
channel is its share of the absolute weights in every layer that writes or reads it (after Li et al.,
"Pruning filters for efficient ConvNets", ICLR 2017).

A wider or deeper network begins as the same function (after Chen et al., "Net2Net", ICLR 2016): no channel of
the other network reads a new channel yet, and a new residual block adds nothing yet.
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
    "given_coarse": ("coarse", None),
    "given_fine": ("fine", None),
    "anchor.first": (None, None),
    "anchor.second": (None, None),
}
"""Layers of `network.compact.CompactNet`: the stream each writes, and the one it reads."""


def inherit(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a compact network the weights of another one, of any widths and of no more residual blocks.

    A network that takes a reference noise may begin with the weights of one that does not.

    Raises:
        UsageError: other layers than residual blocks differ, or the other network has more of them.
    """
    own = network.state_dict()  # shares its memory with the network
    added = {_layer(name) for name in set(own) - set(weights)}
    if set(weights) - set(own) or not all(map(_begins_silent, added)) or not all(map(_has_streams, own)):
        raise UsageError(
            "--start-from takes a checkpoint of a compact network with no more than the recipe's blocks"
        )
    layers = {layer: _streams(layer) for layer in dict.fromkeys(map(_layer, weights))}
    kept = {}
    for stream in {stream for pair in layers.values() for stream in pair if stream}:
        importance = _importance(stream, layers, weights)
        width = min(_width(stream, layers, own), importance.numel())
        kept[stream] = importance.topk(width).indices.sort().values
    for name, other in weights.items():
        writes, reads = layers[_layer(name)]
        chosen = other[kept[writes]] if writes else other
        into = own[name][: len(chosen)]
        if reads and name.endswith(".weight"):
            chosen = chosen[:, kept[reads]]
            into[:, chosen.shape[1] :] = 0.0
            into = into[:, : chosen.shape[1]]
        into.copy_(chosen)


def _layer(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _in_block(layer: str) -> bool:
    return layer.endswith((".first", ".second"))


def _begins_silent(layer: str) -> bool:
    """Without a say until trained: residual blocks, and what a reference noise adds."""
    return _in_block(layer) or layer.startswith(("given_", "anchor."))


def _has_streams(name: str) -> bool:
    return _layer(name) in STREAMS or _in_block(_layer(name))


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
