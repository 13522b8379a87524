"""The runtime cache of TensorRT for RTX: the kernels it compiles on the GPU, kept for the next start.

Without it the first start on a GPU compiles for seconds, and so does every other. `tensorrt` has none.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from n2q_edge.errors import OutputError
from n2q_edge.files import write_file
from n2q_edge.runtimes.cuda import Device


def cache_folder() -> Path:
    """Where n2q-edge keeps what it can make again: `$XDG_CACHE_HOME/n2q-edge`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "n2q-edge"


class RtxCache:
    """Makes execution contexts, with the runtime cache where the library has one.

    Attributes:
        note: the file it is kept in, or why there is none.
    """

    def __init__(self, trt: ModuleType, engine: Any, engine_sha256: str, device: Device) -> None:
        self._engine = engine
        self._config: Any = None
        self._loaded = b""
        if not hasattr(engine, "create_runtime_config") or not hasattr(trt, "IRuntimeCache"):
            self.note = "none: this library has no runtime cache"
            return
        runtime_config = engine.create_runtime_config()
        runtime_cache = runtime_config.create_runtime_cache()
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", device.name)
        self._file = cache_folder() / f"{engine_sha256[:16]}-{gpu}-{trt.__version__}.rtxcache"
        with contextlib.suppress(OSError):
            self._loaded = self._file.read_bytes()
        if self._loaded:
            runtime_cache.deserialize(self._loaded)  # refused if made elsewhere, then it is made anew
        runtime_config.set_runtime_cache(runtime_cache)
        self._config, self._cache = runtime_config, runtime_cache
        self.note = str(self._file)

    def new_context(self) -> Any:
        """An execution context of the engine; None if it cannot be made."""
        engine = self._engine
        if self._config is None:
            return engine.create_execution_context()
        return engine.create_execution_context(self._config)

    def save(self) -> None:
        """Keep what was compiled. A folder that cannot be written costs time at the next start, no more."""
        if self._config is None:
            return
        runtime_cache = self._cache
        compiled = bytes(runtime_cache.serialize())
        if compiled == self._loaded:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_file(self._file, compiled)
        except (OSError, OutputError) as error:
            self.note = f"none: {error}"

    def close(self) -> None:
        """Let go of the engine."""
        self._engine = self._config = self._cache = None
