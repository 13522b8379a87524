"""The JSON document of a benchmark: written, read, never edited."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import n2q_edge
from n2q_edge.errors import UsageError
from n2q_edge.files import write_text
from n2q_edge.machine import describe_machine

SCHEMA_VERSION = 1
KIND = "n2q-edge bench"
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch", "tensorrt", "tensorrt-rtx", "imagecodecs")


def build(measured: dict[str, Any]) -> dict[str, Any]:
    """What `measure` found, with who, when and where in front."""
    return header(KIND) | measured


def header(kind: str) -> dict[str, Any]:
    """What every result begins with."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "n2q_edge": n2q_edge.__version__,
        "machine": describe_machine(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def write(document: dict[str, Any], path: Path) -> None:
    """Write a document.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, to_json(document))


def to_json(document: dict[str, Any]) -> str:
    """A document as JSON text: ASCII, no NaN, no infinity."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Read what `bench --json` wrote.

    Raises:
        UsageError: no such file, not such a document, or of another schema version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path} is no JSON: give a file of 'n2q-edge bench --json'") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise UsageError(f"{path} is no benchmark: give a file of 'n2q-edge bench --json'")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema version {document.get('schema_version')}, this n2q-edge reads "
            f"{SCHEMA_VERSION}: measure again, or update n2q-edge"
        )
    return document


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
