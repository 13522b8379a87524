"""Noise2Quality at the scanner: a quality map, a dose level and a latency for every CT slice."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("n2q-edge")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
