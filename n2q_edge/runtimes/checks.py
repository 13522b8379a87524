"""What every runtime checks and does the same way: the model's signature, the input, the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.errors import ModelError
from n2q_edge.runtimes.base import Inference, InferTiming
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.spec import HU_INPUT, HU_MAX, HU_MIN, REFERENCE_INPUT, ModelSpec

INPUT_NAME = HU_INPUT
INPUT_PORTS = {HU_INPUT: (None, 1, None, None), REFERENCE_INPUT: (None,)}
MAX_REFERENCE_HU = 1000.0
ROUNDING = 1e-3  # how far beyond [0, 1] an arithmetic error may take an output; more is another quantity


@dataclass(frozen=True)
class Choice:
    """Who chose the runtime (`user` or `auto`), and why."""

    by: str
    because: str


@dataclass(frozen=True)
class Port:
    """One input or output of a graph: a dimension that may vary is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def check_signature(spec: ModelSpec, inputs: Sequence[Port], outputs: Sequence[Port], source: str) -> None:
    """Hold a graph's inputs and outputs against its spec.

    Raises:
        ModelError: a name, type or shape differs, or N, H or W is fixed.
    """
    wanted_inputs = [Port(name, "float32", INPUT_PORTS[name]) for name in spec.inputs]
    if list(inputs) != wanted_inputs:
        raise ModelError(
            f"{source}: its inputs are {_describe(inputs)}, expected {_describe(wanted_inputs)} "
            "(? may vary): export it again with 'n2q-edge export'"
        )
    names = [port.name for port in outputs]
    if names != list(spec.outputs):
        raise ModelError(
            f"{source}: its outputs are {names}, its spec says {list(spec.outputs)}: export it again"
        )
    for port in outputs:
        wanted = (len(spec.dose_levels),) if port.name == "dose_probabilities" else (1, None, None)
        if port.dtype != "float32" or not _fits(port.shape, (None, *wanted)):
            expected = Port(port.name, "float32", (None, *wanted))
            raise ModelError(f"{source}: output {_describe([port])} should be {_describe([expected])}")


def _fits(shape: tuple[int | None, ...], wanted: tuple[int | None, ...]) -> bool:
    """A dimension the library could not infer (None) fits anything."""
    return len(shape) == len(wanted) and all(
        have is None or want is None or have == want for have, want in zip(shape, wanted, strict=True)
    )


def _describe(ports: Sequence[Port]) -> str:
    def one(port: Port) -> str:
        dims = ",".join("?" if dim is None else str(dim) for dim in port.shape)
        return f"{port.name} {port.dtype}[{dims}]"

    return ", ".join(one(port) for port in ports) or "none"


def check_input(hu: FloatArray, spec: ModelSpec) -> FloatArray:
    """`hu` as a C-contiguous array, if it is what a model takes.

    Raises:
        ModelError: not float32 [N,1,H,W], H or W no multiple of `spec.size_multiple`, or a value that is not
            in [-1024, 3071] HU (NaN is not).
    """
    if not isinstance(hu, np.ndarray) or hu.dtype != np.float32 or hu.ndim != 4 or hu.shape[1] != 1:
        have = f"{hu.dtype} {list(hu.shape)}" if isinstance(hu, np.ndarray) else type(hu).__name__
        raise ModelError(f"the model takes a float32 [N,1,H,W] array, got {have}")
    multiple = spec.size_multiple
    if 0 in hu.shape or hu.shape[2] % multiple or hu.shape[3] % multiple:
        raise ModelError(f"the model takes N > 0 and H, W multiples of {multiple}, got {list(hu.shape)}")
    if not (hu.min() >= HU_MIN and hu.max() <= HU_MAX):  # false for NaN, too
        raise ModelError(f"the model takes HU in [{HU_MIN:.0f}, {HU_MAX:.0f}]: clip the slice first")
    return np.ascontiguousarray(hu)


def check_reference(reference_noise_hu: FloatArray | None, count: int, spec: ModelSpec) -> FloatArray | None:
    """The second input of a batch of `count` slices: float32 [N], zeros where nobody gives any.

    Returns:
        None for a model that has no such input.

    Raises:
        ModelError: not [N], a value that is not in [0, 1000] HU, or a model that cannot be told.
    """
    if reference_noise_hu is None:
        return np.zeros(count, dtype=np.float32) if spec.takes_reference else None
    reference = np.asarray(reference_noise_hu, dtype=np.float32)
    if reference.shape != (count,):
        raise ModelError(f"reference_noise_hu has one value a slice, [{count}], got {list(reference.shape)}")
    if not (reference.min() >= 0 and reference.max() <= MAX_REFERENCE_HU):  # false for NaN, too
        raise ModelError(f"reference_noise_hu lies in [0, {MAX_REFERENCE_HU:.0f}] HU, 0 for unknown")
    if spec.takes_reference:
        return np.ascontiguousarray(reference)
    if reference.any():
        raise ModelError(f"model {spec.name!r} takes no reference noise: give none, or use one that does")
    return None


def feeds(hu: FloatArray, reference_noise_hu: FloatArray | None, spec: ModelSpec) -> dict[str, FloatArray]:
    """The inputs of a model by name, in the spec's order, checked.

    Raises:
        ModelError: see `check_input` and `check_reference`.
    """
    checked = {HU_INPUT: check_input(hu, spec)}
    reference = check_reference(reference_noise_hu, len(hu), spec)
    if reference is not None:
        checked[REFERENCE_INPUT] = reference
    return checked


def output_shape(name: str, hu_shape: tuple[int, ...], spec: ModelSpec) -> tuple[int, ...]:
    """The shape of an output for an input [N,1,H,W]."""
    count, _, height, width = hu_shape
    if name == "dose_probabilities":
        return count, len(spec.dose_levels)
    cell = 1 if name == "quality_map" else spec.map_cell
    return count, 1, height // cell, width // cell


def inference(
    arrays: Mapping[str, FloatArray], hu: FloatArray, spec: ModelSpec, timing: InferTiming
) -> Inference:
    """Outputs as an `Inference`, if they are what the spec promises. `arrays` may be changed in place.

    NaN passes: whoever scores a slice gives that its own reason code.

    Raises:
        ModelError: a shape or type is wrong, or a value is no SSIM or no probability.
    """
    for name, array in arrays.items():
        shape = output_shape(name, hu.shape, spec)
        if array.dtype != np.float32 or array.shape != shape:
            raise ModelError(
                f"model {spec.name!r}: {name} is {array.dtype} {list(array.shape)}, "
                f"expected float32 {list(shape)}"
            )
    quality_map, dose = arrays["quality_map"], arrays.get("dose_probabilities")
    if quality_map.min() < -ROUNDING or quality_map.max() > 1 + ROUNDING:
        raise ModelError(
            f"model {spec.name!r}: the quality map lies in "
            f"[{quality_map.min():.3g}, {quality_map.max():.3g}], not in [0, 1]"
        )
    if dose is not None and (dose.min() < -ROUNDING or np.abs(dose.sum(axis=1) - 1).max() > ROUNDING):
        raise ModelError(f"model {spec.name!r}: the dose output holds no probabilities")
    np.clip(quality_map, 0, 1, out=quality_map)
    return Inference(
        quality_map=quality_map,
        dose_probabilities=dose,
        timing=timing,
        noise_map=arrays.get("noise_map"),
        log_variance=arrays.get("log_variance"),
    )


def description(model: ModelFile, choice: Choice, **facts: Any) -> dict[str, Any]:
    """What `describe()` returns: the runtime's own facts, the model file, and who chose the runtime."""
    return {
        **facts,
        "model_path": str(model.path),
        "model_sha256": model.sha256,
        "chosen_by": choice.by,
        "chosen_because": choice.because,
    }
