"""TensorRT engines, of `tensorrt` and of `tensorrt_rtx`, on an NVIDIA GPU.

What makes it fast: a static shape, page-locked buffers allocated once, a stream of its own, a warm-up, and
then copy in, compute and copy out captured in one CUDA graph, so that a slice costs one launch. Where CPU and
GPU share memory (Jetson) the buffers are mapped and nothing is copied.

Each thread that calls `infer` gets its own execution context, stream, buffers and graph (a "lane").

Over 350 lines: the checks of a file and the model that runs it share the library's versions.
"""

from __future__ import annotations

import threading
import time
from types import ModuleType
from typing import Any

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.errors import ModelError
from n2q_edge.runtimes import cuda
from n2q_edge.runtimes import tensorrt_library as library
from n2q_edge.runtimes.base import Closing, Inference, InferTiming
from n2q_edge.runtimes.checks import INPUT_NAME, Choice, description, feeds, inference
from n2q_edge.runtimes.cuda import Buffer, Cuda, Device
from n2q_edge.runtimes.engine_header import PlanHeader, read_header, same_version
from n2q_edge.runtimes.libraries import first_line
from n2q_edge.runtimes.model_file import ModelFile
from n2q_edge.runtimes.rtx_cache import RtxCache
from n2q_edge.runtimes.sidecar import Sidecar, check_file, read_sidecar, sidecar_path
from n2q_edge.spec import HU_MIN, ModelSpec

NAME = "tensorrt"
EXTRA = "tensorrt"
SUFFIXES = (".engine",)
WARM_UP_RUNS = 3


def is_available() -> bool:
    """A TensorRT and `cuda-bindings` are installed; says nothing about a GPU."""
    return cuda.is_available() and library.any_installed()


def version() -> str:
    """Versions of the installed TensorRT libraries."""
    return library.installed_versions()


def open(model: ModelFile, threads: int, choice: Choice) -> TensorRTModel:
    """Open an engine on GPU 0. `threads` is of no use here.

    Raises:
        MissingDependencyError: the engine's library or `cuda-bindings` is not installed.
        ModelError: no engine, or one that does not fit its sidecar, the installed library or the GPU; no GPU.
    """
    return open_with(NAME, cuda.open, model, choice)


def open_with(name: str, open_cuda: Any, model: ModelFile, choice: Choice) -> TensorRTModel:
    """`open` with a device access of the caller's choice."""
    sidecar = check_engine(model)
    trt = library.load(library.flavor_named(sidecar.flavor))
    check_version(model, sidecar, library.version(trt))
    access: Cuda = open_cuda()
    try:
        check_device(model, sidecar, access.device)
        return TensorRTModel(name, trt, access, model, sidecar, choice)
    except BaseException:
        access.close()
        raise


def engine_header(model: ModelFile) -> PlanHeader | None:
    """An engine's header; None if its layout is unknown but a sidecar says that it is an engine.

    Raises:
        ModelError: neither header nor sidecar.
    """
    header = read_header(model.data)
    if header is None and not sidecar_path(model.path).exists():
        raise ModelError(
            f"{model.path} is no TensorRT engine (nor has it a sidecar that says so): build one with "
            "'n2q-edge build MODEL.onnx'"
        )
    return header


def check_engine(model: ModelFile) -> Sidecar:
    """Hold an engine against its header and its sidecar; needs neither GPU nor TensorRT.

    Raises:
        ModelError: no engine, no sidecar, or they do not belong together. A header that nobody knows is none
            of these.
    """
    header = engine_header(model)
    sidecar = read_sidecar(model.path)
    check_file(model.path, model.sha256, len(model.data), sidecar)
    # A header of an unknown layout is no reason to refuse what the sidecar vouches for: the library decides.
    if header and not (header.flavor == sidecar.flavor and same_version(header, sidecar.version)):
        raise ModelError(
            f"{model.path} was written by {header}, its sidecar says {sidecar.flavor} {sidecar.version}: "
            f"{_rebuild(model, sidecar)}"
        )
    return sidecar


def check_version(model: ModelFile, sidecar: Sidecar, installed: str) -> None:
    """An engine runs only on the version of the library that built it.

    Raises:
        ModelError: another one is installed.
    """
    if installed != sidecar.version:
        raise ModelError(
            f"{model.path} was built with {sidecar.flavor} {sidecar.version}, installed is {installed}: "
            f"{_rebuild(model, sidecar)}"
        )


def check_device(model: ModelFile, sidecar: Sidecar, device: Device) -> None:
    """An engine runs only on the GPUs it was built for.

    Raises:
        ModelError: the one present is another.
    """
    if device.capability not in sidecar.capabilities:
        raise ModelError(
            f"{model.path} was built for compute capability {', '.join(sidecar.capabilities)}, this GPU "
            f"({device.name}) has {device.capability}: build one for it: n2q-edge build {sidecar.onnx_name} "
            f"--flavor {sidecar.flavor} -o {model.path}"
        )


def _rebuild(model: ModelFile, sidecar: Sidecar) -> str:
    return f"build it again: {sidecar.rebuild_command(model.path)}"


class TensorRTModel(Closing):
    """An engine on the GPU."""

    def __init__(
        self, name: str, trt: ModuleType, access: Cuda, model: ModelFile, sidecar: Sidecar, choice: Choice
    ) -> None:
        self._trt, self._cuda, self._sidecar = trt, access, sidecar
        self._path = model.path
        self._spec = sidecar.spec
        self._log = library.logger(trt)
        self._runtime: Any = trt.Runtime(self._log)  # the engine needs it alive
        self._engine: Any = self._deserialize(model)
        self._check_tensors()
        self._cache = RtxCache(trt, self._engine, model.sha256, access.device)
        self._lanes = threading.local()
        self._all_lanes: list[_Lane] = []
        self._lock = threading.Lock()
        first = self._lane()
        self._cache.save()
        self._description = description(
            model,
            choice,
            name=name,
            version=f"{sidecar.flavor} {sidecar.version}",
            device=access.device.name,
            provider=sidecar.flavor,
            threads=None,
            compute_capability=access.device.capability,
            driver=access.device.driver,
            cuda_access=access.library,
            cuda_graph=first.graph_note,
            mapped_memory=access.device.integrated,
            runtime_cache=self._cache.note,
            precision=self._spec.precision,
            engine_identity=sidecar.identity,
        )

    @property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        return self._spec

    @property
    def concurrency(self) -> int:
        """Two lanes: one is copied while the other computes."""
        return 2

    def describe(self) -> dict[str, Any]:
        """Name, version, device, how it runs."""
        return dict(self._description)

    def infer(self, hu: FloatArray, reference_noise_hu: FloatArray | None = None) -> Inference:
        """Run the model on HU [N,1,H,W]; see `Runtime.infer`. H and W must be those of the engine."""
        if self._engine is None:
            raise ModelError(f"runtime {NAME!r} is closed")
        start = time.perf_counter_ns()
        inputs = feeds(hu, reference_noise_hu, self._spec)
        checked = inputs[INPUT_NAME]
        batch, _, height, width = self._sidecar.shapes[INPUT_NAME]
        if checked.shape[2:] != (height, width):
            raise ModelError(
                f"{self._path} takes slices of {height}x{width}, got {checked.shape[2]}x{checked.shape[3]}: "
                f"build another: n2q-edge build {self._sidecar.onnx_name} --flavor {self._sidecar.flavor} "
                f"--size {checked.shape[2]}x{checked.shape[3]}"
            )
        lane = self._lane()
        parts = [
            lane.run({name: array[first : first + batch] for name, array in inputs.items()})
            for first in range(0, len(checked), batch)
        ]
        arrays = {name: np.concatenate([part[0][name] for part in parts]) for name in self._spec.outputs}
        stages = [sum(stage) for stage in zip(*(part[1] for part in parts), strict=True)]
        if self._cuda.device.integrated:  # nothing was copied
            timing = {"compute": stages[1]}
        else:
            timing = dict(zip(("h2d", "compute", "d2h"), stages, strict=True))
        total = (time.perf_counter_ns() - start) / 1e6
        return inference(arrays, checked, self._spec, InferTiming(total=total, **timing))

    def close(self) -> None:
        """Free the lanes of all threads and the engine. No thread may be inside `infer`."""
        with self._lock:
            if self._engine is None:
                return
            for lane in self._all_lanes:
                lane.close()
            self._all_lanes.clear()
            self._engine = self._runtime = None
            self._cache.close()
            self._cuda.close()

    def _deserialize(self, model: ModelFile) -> Any:
        self._log.errors.clear()
        runtime = self._runtime
        try:
            engine = runtime.deserialize_cuda_engine(model.data)
        except (RuntimeError, TypeError, ValueError) as error:  # pybind11's, instead of None
            self._log.errors.append(first_line(error))
            engine = None
        if engine is None:
            raise ModelError(
                f"{model.path}: {self._sidecar.flavor} cannot load it ({_last_error(self._log)}): "
                f"{_rebuild(model, self._sidecar)}"
            )
        return engine

    def _check_tensors(self) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        have = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        if have != self._sidecar.shapes or set(have) != {*self._spec.inputs, *self._spec.outputs}:
            raise ModelError(
                f"{self._path}: its tensors are {have}, its sidecar says {self._sidecar.shapes}: build it "
                f"again: {self._sidecar.rebuild_command(self._path)}"
            )

    def _lane(self) -> _Lane:
        """This thread's lane; the first call of a thread makes it and warms it up."""
        lane: _Lane | None = getattr(self._lanes, "lane", None)
        if lane is None:
            with self._lock:  # contexts of one engine are made one at a time
                self._cuda.activate()
                lane = _Lane(self._trt, self._cuda, self._engine, self._cache, self._sidecar, self._log)
                self._all_lanes.append(lane)
            self._lanes.lane = lane
        return lane


class _Lane:
    """What one thread needs to run an engine."""

    def __init__(
        self, trt: ModuleType, access: Cuda, engine: Any, cache: RtxCache, sidecar: Sidecar, log: Any
    ) -> None:
        self._cuda, self._log = access, log
        self._context: Any = cache.new_context()
        if self._context is None:
            raise ModelError(f"TensorRT cannot run the engine: {_last_error(log)} (out of GPU memory?)")
        self._stream = access.new_stream()
        self._events: list[Any] = []
        self._buffers: dict[str, Buffer] = {}
        self._graph: Any = None
        try:
            self._allocate(trt, engine, sidecar)
            self.graph_note = self._warm_up()
        except BaseException:
            self.close()
            raise

    def _allocate(self, trt: ModuleType, engine: Any, sidecar: Sidecar) -> None:
        context, access = self._context, self._cuda
        self._events += [access.new_event() for _ in range(4)]
        for name, shape in sidecar.shapes.items():
            dtype = _dtype(trt, engine, name)
            self._buffers[name] = access.new_buffer(shape, dtype, mapped=access.device.integrated)
            context.set_tensor_address(name, self._buffers[name].device)
        self._inputs = {name: self._buffers[name] for name in sidecar.spec.inputs}
        self._outputs = {name: self._buffers[name] for name in sidecar.spec.outputs}

    def run(self, inputs: dict[str, FloatArray]) -> tuple[dict[str, FloatArray], list[float]]:
        """Run up to a batch of slices.

        Returns:
            The outputs, and milliseconds of copy in, compute, copy out.
        """
        count = len(inputs[INPUT_NAME])
        self._fill_rest(count)
        for name, array in inputs.items():
            self._inputs[name].host[:count] = array
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue(captured=False)
        self._cuda.synchronize(self._stream)
        arrays = {
            name: np.array(buffer.host[:count], dtype=np.float32)  # a copy: the buffer is used again
            for name, buffer in self._outputs.items()
        }
        pairs = zip(self._events, self._events[1:], strict=False)
        return arrays, [self._cuda.milliseconds(start, end) for start, end in pairs]

    def _fill_rest(self, count: int) -> None:
        """What follows `count` slices in a batch is air of unknown reference."""
        for name, buffer in self._inputs.items():
            buffer.host[count:] = HU_MIN if name == INPUT_NAME else 0.0

    def _enqueue(self, *, captured: bool) -> None:
        """Copy in, compute, copy out, and the time between."""
        record, stream = self._cuda.record, self._stream
        record(self._events[0], stream, captured=captured)
        for buffer in self._inputs.values():
            if not buffer.mapped:
                self._cuda.copy_in(buffer, stream)
        record(self._events[1], stream, captured=captured)
        context = self._context
        if not context.execute_async_v3(stream):
            raise ModelError(f"TensorRT failed: {_last_error(self._log)}")
        record(self._events[2], stream, captured=captured)
        for buffer in self._outputs.values():
            if not buffer.mapped:
                self._cuda.copy_out(buffer, stream)
        record(self._events[3], stream, captured=captured)

    def _warm_up(self) -> str:
        """Run, capture, run again. Returns whether there is a graph, or why not."""
        self._fill_rest(0)
        for _ in range(WARM_UP_RUNS):
            self._enqueue(captured=False)
            self._cuda.synchronize(self._stream)
        if not self._cuda.has_graphs:
            return f"no: {self._cuda.library} has none"
        context = self._context
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(self._stream):
            return "no: TensorRT says the engine cannot be captured"
        try:
            self._graph = self._cuda.capture(self._stream, lambda: self._enqueue(captured=True))
        except ModelError as error:  # the answers are the same without it; `describe` tells
            self._cuda.synchronize(self._stream)
            return f"no: {first_line(error)}"
        self._cuda.launch(self._graph, self._stream)
        self._cuda.synchronize(self._stream)
        return "yes"

    def close(self) -> None:
        """Free everything; the context first, it uses the buffers."""
        self._context = None
        self._cuda.free(
            stream=self._stream, buffers=[*self._buffers.values()], events=self._events, graph=self._graph
        )


def _dtype(trt: ModuleType, engine: Any, name: str) -> Any:
    dtype = engine.get_tensor_dtype(name)
    if dtype != trt.DataType.FLOAT:
        raise ModelError(f"the engine's tensor {name!r} is {dtype}, expected float32: export and build again")
    return np.float32


def _last_error(log: Any) -> str:
    return first_line(RuntimeError(log.errors[-1])) if log.errors else "it gave no reason"
