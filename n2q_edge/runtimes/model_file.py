"""Read a model file once: what is hashed is what is opened."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from n2q_edge.errors import ModelError
from n2q_edge.runtimes.onnx_tensors import refuse_external_data


@dataclass(frozen=True)
class ModelFile:
    """A model file in memory.

    Attributes:
        path: where it was read.
        data: its bytes.
        sha256: of `data`, lower-case hex.
    """

    path: Path
    data: bytes = field(repr=False)
    sha256: str


def read_model_file(path: Path, expected_sha256: str | None = None) -> ModelFile:
    """Read and hash a model file.

    Raises:
        ModelError: missing, unreadable, empty, not the file `expected_sha256` was taken of, or an ONNX file
            that is damaged or keeps weights in other files.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"model file {path} does not exist") from None
    except OSError as error:
        raise ModelError(f"model file {path} cannot be read: {error.strerror}") from None
    if not data:
        raise ModelError(f"model file {path} is empty: copy or export it again")
    sha256 = hashlib.sha256(data).hexdigest()
    if expected_sha256 is not None and sha256 != expected_sha256:
        raise ModelError(
            f"model file {path} is not the released one (SHA-256 {sha256[:12]}..., expected "
            f"{expected_sha256[:12]}...): reinstall n2q-edge, or name the file with --model if you mean it"
        )
    if path.suffix.lower() == ".onnx":
        refuse_external_data(data, str(path))
    return ModelFile(path, data, sha256)
