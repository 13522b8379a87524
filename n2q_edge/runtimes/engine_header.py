"""The header of an engine file, as far as it is known: enough to tell what wrote it, without a GPU.

NVIDIA does not document it. Read off engines of TensorRT for RTX 1.7: bytes 0-3 are `vtrt`, 16-23 the length
of the whole file (little-endian), 24-27 the version of the library (major, minor, patch, build).
"""

from __future__ import annotations

from dataclasses import dataclass

from n2q_edge.errors import ModelError
from n2q_edge.runtimes.tensorrt_library import FLAVORS, Flavor

MAGIC = b"vtrt"
SIZE = 64  # `Runtime.engine_header_size`


@dataclass(frozen=True)
class PlanHeader:
    """What an engine's first bytes say.

    Attributes:
        version: of the library that wrote it, four numbers.
        flavor: the library, told by its major version.
        length: of the whole file in bytes, as the header has it.
    """

    version: tuple[int, int, int, int]
    flavor: Flavor
    length: int


def read_header(data: bytes, source: str) -> PlanHeader:
    """Read an engine's header.

    Raises:
        ModelError: not a TensorRT engine, or one of a library this code does not know.
    """
    if len(data) < SIZE or data[:4] != MAGIC:
        raise ModelError(f"{source} is no TensorRT engine: build one with 'n2q-edge build MODEL.onnx'")
    version = (data[24], data[25], data[26], data[27])
    for flavor in FLAVORS.values():
        if version[0] in flavor.majors:
            return PlanHeader(version, flavor, int.from_bytes(data[16:24], "little"))
    known = ", ".join(
        f"{flavor.name} {' and '.join(f'{major}.x' for major in flavor.majors)}"
        for flavor in FLAVORS.values()
    )
    raise ModelError(
        f"{source} was built with TensorRT {'.'.join(map(str, version))}, n2q-edge knows {known}: "
        "build it again with 'n2q-edge build'"
    )


def same_version(header: PlanHeader, version: str) -> bool:
    """The header's version is `version`, as far as `version` goes (10.3.0 fits 10.3.0.26)."""
    numbers = [part for part in version.split(".") if part.isdigit()]
    # The header has one byte a number: a build number above 255 wraps.
    return all(int(number) % 256 == have for number, have in zip(numbers, header.version, strict=False))
