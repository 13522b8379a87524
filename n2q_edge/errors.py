"""Every error the tool raises on purpose, each with the exit code of its kind.

A message is one line: what is wrong with which file, and what to do next. The command line prints it
and exits with `exit_code`; anything that is not an `N2QError` is a bug and exits with 1.
"""

from __future__ import annotations

from enum import IntEnum
from importlib import import_module
from types import ModuleType


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0
    BUG = 1
    USAGE = 2
    PARTIAL = 3  # some inputs were rejected, the rest was assessed
    NOTHING_ASSESSED = 4
    MODEL = 5  # a model, engine or parity problem
    MISSING_DEPENDENCY = 6
    OUTPUT = 7  # results could not be written
    BELOW_THRESHOLD = 10  # quality below --fail-below
    INTERRUPTED = 130  # Ctrl-C; what was done before is kept


class N2QError(Exception):
    """Base of all expected errors."""

    exit_code: ExitCode = ExitCode.BUG


class UsageError(N2QError):
    """The command line or an argument is wrong."""

    exit_code = ExitCode.USAGE


class NothingAssessedError(N2QError):
    """No input could be assessed."""

    exit_code = ExitCode.NOTHING_ASSESSED


class ModelError(N2QError):
    """A model file is missing, foreign, damaged or unfit for the runtime."""

    exit_code = ExitCode.MODEL


class ParityError(ModelError):
    """An exported model does not compute what its source computes."""


class OutputError(N2QError):
    """A result could not be written (disk full, no permission)."""

    exit_code = ExitCode.OUTPUT


class MissingDependencyError(N2QError):
    """An optional package is not installed; the message names the extra that brings it."""

    exit_code = ExitCode.MISSING_DEPENDENCY


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Raises:
        MissingDependencyError: `module` is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        from n2q_edge.install import install_command

        raise MissingDependencyError(
            f"this needs the package {package!r} of the extra {extra!r}: {install_command(extra)}"
        ) from None
