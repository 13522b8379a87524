"""The released models: for each a checkpoint, the ONNX file exported from it, and the SHA-256 of both.

`released.json` beside this file holds, by the name of a model, the file names `onnx` and `checkpoint` and the
hashes `sha256` (of the ONNX file) and `checkpoint_sha256`, and under `default` the name of the one that is
used where nobody names another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from n2q_edge.errors import ModelError

FOLDER = Path(__file__).parent
DEFAULT = "default"


@dataclass(frozen=True)
class ReleasedModel:
    """Where a released model is, and what it must hash to.

    Attributes:
        onnx: the ONNX file.
        sha256: of `onnx`.
        checkpoint: the weights it was exported from (safetensors).
        checkpoint_sha256: of `checkpoint`.
    """

    onnx: Path
    sha256: str
    checkpoint: Path
    checkpoint_sha256: str


def names(folder: Path = FOLDER) -> list[str]:
    """Names of the released models, the default first.

    Raises:
        ModelError: `released.json` is missing or damaged.
    """
    record = _record(folder)
    default = record[DEFAULT]
    return [default, *sorted(set(record) - {DEFAULT, default})]


def released(name: str | None = None, folder: Path = FOLDER) -> ReleasedModel:
    """A released model, the default one without a name; its files are not opened.

    Raises:
        ModelError: `released.json` is missing or damaged, or there is no model of that name.
    """
    record = _record(folder)
    fields = record.get(name or record[DEFAULT])
    if not isinstance(fields, dict):
        raise ModelError(f"no released model {name!r}: there are {', '.join(names(folder))}")
    try:
        return ReleasedModel(
            onnx=folder / fields["onnx"],
            sha256=str(fields["sha256"]),
            checkpoint=folder / fields["checkpoint"],
            checkpoint_sha256=str(fields["checkpoint_sha256"]),
        )
    except (KeyError, TypeError) as error:
        raise _damaged(folder, error) from None


def _record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / "released.json").read_text(encoding="utf-8"))
        record[record[DEFAULT]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    return record


def _damaged(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        f"no released model: {folder / 'released.json'} cannot be read ({type(error).__name__}): reinstall "
        "n2q-edge, or name a model with --model"
    )
