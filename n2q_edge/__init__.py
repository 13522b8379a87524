"""Noise2Quality at the scanner: a quality map, a dose level and a noise level for every CT slice.

    import n2q_edge

    model = n2q_edge.load()
    result = model.assess(hu, spacing_mm=(0.7, 0.7))
    run = n2q_edge.assess("series/", model=model)

Importing the package imports nothing else of weight: what a name stands for is loaded when it is first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from n2q_edge.errors import N2QError

if TYPE_CHECKING:
    from n2q_edge.api import Assessment, Model, assess, export, load, scan

try:
    __version__ = version("n2q-edge")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["Assessment", "Model", "N2QError", "__version__", "assess", "export", "load", "scan"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("n2q_edge.api"), name)
    raise AttributeError(f"module 'n2q_edge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
