"""The header of an engine file, as far as it is known: enough to tell what wrote it, without a GPU.

NVIDIA does not document it. What is used here:

- TensorRT for RTX 1.7, read off its engines: bytes 0-3 are `vtrt`, 16-23 the length of the whole file
  (little-endian), 24-27 the version of the library (major, minor, patch, build).
- `tensorrt` 8-10, from public code that reads its engines and not from engines of our own: bytes 0-3 are
  `ftrt` (Torch-TensorRT looks for it), 24-27 the version (NVIDIA/TensorRT issue 3073; Autoware checks it).

So a header that reads otherwise proves nothing against a file: whether an engine loads is the library's say.
"""

from __future__ import annotations

from dataclasses import dataclass

from n2q_edge.runtimes.tensorrt_library import RTX, TENSORRT

MAGICS = (b"vtrt", b"ftrt")
SIZE = 64  # `Runtime.engine_header_size`


@dataclass(frozen=True)
class PlanHeader:
    """What an engine's first bytes say.

    Attributes:
        flavor: the library that wrote it, `tensorrt` or `tensorrt-rtx`, told by its major version.
        version: of that library, four numbers.
    """

    flavor: str
    version: tuple[int, int, int, int]

    def __str__(self) -> str:
        return f"{self.flavor} {'.'.join(map(str, self.version))}"


def read_header(data: bytes) -> PlanHeader | None:
    """An engine's header; None if it is not laid out as the known ones are.

    The layout is taken as known only where the length in it is the file's own.
    """
    known = data[:4] in MAGICS and len(data) >= SIZE
    if not known or int.from_bytes(data[16:24], "little") != len(data):
        return None
    flavor = RTX if data[24] in RTX.majors else TENSORRT
    return PlanHeader(flavor.name, (data[24], data[25], data[26], data[27]))


def same_version(header: PlanHeader, version: str) -> bool:
    """The header's version is `version`, as far as `version` goes (10.3.0 fits 10.3.0.26)."""
    numbers = [part for part in version.split(".") if part.isdigit()]
    # The header has one byte a number: a build number above 255 wraps.
    return all(int(number) % 256 == have for number, have in zip(numbers, header.version, strict=False))
