"""What an engine needs of CUDA: a device, memory, a stream, events, a graph. Through `cuda-bindings`.

`cuda_pycuda` offers the same through PyCUDA. Both work in the device's primary context, the one that PyTorch
and ONNX Runtime use, so that all of them can live in one process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from n2q_edge.errors import ModelError, require
from n2q_edge.runtimes.libraries import first_line

EXTRA = "tensorrt"


@dataclass(frozen=True)
class Device:
    """The GPU.

    Attributes:
        name: as its driver gives it.
        capability: compute capability, e.g. `8.6`.
        memory_gib: of the device; of the whole board where GPU and CPU share it.
        integrated: GPU and CPU share memory (Jetson, GB10).
        driver: CUDA version of the driver, e.g. `13.0`.
    """

    name: str
    capability: str
    memory_gib: float
    integrated: bool
    driver: str


@dataclass
class Buffer:
    """Page-locked host memory and what the device uses of it.

    Attributes:
        host: the array on the host.
        device: address on the device: of its own copy or, if `mapped`, of `host` itself.
        mapped: host and device see the same memory; there is nothing to copy.
    """

    host: NDArray[Any]
    device: int
    mapped: bool
    owner: Any  # whatever frees it


class Cuda(Protocol):
    """Access to one GPU. Handles of streams are integers; events and graphs are the library's own objects."""

    @property
    def library(self) -> str:
        """Package and version."""

    @property
    def has_graphs(self) -> bool:
        """It can capture CUDA graphs."""

    @property
    def device(self) -> Device:
        """The GPU."""

    def activate(self) -> None:
        """Make the GPU's primary context the current one of this thread."""

    def new_stream(self) -> int:
        """A stream that does not wait for the default stream."""

    def new_event(self) -> Any:
        """An event that takes the time."""

    def new_buffer(self, shape: tuple[int, ...], dtype: Any, *, mapped: bool) -> Buffer:
        """Page-locked memory and its counterpart on the device."""

    def copy_in(self, buffer: Buffer, stream: int) -> None:
        """Host to device, asynchronous."""

    def copy_out(self, buffer: Buffer, stream: int) -> None:
        """Device to host, asynchronous."""

    def record(self, event: Any, stream: int, *, captured: bool) -> None:
        """Note the time in the stream; `captured`: as a node of the graph being captured."""

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events that have passed."""

    def synchronize(self, stream: int) -> None:
        """Wait until the stream is done."""

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Any:
        """What `enqueue` puts into the stream, as a graph."""

    def launch(self, graph: Any, stream: int) -> None:
        """Run a graph."""

    def free(self, *, stream: int, buffers: list[Buffer], events: list[Any], graph: Any | None) -> None:
        """Give all of this back."""

    def close(self) -> None:
        """Let go of the primary context."""


def is_available() -> bool:
    """`cuda-bindings` is installed; says nothing about a GPU."""
    try:
        return find_spec("cuda.bindings") is not None
    except ModuleNotFoundError:  # no package `cuda` at all
        return False


def open() -> Cuda:
    """Device 0 through `cuda-bindings`.

    Raises:
        MissingDependencyError: `cuda-bindings` is not installed.
        ModelError: no driver or no GPU.
    """
    require("cuda.bindings.driver", EXTRA)
    return CudaBindings()


def no_gpu(reason: str) -> ModelError:
    """What to raise when there is no GPU to use."""
    return ModelError(
        f"no NVIDIA GPU can be used here ({reason}): see 'n2q-edge doctor' and docs/how-to/gpu.md"
    )


class CudaBindings:
    """Device 0 through the driver API."""

    has_graphs = True

    def __init__(self) -> None:
        self._api: Any = require("cuda.bindings.driver", EXTRA)
        package: Any = require("cuda.bindings", EXTRA)
        self.library = f"cuda-bindings {package.__version__}"
        try:
            self._call("cuInit", 0)
            self._handle = self._call("cuDeviceGet", 0)
        except ModelError as error:
            raise no_gpu(first_line(error)) from None
        except (RuntimeError, ImportError, OSError):  # cuda-bindings' own, and it differs between versions
            raise no_gpu("no NVIDIA driver: libcuda is not there") from None
        self.device = self._describe()
        self._context = self._call("cuDevicePrimaryCtxRetain", self._handle)
        self.activate()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the driver; its first result is a status, of which nobody else needs to know."""
        status, *results = getattr(self._api, name)(*arguments)
        if status != self._api.CUresult.CUDA_SUCCESS:
            raise ModelError(f"CUDA: {name} failed with {status.name}")
        return results[0] if len(results) == 1 else None

    def _describe(self) -> Device:
        attributes = self._api.CUdevice_attribute

        def attribute(name: str) -> int:
            key = getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(self._call("cuDeviceGetAttribute", key, self._handle))

        driver = int(self._call("cuDriverGetVersion"))
        name = self._call("cuDeviceGetName", 256, self._handle)
        return Device(
            name=name.split(b"\0")[0].decode(),
            capability=f"{attribute('COMPUTE_CAPABILITY_MAJOR')}.{attribute('COMPUTE_CAPABILITY_MINOR')}",
            memory_gib=round(int(self._call("cuDeviceTotalMem", self._handle)) / 2**30, 1),
            integrated=bool(attribute("INTEGRATED")),
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
        )

    def activate(self) -> None:
        """Make the primary context current."""
        self._call("cuCtxSetCurrent", self._context)

    def new_stream(self) -> int:
        """A non-blocking stream."""
        return int(self._call("cuStreamCreate", int(self._api.CUstream_flags.CU_STREAM_NON_BLOCKING)))

    def new_event(self) -> Any:
        """A timing event."""
        return self._call("cuEventCreate", int(self._api.CUevent_flags.CU_EVENT_DEFAULT))

    def new_buffer(self, shape: tuple[int, ...], dtype: Any, *, mapped: bool) -> Buffer:
        """Page-locked host memory, mapped or with a copy on the device."""
        count = int(np.prod(shape))
        size = count * np.dtype(dtype).itemsize
        flags = int(self._api.CU_MEMHOSTALLOC_DEVICEMAP) if mapped else 0
        pointer = int(self._call("cuMemHostAlloc", size, flags))
        memory = (ctypes.c_byte * size).from_address(pointer)
        host: NDArray[Any] = np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)
        if mapped:
            device = int(self._call("cuMemHostGetDevicePointer", pointer, 0))
        else:
            device = int(self._call("cuMemAlloc", size))
        return Buffer(host, device, mapped, owner=pointer)

    def copy_in(self, buffer: Buffer, stream: int) -> None:
        """Host to device."""
        self._call("cuMemcpyHtoDAsync", buffer.device, buffer.owner, buffer.host.nbytes, stream)

    def copy_out(self, buffer: Buffer, stream: int) -> None:
        """Device to host."""
        self._call("cuMemcpyDtoHAsync", buffer.owner, buffer.device, buffer.host.nbytes, stream)

    def record(self, event: Any, stream: int, *, captured: bool) -> None:
        """Record an event; inside a capture only an external record can be read later."""
        if captured:
            flag = int(self._api.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL)
            self._call("cuEventRecordWithFlags", event, stream, flag)
        else:
            self._call("cuEventRecord", event, stream)

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events."""
        return float(self._call("cuEventElapsedTime", start, end))

    def synchronize(self, stream: int) -> None:
        """Wait for the stream."""
        self._call("cuStreamSynchronize", stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Any:
        """Capture what `enqueue` does; on an error the capture is ended, so that the stream lives on."""
        mode = self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            self._api.cuStreamEndCapture(stream)
            raise
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Run a graph."""
        self._call("cuGraphLaunch", graph, stream)

    def free(self, *, stream: int, buffers: list[Buffer], events: list[Any], graph: Any | None) -> None:
        """Free in the reverse order of use."""
        self.activate()
        self.synchronize(stream)
        if graph is not None:
            self._call("cuGraphExecDestroy", graph)
        for event in events:
            self._call("cuEventDestroy", event)
        for buffer in buffers:
            if not buffer.mapped:
                self._call("cuMemFree", buffer.device)
            self._call("cuMemFreeHost", buffer.owner)
        self._call("cuStreamDestroy", stream)

    def close(self) -> None:
        """Release the primary context."""
        if self._context is not None:
            self._context = None
            self._call("cuDevicePrimaryCtxRelease", self._handle)
