"""A GPU that is not there: CUDA and TensorRT as far as `runtimes.tensorrt` uses them, in NumPy.

Device memory is a dictionary from address to array. Whatever is put into a stream waits until the stream is
synchronized, as on a real one; a capture keeps it for later launches. So a copy that is forgotten, an address
that is wrong or a result that is read too early give wrong answers here, too.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np

from n2q_edge.errors import ModelError
from n2q_edge.runtimes.cuda import Buffer, Device
from tests.helpers import tiny

VERSION = "1.7.1.116"


class Event:
    time: float | None = None


class FakeCuda:
    library = "fake 1.0"

    def __init__(
        self,
        capability: str = "8.6",
        *,
        integrated: bool = False,
        graphs: bool = True,
        capturable: bool = True,
    ) -> None:
        self.device = Device("NVIDIA Fake 3060", capability, 12.0, integrated, "13.0")
        self.has_graphs = graphs
        self.capturable = capturable
        self.memory: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.clock = 0.0
        self.launches = 0
        self.allocated = 0
        self.closed = False

    def activate(self) -> None:
        assert not self.closed

    def new_stream(self) -> int:
        self.queues[len(self.queues) + 7] = []
        return len(self.queues) + 6

    def new_event(self) -> Event:
        return Event()

    def new_buffer(self, shape: tuple[int, ...], dtype: Any, *, mapped: bool) -> Buffer:
        host = np.full(shape, np.nan, dtype)
        address = 4096 * (len(self.memory) + 1)
        self.memory[address] = host if mapped else np.full(shape, np.nan, dtype)
        self.allocated += 1
        return Buffer(host, address, mapped, owner=address)

    def put(self, stream: int, work: Callable[[], None]) -> None:
        (self.queues[stream] if self.capturing is None else self.capturing).append(work)

    def copy_in(self, buffer: Buffer, stream: int) -> None:
        assert not buffer.mapped
        self.put(stream, lambda: self._take(1.0, lambda: np.copyto(self.memory[buffer.device], buffer.host)))

    def copy_out(self, buffer: Buffer, stream: int) -> None:
        assert not buffer.mapped
        self.put(stream, lambda: self._take(0.5, lambda: np.copyto(buffer.host, self.memory[buffer.device])))

    def _take(self, milliseconds: float, work: Callable[[], None]) -> None:
        work()
        self.clock += milliseconds

    def record(self, event: Event, stream: int, *, captured: bool) -> None:
        assert captured == (self.capturing is not None), (
            "an event inside a capture must be an external record"
        )

        def note() -> None:
            event.time = self.clock

        self.put(stream, note)

    def milliseconds(self, start: Event, end: Event) -> float:
        assert start.time is not None
        assert end.time is not None
        return end.time - start.time

    def synchronize(self, stream: int) -> None:
        work, self.queues[stream] = self.queues[stream], []
        for step in work:
            step()

    def capture(self, stream: int, enqueue: Callable[[], None]) -> list[Callable[[], None]]:
        if not self.capturable:
            raise ModelError("CUDA: cuStreamEndCapture failed with CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        assert not self.queues[stream], "a capture starts on an idle stream"
        self.capturing = []
        try:
            enqueue()
            return self.capturing
        finally:
            self.capturing = None

    def launch(self, graph: list[Callable[[], None]], stream: int) -> None:
        self.launches += 1
        self.queues[stream].extend(graph)

    def free(self, *, stream: int, buffers: list[Buffer], events: list[Any], graph: Any) -> None:
        for buffer in buffers:
            del self.memory[buffer.owner]
        del self.queues[stream]

    def close(self) -> None:
        assert not self.memory
        assert not self.queues
        self.closed = True


class Context:
    """The tiny model of `tiny`, as an execution context."""

    def __init__(self, gpu: FakeCuda, answers: bool = True) -> None:
        self.gpu, self.answers = gpu, answers
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if not self.answers:
            return False

        def compute() -> None:
            quality, dose = tiny.expected(self.gpu.memory[self.addresses["hu"]])
            self.gpu.memory[self.addresses["quality_map"]][:] = quality
            if "dose_probabilities" in self.addresses:
                self.gpu.memory[self.addresses["dose_probabilities"]][:] = dose
            self.gpu.clock += 2.0

        self.gpu.put(stream, compute)
        return True


class Engine:
    """An engine of `tensorrt`: without a runtime cache."""

    def __init__(self, gpu: FakeCuda, shapes: dict[str, tuple[int, ...]]) -> None:
        self.gpu, self.shapes = gpu, shapes
        self.num_io_tensors = len(shapes)
        self.contexts = 0
        self.answers = True

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def get_tensor_dtype(self, name: str) -> str:
        return "FLOAT"

    def create_execution_context(self, *arguments: Any) -> Context:
        self.contexts += 1
        return Context(self.gpu, self.answers)


class RtxEngine(Engine):
    """An engine of `tensorrt_rtx`: with one."""

    def __init__(self, gpu: FakeCuda, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__(gpu, shapes)
        self.loaded: list[bytes] = []

    def create_runtime_config(self) -> Any:
        engine = self

        class Cache:
            def deserialize(self, data: bytes) -> bool:
                engine.loaded.append(data)
                return True

            def serialize(self) -> bytes:
                return b"compiled kernels"

        config = types.SimpleNamespace(create_runtime_cache=Cache)
        config.set_runtime_cache = lambda cache: True
        return config


def library(engine: Engine | None, *, version: str = VERSION) -> Any:
    """A module that looks like `tensorrt_rtx` (for an `RtxEngine`) or `tensorrt`."""

    class ILogger:
        Severity = types.SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            if engine is None:
                self.logger.log(1, "Serialization assertion failed\nmore")
            return engine

    # A name of its own: the logger is kept by it, one a process.
    module: Any = types.ModuleType(f"fake_tensorrt_{id(engine)}")
    module.__version__ = version
    module.ILogger, module.Runtime = ILogger, Runtime
    module.DataType = types.SimpleNamespace(FLOAT="FLOAT")
    if isinstance(engine, RtxEngine):
        module.IRuntimeCache = object
    return module
