"""Checkpoints: weights and their ModelSpec in one safetensors file. Authors' `.pth` files can be read.

Nothing here runs code from a file: safetensors cannot hold any, `.pth` files load with `weights_only=True`.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n2q_edge.errors import ModelError, require
from n2q_edge.files import write_file
from n2q_edge.spec import SPEC_KEY, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

SAFETENSORS = ".safetensors"
PICKLED = (".pth", ".pt")
SUFFIXES = (SAFETENSORS, *PICKLED)
EXTRA = "train"
NESTED = "state_dict"  # where training scripts keep the weights beside their optimizer
WRAPPERS = ("module.", "model.")


def save(path: Path, spec: ModelSpec, state_dict: Mapping[str, Tensor]) -> None:
    """Write a checkpoint; an existing file is replaced only once the new one is whole.

    Raises:
        MissingDependencyError: torch or safetensors is not installed.
        OutputError: the file could not be written.
    """
    safetensors = require("safetensors.torch", EXTRA)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    write_file(path, safetensors.save(tensors, metadata={SPEC_KEY: spec.to_json()}))


def load(path: Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read a checkpoint, or weights in the layout of the authors' notebook (`.pth`).

    Raises:
        MissingDependencyError: torch or safetensors is not installed.
        ModelError: missing, truncated, foreign, without a spec, or a pickle that holds more than tensors.
    """
    return parse(path, read(path))


def read(path: Path) -> bytes:
    """The bytes of a checkpoint file.

    Raises:
        ModelError: missing or not readable.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"checkpoint {path} does not exist") from None
    except OSError as error:
        raise ModelError(f"checkpoint {path} cannot be read: {error.strerror}") from None


def parse(path: Path, data: bytes) -> tuple[ModelSpec, dict[str, Tensor]]:
    """`load` of a file already in memory; `path` gives its kind and stands in messages."""
    suffix = path.suffix.lower()
    if suffix == SAFETENSORS:
        return _parse_safetensors(path, data)
    if suffix in PICKLED:
        return _parse_pickled(path, data)
    raise ModelError(
        f"{path} is not a checkpoint: unknown file extension, expected one of {', '.join(SUFFIXES)}"
    )


def load_network(path: Path, data: bytes) -> tuple[ModelSpec, Module]:
    """Build a checkpoint's network with its weights.

    Raises:
        ModelError: as `load`; or the weights do not fit the network its spec names.
    """
    spec, state_dict = parse(path, data)
    from n2q_edge.network import build

    network = build(spec)
    try:
        network.load_state_dict(state_dict)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: its weights do not fit the network of its spec: {reason}") from None
    return spec, network


def _parse_safetensors(path: Path, data: bytes) -> tuple[ModelSpec, dict[str, Tensor]]:
    safetensors = require("safetensors", EXTRA)
    load_tensors = require("safetensors.torch", EXTRA).load
    try:
        tensors: dict[str, Tensor] = load_tensors(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path} is no whole safetensors file: {error}") from None
    return ModelSpec.from_metadata(_metadata(data), str(path)), tensors


def _metadata(data: bytes) -> dict[str, str] | None:
    """Metadata of a valid safetensors file: 8 bytes of little-endian length, then a JSON header that long.

    The package reads metadata only from a file, not from memory.
    """
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] | None = json.loads(data[8 : 8 + length]).get("__metadata__")
    return metadata


def _parse_pickled(path: Path, data: bytes) -> tuple[ModelSpec, dict[str, Tensor]]:
    torch: Any = require("torch", EXTRA)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} holds more than tensors, or is no PyTorch file; it is not loaded, because a pickle can "
            "run code: save it again with torch.save(model.state_dict(), ...)"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is no whole PyTorch file: {' '.join(str(error).split())[:200]}") from None
    if isinstance(content, dict) and isinstance(content.get(NESTED), dict):
        content = content[NESTED]
    if not _is_state_dict(content, torch.Tensor):
        raise ModelError(f"{path} is no state dict (names and tensors): save model.state_dict() instead")
    from n2q_edge.network.authors import convert

    try:
        return convert(_without_wrapper(content))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _without_wrapper(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The names a network has by itself: DataParallel adds `module.`, Lightning `model.`."""
    for prefix in (*WRAPPERS, *WRAPPERS):  # in either order
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}
    return state_dict


def _is_state_dict(content: Any, tensor: type) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, tensor) for name, value in content.items()
    )
