"""What a system says of a case, and how a PyTorch network is made to say it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from n2q_edge.arrays import FloatArray
from n2q_edge.evaluation.cases import Box, Case, Scan
from n2q_edge.spec import HU_MIN

AIR_QUALITY = 1.0  # of pixels that a network was not run on: far from the body, clipped by the window


@dataclass(frozen=True)
class Prediction:
    """What a system says of one scan.

    Attributes:
        quality: float32 [H,W], SSIM units.
        probabilities: of each dose level [K], None from a system that does not tell the dose.
    """

    quality: FloatArray
    probabilities: NDArray[np.float32] | None = None


Predictor = Callable[[Scan], Prediction]


@dataclass(frozen=True)
class Answer:
    """What a system says of a case: of the native slice, and its map [256,256] of the reduced one."""

    native: Prediction
    reduced: FloatArray


Answerer = Callable[[Case], Answer]


def answer_with(predict: Predictor) -> Answerer:
    """Ask the same predictor at both sizes."""
    return lambda case: Answer(predict(case.scan), predict(case.reduced).quality)


def torch_predictor(
    network: torch.nn.Module,
    device: torch.device,
    outputs: Sequence[str] = ("quality_map", "dose_probabilities"),
    size_multiple: int = 1,
) -> Predictor:
    """Predict with a PyTorch network, one slice at a time.

    A network whose output depends on a finite neighbourhood says so with an attribute `reach` (pixels, None
    if it is not finite); it is then run only on what is wanted and as much around it.

    Args:
        network: its forward takes HU [N,1,H,W] and returns a tuple.
        device: where it is.
        outputs: names of what it returns (`spec.outputs`).
        size_multiple: the sides of its input must be multiples of this (`spec.size_multiple`).
    """
    reach: int | None = getattr(network, "reach", None)

    @torch.no_grad()
    def predict(scan: Scan) -> Prediction:
        box = (slice(0, scan.hu.shape[0]), slice(0, scan.hu.shape[1]))
        if reach is not None:
            box = _grown(scan.wanted, reach, scan.hu.shape)
        part = scan.hu[box]
        height, width = part.shape
        padding = ((0, -height % size_multiple), (0, -width % size_multiple))
        hu = np.pad(part, padding, constant_values=HU_MIN)
        found = dict(zip(outputs, network(torch.from_numpy(hu)[None, None].to(device)), strict=False))
        quality = np.full(scan.hu.shape, AIR_QUALITY, dtype=np.float32)
        quality[box] = found["quality_map"][0, 0, :height, :width].float().cpu().numpy()
        probabilities = found.get("dose_probabilities")
        return Prediction(quality, None if probabilities is None else probabilities[0].float().cpu().numpy())

    return predict


def _grown(box: Box, margin: int, shape: tuple[int, ...]) -> Box:
    rows, columns = (
        slice(max(0, side.start - margin), min(size, side.stop + margin))
        for side, size in zip(box, shape, strict=True)
    )
    return rows, columns
