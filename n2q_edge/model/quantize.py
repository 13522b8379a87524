"""Post-training INT8: an ONNX file with QuantizeLinear/DequantizeLinear pairs, calibrated on given slices.

Weights per output channel, activations per tensor, both symmetric, as TensorRT wants them; biases stay
float32 (its parser refuses an int32 bias). Only convolutions are quantized, and not those at the network's
finest resolution: they carry the noise that is to be measured.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from n2q_edge.arrays import FloatArray, round_up
from n2q_edge.errors import ModelError, UsageError, require
from n2q_edge.runtimes.checks import feeds
from n2q_edge.runtimes.libraries import first_line, import_onnxruntime
from n2q_edge.spec import HU_MIN, SPEC_KEY, ModelSpec

CALIBRATION_SLICES = 16


def calibration_slices(paths: Sequence[Path], multiple: int) -> list[FloatArray]:
    """Slices spread evenly over the CT series found under `paths`.

    Args:
        paths: DICOM files, folders or zip archives.
        multiple: H and W are cropped to multiples of it.

    Returns:
        Up to `CALIBRATION_SLICES` arrays, float32 [1,1,H,W], HU.

    Raises:
        UsageError: no CT slice could be read there.
    """
    from n2q_edge.dicom import LoadedSlice, SliceReader, scan

    refs = [ref for series in scan(paths).series for ref in series.slices]
    chosen = {int(place) for place in np.linspace(0, len(refs) - 1, CALIBRATION_SLICES)} if refs else set()
    slices = []
    with SliceReader() as reader:
        for loaded in (reader.load(refs[place]) for place in sorted(chosen)):
            if isinstance(loaded, LoadedSlice) and min(loaded.hu.shape) >= multiple:
                height, width = (side - side % multiple for side in loaded.hu.shape)
                slices.append(np.ascontiguousarray(loaded.hu[None, None, :height, :width]))
    if not slices:
        raise UsageError(f"no CT slice to calibrate on in {', '.join(map(str, paths))}")
    return slices


def quantize(data: bytes, spec: ModelSpec, slices: Sequence[FloatArray]) -> bytes:
    """A float32 ONNX file as an INT8 one.

    Args:
        data: the float32 ONNX file.
        spec: goes into the new file.
        slices: to calibrate the activations' ranges on, each float32 [1,1,H,W] in HU.

    Raises:
        MissingDependencyError: onnx or onnxruntime is not installed.
        ModelError: there is nothing to quantize, or it cannot be done.
    """
    onnx: Any = require("onnx", "train")
    import_onnxruntime()
    from onnxruntime import quantization

    model = onnx.load_model_from_string(data)
    fine = _finest_convolutions(onnx, data, spec)
    if len(fine) == sum(node.op_type == "Conv" for node in model.graph.node):
        raise ModelError(f"model {spec.name!r} has no convolution below its finest resolution to quantize")
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        try:
            quantization.quantize_static(
                model,
                out,
                _reader(quantization, slices, spec),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=fine,
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
        except Exception as error:  # its errors share no base class
            raise ModelError(f"model {spec.name!r} cannot be quantized: {first_line(error)}") from None
        quantized = onnx.load(out)
    del quantized.metadata_props[:]
    onnx.helper.set_model_props(quantized, {SPEC_KEY: spec.to_json()})
    onnx.checker.check_model(quantized, full_check=True)
    serialized: bytes = quantized.SerializeToString(deterministic=True)
    return serialized


def _reader(quantization: Any, slices: Sequence[FloatArray], spec: ModelSpec) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._slices = iter(slices)

        def get_next(self) -> dict[str, FloatArray] | None:
            hu = next(self._slices, None)
            return None if hu is None else feeds(hu, None, spec)

    return Reader()


def _finest_convolutions(onnx: Any, data: bytes, spec: ModelSpec) -> list[str]:
    """Names of the convolutions whose output has the most pixels of all, found by running the model once."""
    library = import_onnxruntime()
    model = onnx.load_model_from_string(data)
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    outputs = [node.output[0] for node in nodes]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = library.SessionOptions()
    options.log_severity_level = 3
    session = library.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    side = round_up(128, spec.size_multiple)
    air = np.full((1, 1, side, side), HU_MIN, dtype=np.float32)
    widths = [array.shape[-1] for array in session.run(outputs, feeds(air, None, spec))]
    return [node.name for node, width in zip(nodes, widths, strict=True) if width == max(widths)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
