"""PyTorch on the CPU: the reference the other runtimes are held against. Opens checkpoints, not ONNX."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.errors import ModelError, require
from n2q_edge.model import checkpoint
from n2q_edge.runtimes.base import Closing, Inference, InferTiming
from n2q_edge.runtimes.checks import INPUT_NAME, Choice, description, feeds, inference
from n2q_edge.runtimes.libraries import first_line
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.spec import ModelSpec

NAME = "torch"
EXTRA = "train"
SUFFIXES = checkpoint.SUFFIXES


def is_available() -> bool:
    """PyTorch is installed."""
    return find_spec("torch") is not None


def version() -> str:
    """Version of the installed PyTorch."""
    return str(require("torch", EXTRA).__version__)


def open(model: ModelFile, threads: int, choice: Choice) -> TorchModel:
    """Open a checkpoint on the CPU.

    Raises:
        MissingDependencyError: PyTorch is not installed.
        ModelError: not a checkpoint, no spec, or weights that do not fit the network.
    """
    spec, network = checkpoint.load_network(model.path, model.data)
    return TorchModel(spec, network, model, threads, choice)


class TorchModel(Closing):
    """A network with its weights."""

    def __init__(self, spec: ModelSpec, network: Any, model: ModelFile, threads: int, choice: Choice) -> None:
        self._torch: Any = require("torch", EXTRA)
        self._torch.set_num_threads(threads)
        self._spec = spec
        self._network: Any = network.eval()
        self._description = description(
            model,
            choice,
            name=NAME,
            version=str(self._torch.__version__),
            device="cpu",
            provider="eager",
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
        if self._network is None:
            raise ModelError(f"runtime {NAME!r} is closed")
        start = time.perf_counter_ns()
        inputs = feeds(hu, reference_noise_hu, self._spec)
        compute_start = time.perf_counter_ns()
        try:
            with self._torch.inference_mode():
                outputs = self._network(*(self._torch.tensor(array) for array in inputs.values()))
        except RuntimeError as error:
            raise ModelError(f"torch failed on a {list(hu.shape)} input: {first_line(error)}") from None
        compute = (time.perf_counter_ns() - compute_start) / 1e6
        arrays = {
            name: np.array(output.numpy()) for name, output in zip(self._spec.outputs, outputs, strict=True)
        }
        total = (time.perf_counter_ns() - start) / 1e6
        return inference(arrays, inputs[INPUT_NAME], self._spec, InferTiming(total=total, compute=compute))

    def close(self) -> None:
        """Free the network."""
        self._network = None
