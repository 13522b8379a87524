"""Where the frames of encapsulated pixel data are (PS3.5 annex A.4)."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import IO

from n2q_edge.dicom.reasons import Reason, Refusal

Fragment = tuple[int, int]  # offset of its bytes in the file, number of bytes

_ITEM = b"\xfe\xff\x00\xe0"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0"
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")  # a JPEG or JPEG-LS, a JPEG 2000 codestream


def index_frames(file: IO[bytes], offset: int, frames: int) -> list[list[Fragment]]:
    """Find the fragments of each frame, reading item headers only.

    A file that ends inside a fragment still gives the frames before; `read_frame` rejects the one that is
    cut.

    Args:
        file: open for reading, seekable.
        offset: of the value of Pixel Data, which starts with the Basic Offset Table.
        frames: Number of Frames.

    Raises:
        Refusal: the items are damaged or do not make up that many frames.
    """
    items, complete = _items(file, offset)
    table, fragments = (items[0], items[1:]) if items else ((offset, 0), [])
    if frames == 1 and fragments:
        return [fragments]
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    starts = _starts_by_table(file, table, fragments, frames) or _starts_by_content(file, fragments)
    if len(starts) != frames:
        raise Refusal(
            Reason.CORRUPT_PIXEL_DATA if complete else Reason.TRUNCATED,
            f"{len(fragments)} fragments do not make up {frames} compressed frames",
        )
    return [fragments[start:end] for start, end in zip(starts, [*starts[1:], len(fragments)], strict=True)]


def read_frame(file: IO[bytes], fragments: list[Fragment]) -> bytes:
    """The bytes of one compressed frame.

    Raises:
        Refusal: the file ends inside it.
    """
    parts = []
    for offset, length in fragments:
        file.seek(offset)
        parts.append(file.read(length))
        if len(parts[-1]) < length:
            raise Refusal(Reason.TRUNCATED, f"{len(parts[-1])} of {length} bytes of a fragment are there")
    return b"".join(parts)


def _items(file: IO[bytes], position: int) -> tuple[list[Fragment], bool]:
    """The items, the Basic Offset Table first, and whether the sequence of them is closed."""
    file.seek(0, 2)
    size = file.tell()
    items: list[Fragment] = []
    while position < size:
        file.seek(position)
        head = file.read(8)
        if head[:4] == _SEQUENCE_END:
            return items, True
        if len(head) < 8:
            break
        if head[:4] != _ITEM:
            raise Refusal(Reason.CORRUPT_PIXEL_DATA, "something else than an item in encapsulated pixel data")
        (length,) = struct.unpack_from("<L", head, 4)
        items.append((position + 8, length))
        position += 8 + length
    return items, False


def _starts_by_table(file: IO[bytes], table: Fragment, fragments: list[Fragment], frames: int) -> list[int]:
    """Index of each frame's first fragment by the Basic Offset Table; [] if there is none that fits."""
    offset, length = table
    if length != 4 * frames or not fragments:
        return []
    file.seek(offset)
    data = file.read(length)
    if len(data) < length:
        return []
    first = offset + length  # offsets count from the first byte after the table
    by_offset = {start - 8 - first: index for index, (start, _) in enumerate(fragments)}
    starts = [by_offset.get(value, -1) for value in struct.unpack(f"<{frames}L", data)]
    ordered = starts[0] == 0 and all(a < b for a, b in pairwise(starts))
    return starts if ordered else []


def _starts_by_content(file: IO[bytes], fragments: list[Fragment]) -> list[int]:
    """Index of each fragment that begins a codestream."""
    starts = []
    for index, (offset, _) in enumerate(fragments):
        file.seek(offset)
        if file.read(4).startswith(_STARTS):
            starts.append(index)
    return starts
