"""OpenVINO on the CPU."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.errors import ModelError
from n2q_edge.runtimes.base import Closing, Inference, InferTiming
from n2q_edge.runtimes.checks import (
    INPUT_NAME,
    Choice,
    Port,
    check_signature,
    description,
    feeds,
    inference,
)
from n2q_edge.runtimes.libraries import first_line, import_openvino
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.spec import SPEC_KEY, ModelSpec

NAME = "openvino"
EXTRA = "cpu"
SUFFIXES = (".onnx",)
DEVICE = "CPU"


def is_available() -> bool:
    """OpenVINO is installed."""
    return find_spec("openvino") is not None


def version() -> str:
    """Version of the installed OpenVINO."""
    return str(import_openvino().__version__).partition("-")[0]


def open(model: ModelFile, threads: int, choice: Choice) -> OpenVinoModel:
    """Open an ONNX file on the CPU.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        ModelError: not ONNX, no spec, or a signature that is not the spec's.
    """
    return OpenVinoModel(model, threads, choice)


class OpenVinoModel(Closing):
    """A model compiled by OpenVINO."""

    def __init__(self, model: ModelFile, threads: int, choice: Choice) -> None:
        core = import_openvino().Core()
        source = str(model.path)
        try:
            graph = core.read_model(model.data)
        except Exception as error:
            raise ModelError(
                f"{source}: openvino cannot open it ({first_line(error)}): is it a whole ONNX file?"
            ) from None
        self._spec = ModelSpec.from_metadata(_metadata(graph), source)
        check_signature(
            self._spec,
            [_port(node) for node in graph.inputs],
            [_port(node) for node in graph.outputs],
            source,
        )
        try:
            compiled = core.compile_model(graph, DEVICE, _options(threads))
        except Exception as error:
            raise ModelError(f"{source}: openvino cannot compile it: {first_line(error)}") from None
        self._request: Any = compiled.create_infer_request()
        self._description = description(
            model,
            choice,
            name=NAME,
            version=version(),
            device="cpu",
            provider=DEVICE,
            threads=threads,
        )

    @property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        return self._spec

    @property
    def concurrency(self) -> int:
        """One inference takes all threads."""
        return 1

    def describe(self) -> dict[str, Any]:
        """Name, version, provider, device and threads."""
        return dict(self._description)

    def infer(self, hu: FloatArray, reference_noise_hu: FloatArray | None = None) -> Inference:
        """Run the model on HU [N,1,H,W]; see `Runtime.infer`."""
        if self._request is None:
            raise ModelError(f"runtime {NAME!r} is closed")
        start = time.perf_counter_ns()
        inputs = feeds(hu, reference_noise_hu, self._spec)
        compute_start = time.perf_counter_ns()
        try:
            self._request.infer(list(inputs.values()), share_inputs=True)
        except Exception as error:
            raise ModelError(f"openvino failed on a {list(hu.shape)} input: {first_line(error)}") from None
        compute = (time.perf_counter_ns() - compute_start) / 1e6
        # Copies: the request writes its next results into the same buffers.
        outputs = {
            name: np.array(self._request.get_output_tensor(index).data)
            for index, name in enumerate(self._spec.outputs)
        }
        total = (time.perf_counter_ns() - start) / 1e6
        return inference(outputs, inputs[INPUT_NAME], self._spec, InferTiming(total=total, compute=compute))

    def close(self) -> None:
        """Free the compiled model."""
        self._request = None


def _options(threads: int) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Its default is bfloat16 or float16 where the CPU has them: on a CPU with AVX-512 BF16 that moved a
        # U-Net's quality map by up to 0.09 SSIM. A float32 model computes in float32 everywhere.
        "INFERENCE_PRECISION_HINT": "f32",
    }


def _metadata(graph: Any) -> dict[str, str]:
    """The ONNX file's metadata_props, which OpenVINO keeps under "framework"."""
    if not graph.has_rt_info(["framework", SPEC_KEY]):
        return {}
    return {SPEC_KEY: str(graph.get_rt_info(["framework", SPEC_KEY]).value)}


def _port(node: Any) -> Port:
    shape = tuple(None if size.is_dynamic else size.get_length() for size in node.get_partial_shape())
    return Port(node.get_any_name(), np.dtype(node.get_element_type().to_dtype()).name, shape)
