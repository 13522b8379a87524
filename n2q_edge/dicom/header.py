"""Read the header of a DICOM file up to its pixel data, and nothing more.

It also reports two things that pydicom's reader does not: where the pixels start, and whether the file ended
in the middle of an element. Only the elements asked for are kept, as raw bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import IO

from n2q_edge.dicom import tags
from n2q_edge.dicom.reasons import Reason, Refusal
from n2q_edge.dicom.unpack import inflate
from n2q_edge.dicom.values import Elements
from n2q_edge.dicom.walk import LONG_VRS, UNDEFINED, Element, Walker, Window, is_vr

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE_SYNTAXES = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})

PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)

MAX_VALUE = 64 * 1024  # no value asked for is larger
MAX_SEQUENCE = 256 * 1024 * 1024  # functional groups of tens of thousands of frames


@dataclass(frozen=True)
class PixelElement:
    """Where the pixel data is: `offset` of its value, and its `length` (None if encapsulated)."""

    tag: int
    vr: str | None
    offset: int
    length: int | None


class Header(Elements):
    """What the header of one file says.

    Attributes:
        syntax: Transfer Syntax UID; for a file without one, the uncompressed syntax it is written in.
        syntax_stated: False when the file has no Transfer Syntax UID.
        has_prefix: the file has the `DICM` prefix or a file meta group.
        explicit: the data set is in explicit VR.
        sequences: raw bytes of whole sequence elements asked for, by tag.
        pixels: the pixel data element, None if the data set ended before one.
        cut_at: tag of the element the file ended in, None if it did not.
        data: the file to read pixels from (the unpacked one when the data set is deflated).
        size: of `data`.
    """

    __slots__ = (
        "cut_at",
        "data",
        "explicit",
        "has_prefix",
        "pixels",
        "sequences",
        "size",
        "syntax",
        "syntax_stated",
    )

    def __init__(
        self,
        window: Window,
        meta: dict[int, bytes],
        syntax: str,
        has_prefix: bool,
        explicit: bool,
        little: bool,
    ) -> None:
        super().__init__(meta, little)
        self.syntax = syntax or _native_syntax(explicit, little)
        self.syntax_stated = bool(syntax)
        self.has_prefix = has_prefix
        self.explicit = explicit
        self.data = window.file
        self.size = window.size
        self.sequences: dict[int, bytes] = {}
        self.pixels: PixelElement | None = None
        self.cut_at: int | None = None

    def items(
        self, tag: int, wanted: frozenset[int], macros: Mapping[int, frozenset[int]] | None = None
    ) -> Iterator[Elements]:
        """The items of a sequence asked for, each as the wanted elements of it.

        Args:
            tag: of the sequence.
            wanted: elements that stand in the items themselves.
            macros: tags of sequences of one item in the items, and the elements wanted from those.

        Raises:
            Refusal: the sequence is damaged.
        """
        raw = self.sequences.get(tag)
        if raw is None:
            return
        walker = Walker(Window(BytesIO(raw)), self.explicit, self.little)
        for sequence in walker.elements(0, len(raw), self.explicit):
            for start, end, explicit in walker.items(sequence):
                values: dict[int, bytes] = {}
                for element in walker.elements(start, end, explicit):
                    if element.tag in wanted:
                        _keep(walker, element, values)
                    elif macros and element.tag in macros:
                        _keep_first_item(walker, element, macros[element.tag], values)
                yield Elements(values, self.little, self.character_set)


def _keep(walker: Walker, element: Element, values: dict[int, bytes]) -> None:
    length = element.end - element.start
    if length <= MAX_VALUE and not element.undefined:
        values.setdefault(element.tag, walker.window.read(element.start, length))


def _keep_first_item(
    walker: Walker, sequence: Element, wanted: frozenset[int], values: dict[int, bytes]
) -> None:
    for start, end, explicit in walker.items(sequence):
        for element in walker.elements(start, end, explicit):
            if element.tag in wanted:
                _keep(walker, element, values)
        return


def read_header(file: IO[bytes], values: frozenset[int], sequences: frozenset[int]) -> Header:
    """Read a DICOM header.

    Args:
        file: open for reading, at its start, seekable.
        values: tags whose values to keep.
        sequences: tags of sequences to keep whole.

    Raises:
        Refusal: not DICOM, empty, or a header that cannot be parsed.
    """
    window = Window(file)
    if window.size == 0:
        raise Refusal(Reason.EMPTY_FILE, "0 bytes")
    meta_start = _find_meta(window)
    syntax, position = "", 0
    meta: dict[int, bytes] = {}
    if meta_start is not None:
        position = _read_meta(window, meta_start, meta)
        syntax = meta.get(tags.TRANSFER_SYNTAX_UID, b"").decode("latin-1").strip(" \0")
    if syntax == DEFLATED:
        window = Window(inflate(file, position))
        position = 0
    explicit, little = _encoding(window, position, syntax)
    header = Header(window, meta, syntax, meta_start is not None, explicit, little)
    _fill(header, window, position, meta, values, sequences)
    header.character_set = header.text(tags.SPECIFIC_CHARACTER_SET)
    return header


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes (132 or all of it) may be DICOM."""
    try:
        _find_meta(Window(BytesIO(head)))
    except Refusal:
        return False
    return True


def inflated(file: IO[bytes]) -> IO[bytes]:
    """The unpacked data set of a deflated file.

    Raises:
        Refusal: see `inflate`.
    """
    window = Window(file)
    start = _find_meta(window)
    return inflate(file, 0 if start is None else _read_meta(window, start, {}))


def _fill(
    header: Header,
    window: Window,
    position: int,
    values: dict[int, bytes],
    wanted: frozenset[int],
    sequences: frozenset[int],
) -> None:
    """Walk from `position` to the pixel data or the end of the file, and keep what is asked for."""
    walker, size = Walker(window, header.explicit, header.little), window.size
    while (position := walker.short_elements(position, wanted, values)) < size:
        found = walker.head(position, header.explicit)
        if found is None:
            header.cut_at = 0
            return
        tag, vr, start, length = found
        if tag == PIXEL_DATA or tag in FLOAT_PIXEL_DATA:
            header.pixels = PixelElement(tag, vr, start, None if length == UNDEFINED else length)
            return
        end = walker.sequence_end(start, vr) if length == UNDEFINED else start + length
        if end is None or end > size:
            header.cut_at = tag
            return
        if tag in wanted and length <= MAX_VALUE:
            values[tag] = window.read(start, length)
        elif tag in sequences and end - position <= MAX_SEQUENCE:
            header.sequences[tag] = window.read(position, end - position)
        position = end


def _find_meta(window: Window) -> int | None:
    """Where the file meta group starts, None if there is none but the bytes look like a data set.

    Raises:
        Refusal: the file does not look like DICOM.
    """
    if window.read(128, 4) == b"DICM":
        return 132
    first = window.read(0, 8)
    if first[:4] == b"DICM":
        return 4
    if first[:2] == b"\x02\x00" and first[4:6].isalpha():
        return 0
    # A data set without meta information starts with group 0008: old archives and dumps of C-STORE.
    group_little, group_big = first[:2] == b"\x08\x00", first[:2] == b"\x00\x08"
    if len(first) == 8 and ((group_little and first[3] == 0) or (group_big and first[2] == 0)):
        return None
    raise Refusal(Reason.NOT_DICOM)


def _read_meta(window: Window, position: int, meta: dict[int, bytes]) -> int:
    """Collect group 0002, which is always explicit little endian; return where the data set starts."""
    while True:
        head = window.read(position, 12)
        if head[:2] != b"\x02\x00" or len(head) < 8:
            return position
        tag = 0x00020000 | struct.unpack_from("<H", head, 2)[0]
        if head[4:6] in LONG_VRS:
            start, length = position + 12, struct.unpack_from("<L", head.ljust(12, b"\0"), 8)[0]
        else:
            start, length = position + 8, struct.unpack_from("<H", head, 6)[0]
        if start + length > window.size:
            raise Refusal(Reason.TRUNCATED, "the file ends inside its meta information")
        if length <= 1024:
            meta[tag] = window.read(start, length)
        position = start + length


def _encoding(window: Window, position: int, syntax: str) -> tuple[bool, bool]:
    """(explicit, little endian), believing the first element over a transfer syntax that contradicts it."""
    first = window.read(position, 6)
    if len(first) < 6:
        return syntax != IMPLICIT_LITTLE, syntax != EXPLICIT_BIG
    explicit = is_vr(first[4:6])
    if syntax:
        return explicit, syntax != EXPLICIT_BIG
    return explicit, first[0] != 0


def _native_syntax(explicit: bool, little: bool) -> str:
    if not little:
        return EXPLICIT_BIG
    return EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE
