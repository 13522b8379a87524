"""The released model: a checkpoint, the ONNX file exported from it, and the SHA-256 of both.

`released.json` beside this file holds the file names `onnx` and `checkpoint` and the hashes `sha256` (of the
ONNX file) and `checkpoint_sha256`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from n2q_edge.errors import ModelError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ReleasedModel:
    """Where the released model is, and what it must hash to.

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


def released(folder: Path = FOLDER) -> ReleasedModel:
    """The released model; its files are not opened.

    Raises:
        ModelError: `released.json` is missing or damaged.
    """
    record = folder / "released.json"
    try:
        fields = json.loads(record.read_text(encoding="utf-8"))
        return ReleasedModel(
            onnx=folder / fields["onnx"],
            sha256=str(fields["sha256"]),
            checkpoint=folder / fields["checkpoint"],
            checkpoint_sha256=str(fields["checkpoint_sha256"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"no released model: {record} cannot be read ({type(error).__name__}): reinstall n2q-edge, or "
            "name a model with --model"
        ) from None
