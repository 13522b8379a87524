"""NVIDIA's two engine libraries: `tensorrt` and `tensorrt_rtx` (TensorRT for RTX). One API, two packages.

An engine of one is foreign to the other. Their differences are met with `hasattr`, their enums by name:
values moved between versions. `tests/data/api_surface/` holds what each version offers.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from n2q_edge.errors import MissingDependencyError, ModelError, UsageError
from n2q_edge.install import install_command
from n2q_edge.runtimes.libraries import first_line

# Capabilities TensorRT for RTX 1.4-1.7 compiles for; the installed library is asked where there is one.
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True)
class Flavor:
    """One of the libraries.

    Attributes:
        name: on the command line and in sidecars.
        package: the Python package.
        extra: the extra of n2q-edge that brings it.
        majors: major versions this code was written for.
    """

    name: str
    package: str
    extra: str
    majors: tuple[int, ...]


TENSORRT = Flavor("tensorrt", "tensorrt", "tensorrt", (10, 11))
RTX = Flavor("tensorrt-rtx", "tensorrt_rtx", "rtx", (1,))
FLAVORS = {flavor.name: flavor for flavor in (TENSORRT, RTX)}

_loggers: dict[str, Any] = {}  # TensorRT keeps the first logger it is given: one a process and library


def flavor_named(name: str) -> Flavor:
    """The flavor of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in FLAVORS:
        raise UsageError(f"no flavor {name!r}: choose one of {', '.join(FLAVORS)}")
    return FLAVORS[name]


def is_installed(flavor: Flavor) -> bool:
    """Its package is there; says nothing about a GPU."""
    return find_spec(flavor.package) is not None


def any_installed() -> bool:
    """At least one of the libraries is there."""
    return any(is_installed(flavor) for flavor in FLAVORS.values())


def installed_versions() -> str:
    """The installed libraries and their versions, from the packages' metadata: nothing is imported."""
    from importlib.metadata import packages_distributions, version

    names = packages_distributions()
    return ", ".join(
        f"{flavor.name} {version(names[flavor.package][0]) if flavor.package in names else '(unknown)'}"
        for flavor in FLAVORS.values()
        if is_installed(flavor)
    )


def load(flavor: Flavor) -> ModuleType:
    """Import a flavor's library.

    Raises:
        MissingDependencyError: not installed.
        ModelError: installed, but it does not load, or of a version this code was not written for.
    """
    from importlib import import_module

    if not is_installed(flavor):
        raise MissingDependencyError(
            f"flavor {flavor.name!r} needs the package {flavor.package!r}: "
            f"{install_command(flavor.extra)} (on a Jetson, JetPack brings it: see docs/how-to/gpu.md)"
        )
    try:
        trt = import_module(flavor.package)
    except (ImportError, OSError, AttributeError) as error:  # its shared libraries are missing or mismatched
        raise ModelError(
            f"{flavor.package} is installed but does not load ({first_line(error)}): see docs/how-to/gpu.md"
        ) from None
    if int(version(trt).split(".")[0]) not in flavor.majors:
        majors = " or ".join(f"{major}.x" for major in flavor.majors)
        raise ModelError(f"{flavor.package} {version(trt)} is installed, n2q-edge knows {majors}")
    return trt


def version(trt: ModuleType) -> str:
    """Version of a loaded library, e.g. `10.13.3.9`."""
    return str(trt.__version__)


def capabilities(flavor: Flavor, trt: ModuleType) -> tuple[str, ...] | None:
    """Compute capabilities the library compiles for without the GPU; None: only for the GPU present."""
    if flavor is not RTX:
        return None
    names = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in names)


def capability_enum(trt: ModuleType, capability: str) -> Any:
    """`8.6` as the library's enum member `SM86`."""
    return getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")


def logger(trt: ModuleType) -> Any:
    """The process's only logger for a library. `errors` holds its latest error messages, oldest first."""
    if trt.__name__ not in _loggers:
        _loggers[trt.__name__] = _make_logger(trt)
    return _loggers[trt.__name__]


def _make_logger(trt: ModuleType) -> Any:
    severity_levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.DEBUG,
        trt.ILogger.Severity.VERBOSE: logging.NOTSET,
    }
    log = logging.getLogger("n2q_edge.tensorrt")
    log.addHandler(logging.NullHandler())  # or Python's last resort prints the warnings

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=20)

        def log(self, severity: Any, message: str) -> None:
            level = severity_levels.get(severity, logging.NOTSET)
            if level >= logging.ERROR:
                self.errors.append(message)
            if level > logging.NOTSET:
                log.log(level, "%s", message)

    return Logger()
