"""Target profiles: one TOML file a GPU in `engines/`, each fact with its source."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n2q_edge.errors import ModelError, UsageError, require
from n2q_edge.runtimes.tensorrt_library import FLAVORS
from n2q_edge.spec import PRECISIONS

if TYPE_CHECKING:
    from rich.console import Console

PACKAGE = Path(__file__).parents[2]
FOLDERS = (PACKAGE / "engines", PACKAGE.parent / "engines")  # in an installed wheel; in a checkout


@dataclass(frozen=True)
class Target:
    """A GPU to build for.

    Attributes:
        name: the file's name without `.toml`.
        gpu: the product's name.
        architecture: NVIDIA's name of its generation.
        compute_capability: e.g. `8.6`.
        memory_gib: of the board; shared with the CPU on Jetson and GB10.
        flavors: libraries that support it, the recommended one first.
        tensorrt: versions of the recommended library that support it, for people.
        precision: recommended precision of the ONNX file.
        batch: slices an inference.
        height: of the input in pixels.
        width: of the input in pixels.
        workspace_mib: limit of the builder's scratch memory.
        sources: where each fact is from.
        notes: what else to know, one line.
    """

    name: str
    gpu: str
    architecture: str
    compute_capability: str
    memory_gib: float
    flavors: tuple[str, ...]
    tensorrt: str
    precision: str
    batch: int
    height: int
    width: int
    workspace_mib: int
    sources: dict[str, str]
    notes: str = ""

    def __post_init__(self) -> None:
        unknown = [flavor for flavor in self.flavors if flavor not in FLAVORS]
        if unknown or not self.flavors or self.precision not in PRECISIONS:
            raise ModelError(f"flavors {list(self.flavors)} or precision {self.precision!r} unknown")
        if min(self.batch, self.height, self.width, self.workspace_mib) < 1:
            raise ModelError("batch, height, width and workspace_mib must be positive")


def profiles() -> list[Target]:
    """All profiles that ship with n2q-edge, by name."""
    return [load_target(path) for path in sorted(_folder().glob("*.toml"))]


def find_target(name_or_path: str) -> Target:
    """A profile by its name (`rtx-4090`) or its file.

    Raises:
        UsageError: no profile of that name.
        ModelError: the file is missing or damaged.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml":
        return load_target(path)
    path = _folder() / f"{name_or_path}.toml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in _folder().glob("*.toml")))
        raise UsageError(f"no target {name_or_path!r}: give a .toml file or one of {names}")
    return load_target(path)


def parse_size(text: str) -> tuple[int, int]:
    """`512x512` as height and width.

    Raises:
        UsageError: it reads otherwise.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise UsageError(f"size {text!r} is not HEIGHTxWIDTH, e.g. 512x512")
    return int(height), int(width)


def render(targets: list[Target], console: Console) -> None:
    """Print a table of profiles."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("target", "GPU", "CC", "GB", "built with"):
        table.add_column(name, no_wrap=name in ("target", "built with"))
    for target in targets:
        table.add_row(
            target.name,
            target.gpu.removeprefix("NVIDIA "),
            target.compute_capability,
            f"{target.memory_gib:g}",
            ", ".join(target.flavors),
        )
    console.print(table)
    precisions = ", ".join(sorted({target.precision for target in targets}))
    console.print(
        "CC: CUDA compute capability. Of two libraries the first is the recommended one: tensorrt-rtx "
        "builds on any machine, tensorrt only on the GPU itself.\n"
        f"Recommended precision: {precisions} (n2q-edge export --precision)."
    )


def load_target(path: Path) -> Target:
    """Read a profile.

    Raises:
        ModelError: missing, not TOML, or with wrong or unknown fields.
    """
    try:
        fields: dict[str, Any] = _parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"target {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"target {path} is no TOML file: {error}") from None
    try:
        fields["flavors"] = tuple(fields["flavors"])
        return Target(name=path.stem, **fields)
    except (TypeError, KeyError, ModelError) as error:
        raise ModelError(f"target {path} is no profile: {error}") from None


def _parse_toml(text: str) -> dict[str, Any]:
    library = require("tomllib" if sys.version_info >= (3, 11) else "tomli", "rtx")
    parsed: dict[str, Any] = library.loads(text)
    return parsed


def _folder() -> Path:
    for folder in FOLDERS:
        if folder.is_dir():
            return folder
    raise ModelError(f"no target profiles in {FOLDERS[0]}: reinstall n2q-edge, or give --target a .toml file")
