"""A checkpoint as an ONNX file that provably computes the same.

The file is made in memory, checked, and run against PyTorch; it reaches the disk only if it passes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n2q_edge import released_models
from n2q_edge.arrays import FloatArray, round_up
from n2q_edge.errors import ModelError, UsageError, require
from n2q_edge.files import write_file
from n2q_edge.model import checkpoint
from n2q_edge.model.parity import Parity, compare, hold
from n2q_edge.model.quantize import calibration_slices, quantize
from n2q_edge.runtimes.libraries import first_line
from n2q_edge.runtimes.model_file import ModelFile, read_model_file
from n2q_edge.spec import PRECISIONS, SPEC_KEY, ModelSpec

if TYPE_CHECKING:
    from torch.nn import Module

    from n2q_edge.model.recipe import ExportSettings

EXTRA = "train"
OPSET = 18  # the exporter's own; every later one is a conversion of it
# Without a recipe. InstanceNorm over constant air magnifies rounding: N2Q's U-Net, untrained, is 5e-5 off on
# average, the compact net 4e-8.
DEFAULT_TOLERANCES = {"max_map_difference": 5e-3, "mean_map_difference": 1e-4}
# Of the other precisions, without a recipe; figures are in docs/how-to/gpu.md. A bad INT8 is 0.06 and more
# off on average.
LOWER_TOLERANCES = {
    "fp16": {"max_map_difference": 1e-2, "mean_map_difference": 1e-3},
    "fp16-norm32": {"max_map_difference": 1e-2, "mean_map_difference": 1e-3},
    "int8": {"max_map_difference": 0.25, "mean_map_difference": 1e-2},
}
SMALLEST_SIDE = 64  # pixels; what the exporter may assume of H and W


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and the evidence that it computes the same.

    Attributes:
        path: the ONNX file.
        sha256: of the ONNX file.
        size_bytes: of the ONNX file.
        source: the checkpoint it came from; None if it came from memory.
        source_sha256: of the checkpoint.
        spec: the spec it carries.
        opset: ONNX operator set.
        tolerances: of the parity gate.
        parity: one entry a batch.
    """

    path: Path
    sha256: str
    size_bytes: int
    source: Path | None
    source_sha256: str | None
    spec: ModelSpec
    opset: int
    tolerances: ExportSettings
    parity: list[Parity]


def export_model(
    source: Path | None, out: Path, *, precision: str = "fp32", calibrate: Sequence[Path] = ()
) -> ExportReport:
    """Export a model to one ONNX file.

    Args:
        source: a recipe (`.toml`), a checkpoint (`.safetensors`, `.pth`), the name of a
            released model, or None for the default one.
        out: the file to write, `.onnx`.
        precision: one of `PRECISIONS`; see `n2q_edge.model.precision` and `n2q_edge.model.quantize`.
        calibrate: for `int8`: DICOM files or folders of CT series.

    Raises:
        UsageError: `out` is no `.onnx` file name, or its folder does not exist; no such precision; `int8`
            without series to calibrate on.
        MissingDependencyError: torch, onnx, onnxscript or onnxruntime is not installed.
        ModelError: the recipe or the checkpoint is missing or damaged, or its network cannot be exported.
        ParityError: the ONNX file computes something else; it is not written.
        OutputError: the file could not be written.
    """
    _check_output(out)
    if precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if (precision == "int8") != bool(calibrate):
        raise UsageError("int8 needs CT series to calibrate on, --calibrate DIR, and nothing else does")
    file, tolerances = _read_source(source, precision)
    spec, network = checkpoint.load_network(file.path, file.data)
    slices = calibration_slices(calibrate, spec.size_multiple) if calibrate else ()
    return export_network(
        network,
        spec,
        out,
        source=file,
        tolerances=tolerances,
        precision=precision,
        slices=slices,
    )


def export_module(module: Module, spec: ModelSpec, out: Path) -> ExportReport:
    """Export a network of the caller's; see `n2q_edge.export`."""
    _check_output(out)
    return export_network(_checked(module, spec), spec, out)


def _checked(module: Module, spec: ModelSpec) -> Module:
    """The module, giving a tuple of the spec's outputs; tried on one batch."""
    torch: Any = require("torch", EXTRA)

    class Outputs(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, hu: Any, reference_noise_hu: Any = None) -> tuple[Any, ...]:
            found = self.module(hu) if reference_noise_hu is None else self.module(hu, reference_noise_hu)
            return tuple(found) if isinstance(found, (tuple, list)) else (found,)

    network: Module = Outputs()
    network.eval()
    side = round_up(SMALLEST_SIDE, spec.size_multiple)
    hu = torch.full((2, 1, side, side), -1000.0)
    inputs = (hu, torch.zeros(2)) if spec.takes_reference else (hu,)
    try:
        with torch.inference_mode():
            outputs = network(*inputs)
    except Exception as error:  # whatever a foreign network raises
        raise ModelError(f"model {spec.name!r} fails on HU {list(hu.shape)}: {first_line(error)}") from None
    tensors = [one for one in outputs if isinstance(one, torch.Tensor)]
    if len(tensors) != len(outputs) or len(tensors) != len(spec.outputs):
        raise ModelError(
            f"model {spec.name!r} gives {len(tensors)} tensors, its spec names {len(spec.outputs)}: "
            f"{', '.join(spec.outputs)}"
        )
    if outputs[0].shape != hu.shape:
        raise ModelError(
            f"model {spec.name!r}: quality_map is {list(outputs[0].shape)} for HU {list(hu.shape)}: it must "
            "have one value per pixel"
        )
    return network


def export_network(
    network: Module,
    spec: ModelSpec,
    out: Path,
    *,
    source: ModelFile | None = None,
    tolerances: ExportSettings | None = None,
    precision: str = "fp32",
    slices: Sequence[FloatArray] = (),
) -> ExportReport:
    """Export a network in memory; see `export_model`.

    Args:
        network: takes the inputs of `spec`, gives its outputs.
        spec: goes into the file.
        out: the file to write, `.onnx`.
        source: the file its weights came from; None if it never was in one.
        tolerances: of the parity gate; None for the defaults of the precision.
        precision: one of `PRECISIONS`.
        slices: for `int8`: what to calibrate on, each float32 [1,1,H,W] in HU.
    """
    from n2q_edge.model.recipe import ExportSettings

    _check_output(out)
    if spec.precision != "fp32":
        raise ModelError(f"model {spec.name!r} is {spec.precision}: every export starts from fp32 weights")
    tolerances = tolerances or ExportSettings(**LOWER_TOLERANCES.get(precision, DEFAULT_TOLERANCES))
    network.eval()
    spec = replace(spec, precision=precision)
    data = _serialize(network, spec, slices)
    exported = ModelFile(out, data, hashlib.sha256(data).hexdigest())
    parity = compare(exported, network, spec)
    for batch in parity:
        hold(batch, tolerances, out, precision)
    write_file(out, data)
    return ExportReport(
        path=out,
        sha256=exported.sha256,
        size_bytes=len(data),
        source=source.path if source else None,
        source_sha256=source.sha256 if source else None,
        spec=spec,
        opset=OPSET,
        tolerances=tolerances,
        parity=parity,
    )


def _serialize(network: Module, spec: ModelSpec, slices: Sequence[FloatArray]) -> bytes:
    """The network as an ONNX file in the precision of its spec."""
    if spec.precision == "int8":
        return quantize(_to_onnx(network, replace(spec, precision="fp32")), spec, slices)
    require("torch", EXTRA)
    from n2q_edge.model.precision import in_precision

    return _to_onnx(in_precision(network, spec.precision), spec)


def _read_source(source: Path | None, precision: str) -> tuple[ModelFile, ExportSettings | None]:
    """The checkpoint a source stands for, and the recipe's tolerances if it is one and has some."""
    if source is None or str(source) in released_models.names():
        released = released_models.released(None if source is None else str(source))
        return read_model_file(released.checkpoint, released.checkpoint_sha256), None
    if source.suffix.lower() != ".toml":
        return read_model_file(source), None
    if sys.version_info < (3, 11):
        require("tomli", EXTRA)
    from n2q_edge.model.recipe import load_recipe

    recipe = load_recipe(source)
    tolerances = recipe.export if precision == "fp32" else recipe.lower_precision.get(precision)
    return read_model_file(recipe.checkpoint), tolerances


def _check_output(out: Path) -> None:
    if out.suffix.lower() != ".onnx":
        raise UsageError(f"the exported file must be named *.onnx, not {out}")
    if not out.parent.is_dir():  # said now, not after the work
        raise UsageError(f"{out} cannot be written: there is no folder {out.parent}")


def _to_onnx(network: Module, spec: ModelSpec) -> bytes:
    """The network as a checked ONNX file with dynamic N, H and W, its weights and its spec inside."""
    torch: Any = require("torch", EXTRA)
    onnx: Any = require("onnx", EXTRA)
    require("onnxscript", EXTRA)
    multiple = spec.size_multiple
    blocks = -(-SMALLEST_SIDE // multiple)
    dimension = torch.export.Dim
    count = dimension("N", min=1)
    dynamic = {
        0: count,
        2: multiple * dimension("h", min=blocks),
        3: multiple * dimension("w", min=blocks),
    }
    # 2, and sides that differ: the exporter takes a size of 1, and sizes that are equal, for constants.
    examples = (torch.zeros(2, 1, (blocks + 1) * multiple, (blocks + 2) * multiple), torch.zeros(2))
    dynamic_shapes = (dynamic, {0: count})
    inputs = len(spec.inputs)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                examples[:inputs],
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                external_data=False,
                input_names=list(spec.inputs),
                output_names=list(spec.outputs),
                dynamic_shapes=dynamic_shapes[:inputs],
            )
            model = program.model_proto
            _strip_build_traces(model)
            onnx.helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
            onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the exporter raises many kinds, some of them private
        raise ModelError(f"model {spec.name!r} cannot be exported to ONNX: {first_line(error)}") from None
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress lines, warnings and log."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _strip_build_traces(model: Any) -> None:
    """Drop the stack traces (paths on the exporting machine) that the exporter attaches to every node."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
