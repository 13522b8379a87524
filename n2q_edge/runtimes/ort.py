"""ONNX Runtime on the CPU; `ort_cuda` and `ort_tensorrt` open the same session on its GPU providers."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.errors import ModelError
from n2q_edge.install import install_command
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
from n2q_edge.runtimes.libraries import first_line, import_onnxruntime
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.spec import ModelSpec

NAME = "onnxruntime"
EXTRA = "cpu"
SUFFIXES = (".onnx",)
CPU_PROVIDER = "CPUExecutionProvider"
MAX_CONCURRENCY = 8  # each inference has its own memory
TOGETHER_S = 0.3  # callers within this time share the cores
DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}


def is_available() -> bool:
    """ONNX Runtime is installed."""
    return find_spec("onnxruntime") is not None


def version() -> str:
    """Version of the installed ONNX Runtime."""
    return str(import_onnxruntime().__version__)


def open(model: ModelFile, threads: int, choice: Choice) -> OnnxRuntimeModel:
    """Open an ONNX file on the CPU.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        ModelError: not ONNX, no spec, or a signature that is not the spec's.
    """
    return OnnxRuntimeModel(import_onnxruntime(EXTRA), NAME, model, threads, choice, CPU_PROVIDER)


def has_provider(provider: str) -> bool:
    """The installed ONNX Runtime was built with `provider` (which does not say that a GPU is there)."""
    return is_available() and provider in import_onnxruntime().get_available_providers()


def open_on_gpu(name: str, model: ModelFile, threads: int, choice: Choice, provider: str) -> OnnxRuntimeModel:
    """Open an ONNX file on a GPU provider, or fail: never on the CPU instead.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        ModelError: this ONNX Runtime has no such provider, or the provider did not start (no GPU, a driver or
            CUDA library missing).
    """
    library = import_onnxruntime("ort-gpu")
    if provider not in library.get_available_providers():
        raise ModelError(
            f"runtime {name!r}: the installed onnxruntime {library.__version__} has no {provider}: "
            f"pip uninstall onnxruntime, then {install_command('ort-gpu')}"
        )
    return OnnxRuntimeModel(library, name, model, threads, choice, provider)


class OnnxRuntimeModel(Closing):
    """A model in an ONNX Runtime session."""

    def __init__(
        self,
        library: ModuleType,
        name: str,
        model: ModelFile,
        threads: int,
        choice: Choice,
        provider: str,
        devices: Sequence[Any] = (),  # of a plugin provider
    ) -> None:
        self._library = library
        self._on_host = provider == CPU_PROVIDER or bool(devices)  # a plugin copies by itself
        self._provider = provider
        self._session: Any = _start(library, name, model, threads, provider, devices)
        # What runs when several slices are in: one thread each. Its results are the same to the last bit.
        self._single: Any = self._session
        self._threads, self._lock = threads, threading.Lock()
        self._callers: dict[int, float] = {}  # when each thread last called, by `time.monotonic`
        if self.concurrency > 1:
            self._single = _start(library, name, model, 1, provider)
        self._spec = ModelSpec.from_metadata(
            self._session.get_modelmeta().custom_metadata_map, str(model.path)
        )
        check_signature(
            self._spec,
            [_port(node) for node in self._session.get_inputs()],
            [_port(node) for node in self._session.get_outputs()],
            str(model.path),
        )
        self._description = description(
            model,
            choice,
            name=name,
            version=str(library.__version__),
            device=_device(provider),
            provider=provider,
            threads=threads,
        )

    @property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        return self._spec

    @property
    def concurrency(self) -> int:
        """On the CPU a slice a thread: the layers of one slice keep several threads badly busy.

        2 cores, N2Q-small, 512x512: 21 ms a slice with both on one slice, 18 ms with a slice each.
        """
        return min(self._threads, MAX_CONCURRENCY) if self._provider == CPU_PROVIDER else 1

    def describe(self) -> dict[str, Any]:
        """Name, version, provider, device and threads."""
        return dict(self._description)

    def infer(self, hu: FloatArray, reference_noise_hu: FloatArray | None = None) -> Inference:
        """Run the model on HU [N,1,H,W]; see `Runtime.infer`."""
        if self._session is None:
            raise ModelError(f"runtime {self._description['name']!r} is closed")
        start = time.perf_counter_ns()
        inputs = feeds(hu, reference_noise_hu, self._spec)
        try:
            if self._on_host:
                outputs, timing = self._run_on_host(inputs)
            else:
                outputs, timing = self._run_on_device(inputs, _device(self._provider))
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise ModelError(f"onnxruntime failed on a {list(hu.shape)} input: {first_line(error)}") from None
        return inference(
            dict(zip(self._spec.outputs, outputs, strict=True)),
            inputs[INPUT_NAME],
            self._spec,
            InferTiming(total=_ms_since(start), **timing),
        )

    def _run_on_host(self, inputs: dict[str, FloatArray]) -> tuple[list[FloatArray], dict[str, float]]:
        start = time.perf_counter_ns()
        outputs = self._session_for_caller().run(list(self._spec.outputs), inputs)
        return outputs, {"compute": _ms_since(start)}

    def _session_for_caller(self) -> Any:
        """All threads for a caller that is alone; one thread each for several that share the cores.

        It is not enough that nobody else is inside `infer` now: whoever was a moment ago decodes a slice, and
        an inference on all cores beside that took 43 ms a slice (JPEG 2000, 2 cores), on one core 31 ms.
        """
        caller, now = threading.get_ident(), time.monotonic()
        with self._lock:
            self._callers = {who: at for who, at in self._callers.items() if now - at < TOGETHER_S}
            self._callers[caller] = now
            return self._session if len(self._callers) == 1 else self._single

    def _run_on_device(
        self, inputs: dict[str, FloatArray], device: str
    ) -> tuple[list[FloatArray], dict[str, float]]:
        """Copy, compute, copy back as three steps, so that each can be timed."""
        start = time.perf_counter_ns()
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, self._library.OrtValue.ortvalue_from_numpy(array, device, 0))
        for name in self._spec.outputs:
            binding.bind_output(name, device)
        binding.synchronize_inputs()
        h2d = _ms_since(start)
        start = time.perf_counter_ns()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        compute = _ms_since(start)
        start = time.perf_counter_ns()
        outputs = [np.array(array) for array in binding.copy_outputs_to_cpu()]
        return outputs, {"h2d": h2d, "compute": compute, "d2h": _ms_since(start)}

    def close(self) -> None:
        """Free the sessions."""
        self._session = self._single = None


def _start(
    library: ModuleType,
    name: str,
    model: ModelFile,
    threads: int,
    provider: str,
    devices: Sequence[Any] = (),
) -> Any:
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # its warnings go to stderr and tell a user nothing; errors are raised
    # Threads that spin between two slices take the cores from the decoders and gain nothing measurable
    # (2 cores, small net: 20.6 ms with, 19.8 ms without).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if devices:
        options.add_provider_for_devices(devices, {})
    providers = None if devices else [provider]
    try:
        # It prints its troubles; stdout is for results.
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session = library.InferenceSession(model.data, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ModelError(
            f"{model.path}: {name} cannot open it ({first_line(error)}): is it a whole ONNX file?"
        ) from None
    session.disable_fallback()
    if provider not in session.get_providers():  # it falls back to the CPU and says so only on stderr
        raise ModelError(
            f"runtime {name!r}: {provider} did not start, onnxruntime would fall back to the CPU: "
            "check the GPU, its driver and the CUDA libraries with 'n2q-edge doctor'"
        )
    return session


def _port(node: Any) -> Port:
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return Port(node.name, DTYPES.get(node.type, node.type), shape)


def _device(provider: str) -> str:
    return "cpu" if provider == CPU_PROVIDER else "cuda"


def _ms_since(start: int) -> float:
    return (time.perf_counter_ns() - start) / 1e6
