"""The networks, from HU to quality map and dose, as PyTorch modules (extra `train`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from n2q_edge.errors import ModelError
from n2q_edge.network.compact import CompactNet
from n2q_edge.network.redcnn import RedCnn
from n2q_edge.network.unet import UNet
from n2q_edge.spec import REFERENCE_INPUT, ModelSpec

NETWORKS: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "redcnn": RedCnn, "compact": CompactNet}


def build(spec: ModelSpec) -> nn.Module:
    """Make the network of a spec, with fresh weights.

    Its forward takes the tensors of `spec.inputs` (`hu` float32 [N,1,H,W], `reference_noise_hu` float32 [N])
    and returns a tuple in the order of `spec.outputs`.

    Raises:
        ModelError: unknown class or arguments, or a class that does not take the inputs.
    """
    arguments: dict[str, Any] = dict(spec.network)
    name = arguments.pop("class", None)
    if name not in NETWORKS:
        raise ModelError(f"model {spec.name!r}: network class {name!r} is not one of {sorted(NETWORKS)}")
    if spec.takes_reference and name != "compact":
        raise ModelError(f"model {spec.name!r}: networks of class {name!r} take no {REFERENCE_INPUT}")
    try:
        return NETWORKS[name](spec, **arguments)
    except TypeError as error:
        raise ModelError(f"model {spec.name!r}: network arguments do not fit {name!r}: {error}") from None
