"""Where networks are trained and evaluated."""

from __future__ import annotations

import torch

from n2q_edge.errors import UsageError


def pick_device(name: str) -> torch.device:
    """The device of `auto`, `cpu` or `cuda`.

    Raises:
        UsageError: another name, or no such device here.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name}: use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
