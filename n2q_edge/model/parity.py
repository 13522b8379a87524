"""The parity gate: an ONNX file computes what PyTorch computes, on every part of the HU range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.errors import ParityError
from n2q_edge.runtimes import ort
from n2q_edge.runtimes.checks import Choice, feeds
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.runtimes.threads import physical_cores
from n2q_edge.spec import ModelSpec

if TYPE_CHECKING:
    from torch.nn import Module

    from n2q_edge.model.recipe import ExportSettings

RELATIVE_TOLERANCE = 1e-3  # of the outputs beside the quality map, relative to their largest magnitude
LOWER_RELATIVE_TOLERANCES = {"fp16": 2e-2, "fp16-norm32": 2e-2, "int8": 0.1}
PARITY_SHAPES = ((1, 512, 512), (2, 320, 448))  # N, H, W before rounding up to the size multiple


@dataclass(frozen=True)
class Parity:
    """How far the ONNX file is from PyTorch on one batch.

    Attributes:
        shape: of the input, [N,1,H,W].
        max_difference: of the quality map, SSIM.
        mean_difference: mean absolute difference of the quality map, SSIM.
        relative_difference: largest difference of each other output over its largest magnitude.
        same_dose: every slice has the same most probable dose level; None without a dose head.
        reference_noise_hu: that the models were told, one value a slice; None where they were told nothing.
    """

    shape: tuple[int, ...]
    max_difference: float
    mean_difference: float
    relative_difference: dict[str, float]
    same_dose: bool | None
    reference_noise_hu: tuple[float, ...] | None = None


def told(parity: Parity) -> str:
    """What the models were told of a batch, for a sentence."""
    if parity.reference_noise_hu is None:
        return ""
    return f" with a reference of {', '.join(f'{hu:g}' for hu in parity.reference_noise_hu)} HU"


def compare(exported: ModelFile, network: Module, spec: ModelSpec) -> list[Parity]:
    """Run an ONNX file and the network it came from on made-up slices, with and without a reference noise."""
    choice = Choice("export", "the parity gate")
    with ort.open(exported, physical_cores(), choice) as model:
        return [
            _compare_batch(model, network, spec, hu, reference)
            for hu in parity_slices(spec.size_multiple)
            for reference in _references(len(hu), spec)
        ]


def _references(count: int, spec: ModelSpec) -> list[FloatArray | None]:
    """What the models are told of a batch of `parity_slices`: nothing, and a noise below each slice's own."""
    if not spec.takes_reference:
        return [None]
    return [None, np.float32(6.0) * np.float32(1.5) ** np.arange(count, dtype=np.float32)]


def _compare_batch(
    model: ort.OnnxRuntimeModel,
    network: Module,
    spec: ModelSpec,
    hu: FloatArray,
    reference: FloatArray | None,
) -> Parity:
    import torch

    with torch.inference_mode():
        tensors = network(*(torch.from_numpy(array) for array in feeds(hu, reference, spec).values()))
    expected = {name: tensor.numpy() for name, tensor in zip(spec.outputs, tensors, strict=True)}
    result = model.infer(hu, reference)
    actual = {name: getattr(result, name) for name in spec.outputs}
    difference = np.abs(actual["quality_map"] - expected["quality_map"])
    return Parity(
        shape=hu.shape,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        relative_difference={
            name: float(np.abs(actual[name] - expected[name]).max() / np.abs(expected[name]).max())
            for name in spec.outputs[1:]
        },
        same_dose=_same_dose(actual, expected) if spec.predicted_doses else None,
        reference_noise_hu=None if reference is None else tuple(map(float, reference)),
    )


def _same_dose(actual: Mapping[str, FloatArray], expected: Mapping[str, FloatArray]) -> bool:
    levels = [outputs["dose_probabilities"].argmax(axis=1) for outputs in (actual, expected)]
    return bool((levels[0] == levels[1]).all())


def hold(parity: Parity, tolerances: ExportSettings, out: Path, precision: str = "fp32") -> None:
    """Refuse an export of which a batch differs by more than is tolerated.

    Raises:
        ParityError: it does.
    """
    # Every comparison is written so that a NaN fails.
    failures = []
    if not parity.max_difference <= tolerances.max_map_difference:
        failures.append(f"max {parity.max_difference:.2e} > {tolerances.max_map_difference:.2e} SSIM")
    if not parity.mean_difference <= tolerances.mean_map_difference:
        failures.append(f"mean {parity.mean_difference:.2e} > {tolerances.mean_map_difference:.2e} SSIM")
    relative = LOWER_RELATIVE_TOLERANCES.get(precision, RELATIVE_TOLERANCE)
    for name, difference in parity.relative_difference.items():
        if not difference <= relative:
            failures.append(f"{name} {difference:.2e} > {relative:.2e}")
    if parity.same_dose is False:
        failures.append("another dose level")
    if failures:
        raise ParityError(
            f"{out} was not written: on a {list(parity.shape)} batch{told(parity)} it differs from PyTorch: "
            f"{'; '.join(failures)}"
        )


def parity_slices(multiple: int) -> list[FloatArray]:
    """Batches of made-up CT slices, always the same: float32 [N,1,H,W] in HU, of two sizes.

    An elliptic body of fat and soft tissue with organs, bone and gas in air, each slice with more noise than
    the one before: every part of the HU range, flat regions and edges.
    """
    random = np.random.default_rng(2022)
    batches = []
    for count, height, width in PARITY_SHAPES:
        sides = [-(-side // multiple) * multiple for side in (height, width)]
        batch = [_slice(sides[0], sides[1], 10.0 * 2**index, random) for index in range(count)]
        batches.append(np.stack(batch)[:, None])
    return batches


def _slice(height: int, width: int, noise: float, random: np.random.Generator) -> FloatArray:
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    hu = np.full((height, width), -1000.0)
    shapes = (  # HU, centre x, y, half axes
        (-100, 0.0, 0.0, 0.85, 0.70),  # fat
        (50, 0.0, 0.0, 0.75, 0.60),  # muscle
        (110, -0.35, -0.1, 0.30, 0.35),  # liver
        (30, 0.35, -0.1, 0.15, 0.20),  # kidney
        (900, 0.0, 0.4, 0.12, 0.10),  # bone
        (-950, 0.25, -0.35, 0.10, 0.06),  # gas
    )
    for value, center_x, center_y, half_x, half_y in shapes:
        hu[((x - center_x) / half_x) ** 2 + ((y - center_y) / half_y) ** 2 < 1] = value
    hu += noise * random.standard_normal((height, width))
    return np.clip(np.round(hu), -1024, 3071).astype(np.float32)
