"""Weights saved by the authors' notebook: the same state-dict names, no spec."""

from __future__ import annotations

import torch
from torch import Tensor

from n2q_edge.errors import ModelError
from n2q_edge.network import build
from n2q_edge.spec import DOSE_LEVELS, ModelSpec

FIRST_CONV = "dconv_down1.0.weight"


def convert(state_dict: dict[str, Tensor]) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Give the authors' weights a spec.

    The first convolution tells the inputs: one channel is the notebook's slice alone (U-SSL), two are the
    slice and its high-pass (N2Q).

    Raises:
        ModelError: names or shapes are not those of the authors' U-Net.
    """
    first = state_dict.get(FIRST_CONV)
    if not isinstance(first, Tensor) or first.ndim != 4 or first.shape[1] not in (1, 2):
        raise ModelError(
            f"not the authors' network: {FIRST_CONV!r} is missing or takes neither 1 nor 2 channels"
        )
    inputs = ["slice"] if first.shape[1] == 1 else ["slice", "high_pass"]
    spec = ModelSpec(
        name="u-ssl" if len(inputs) == 1 else "n2q",
        version="authors",
        network={"class": "unet", "inputs": inputs, "width": int(first.shape[0])},
        dose_levels=DOSE_LEVELS,
        training={"source": "weights in the layout of the authors' notebook"},
    )
    with torch.device("meta"):
        network = build(spec)
    try:
        network.load_state_dict(state_dict, assign=True)
    except RuntimeError as error:
        raise ModelError(f"not the authors' network: {' '.join(str(error).split())[:200]}") from None
    return spec, state_dict
