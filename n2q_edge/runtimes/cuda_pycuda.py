"""`cuda.Cuda` through PyCUDA, for those who have it. Without CUDA graphs, which PyCUDA does not wrap."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2q_edge.errors import ModelError, require
from n2q_edge.runtimes.cuda import Buffer, Cuda, Device, no_gpu
from n2q_edge.runtimes.libraries import first_line

EXTRA = "pycuda"


def is_available() -> bool:
    """PyCUDA is installed; says nothing about a GPU."""
    return find_spec("pycuda") is not None


def open() -> Cuda:
    """Device 0 through PyCUDA.

    Raises:
        MissingDependencyError: PyCUDA is not installed.
        ModelError: it does not load, or there is no GPU.
    """
    try:
        require("pycuda.driver", EXTRA)
    except (ImportError, OSError) as error:  # libcuda is missing
        raise no_gpu(first_line(error)) from None
    return PyCuda()


class PyCuda:
    """Device 0 in its primary context. Not `pycuda.autoinit`, whose own context shuts PyTorch out."""

    has_graphs = False

    def __init__(self) -> None:
        self._driver: Any = require("pycuda.driver", EXTRA)
        package: Any = require("pycuda", EXTRA)
        self.library = f"pycuda {package.VERSION_TEXT}"
        try:
            self._driver.init()
            self._handle = self._driver.Device(0)
        except self._driver.Error as error:
            raise no_gpu(first_line(error)) from None
        self.device = self._describe()
        self._context = self._handle.retain_primary_context()
        self._streams: dict[int, Any] = {}
        self.activate()

    def _describe(self) -> Device:
        major, minor = self._handle.compute_capability()
        driver = int(self._driver.get_driver_version())
        return Device(
            name=str(self._handle.name()),
            capability=f"{major}.{minor}",
            memory_gib=round(int(self._handle.total_memory()) / 2**30, 1),
            integrated=bool(self._handle.get_attribute(self._driver.device_attribute.INTEGRATED)),
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
        )

    def activate(self) -> None:
        """Make the primary context current; PyCUDA keeps a stack of them a thread."""
        if self._driver.Context.get_current() is None:
            self._context.push()

    def new_stream(self) -> int:
        """A stream. Flag 1 is CU_STREAM_NON_BLOCKING."""
        stream = self._driver.Stream(1)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def new_event(self) -> Any:
        """A timing event."""
        return self._driver.Event()

    def new_buffer(self, shape: tuple[int, ...], dtype: Any, *, mapped: bool) -> Buffer:
        """Page-locked host memory, mapped or with a copy on the device."""
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        host: NDArray[Any] = self._driver.pagelocked_empty(shape, np.dtype(dtype), mem_flags=flags)
        if mapped:
            return Buffer(host, int(host.base.get_device_pointer()), mapped, owner=None)  # type: ignore[union-attr]
        memory = self._driver.mem_alloc(host.nbytes)
        return Buffer(host, int(memory), mapped, owner=memory)

    def copy_in(self, buffer: Buffer, stream: int) -> None:
        """Host to device."""
        self._driver.memcpy_htod_async(buffer.device, buffer.host, self._streams[stream])

    def copy_out(self, buffer: Buffer, stream: int) -> None:
        """Device to host."""
        self._driver.memcpy_dtoh_async(buffer.host, buffer.device, self._streams[stream])

    def record(self, event: Any, stream: int, *, captured: bool) -> None:
        """Record an event."""
        event.record(self._streams[stream])

    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events."""
        return float(end.time_since(start))

    def synchronize(self, stream: int) -> None:
        """Wait for the stream."""
        self._streams[stream].synchronize()

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Any:
        """PyCUDA has no graphs."""
        raise ModelError("PyCUDA cannot capture CUDA graphs: use cuda-bindings")

    def launch(self, graph: Any, stream: int) -> None:
        """PyCUDA has no graphs."""
        raise ModelError("PyCUDA cannot run CUDA graphs: use cuda-bindings")

    def free(self, *, stream: int, buffers: list[Buffer], events: list[Any], graph: Any | None) -> None:
        """PyCUDA frees what nobody refers to; device memory is freed at once."""
        self.activate()
        self.synchronize(stream)
        for buffer in buffers:
            if buffer.owner is not None:
                buffer.owner.free()
        del self._streams[stream]

    def close(self) -> None:
        """Let go of the primary context."""
        if self._context is not None:
            self._context.detach()
            self._context = None
