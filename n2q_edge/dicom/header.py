"""Read the header of a DICOM file up to its pixel data, and nothing more.

Own code because a tree may hold 100,000 files, and pydicom's reader needs three times as long for each
header. It also reports two things that reader does not: where the pixels start, and whether the file ended
in the middle of an element. Only the elements asked for are kept, as raw bytes. Nested content (functional
groups) is handed to pydicom.
"""

from __future__ import annotations

import math
import struct
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO, Any

from n2q_edge.dicom.reasons import Reason, Refusal

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE_SYNTAXES = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})

PIXEL_GROUP = 0x7FE0
PIXEL_DATA = 0x7FE00010
FLOAT_PIXEL_DATA = (0x7FE00008, 0x7FE00009)
UNDEFINED = 0xFFFFFFFF

WINDOW = 16 * 1024  # one read covers most headers
SPOOL_IN_MEMORY = 8 * 1024 * 1024  # unpacked data larger than this goes to a temporary file
MAX_UNPACKED = 4 * 1024**3  # a deflated file or zip member beyond this is taken for a bomb
MAX_VALUE = 64 * 1024  # no value asked for is larger
MAX_SEQUENCE = 256 * 1024 * 1024  # functional groups of 100,000 frames
MAX_DEPTH = 64
LONG_HEAD = 12  # bytes of an element before its value, at most

_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


@dataclass
class PixelElement:
    """Where the pixel data is: `offset` of its value, and its `length` (None if encapsulated)."""

    tag: int
    vr: str | None
    offset: int
    length: int | None


@dataclass
class Header:
    """What the header of one file says.

    Attributes:
        syntax: Transfer Syntax UID; for a file without one, the uncompressed syntax it is written in.
        syntax_stated: False when the file has no Transfer Syntax UID.
        has_prefix: the file has the `DICM` prefix or a file meta group.
        explicit: the data set is in explicit VR.
        little: the data set is little endian.
        values: raw bytes of the elements asked for, by tag.
        sequences: raw bytes of whole sequence elements asked for, by tag.
        pixels: the pixel data element, None if the data set ended before one.
        cut_at: tag of the element the file ended in, None if it did not.
        data: the file to read pixels from (the unpacked one when the data set is deflated).
    """

    syntax: str
    syntax_stated: bool
    has_prefix: bool
    explicit: bool
    little: bool
    data: IO[bytes]
    size: int
    values: dict[int, bytes] = field(default_factory=dict)
    sequences: dict[int, bytes] = field(default_factory=dict)
    pixels: PixelElement | None = None
    cut_at: int | None = None

    def text(self, tag: int) -> str:
        """The value as text without padding; empty if absent."""
        return self.values.get(tag, b"").decode("latin-1").strip(" \0\n\r\t")

    def uid(self, tag: int) -> str:
        """A UID. Damaged files put anything there, so: printable characters, no more than a UID can have."""
        text = self.text(tag)
        if not text.isprintable():
            text = "".join(character for character in text if character.isprintable())
        return text[:64]

    def texts(self, tag: int) -> list[str]:
        """The values of a multi-valued text element."""
        text = self.text(tag)
        return [part.strip(" \0") for part in text.split("\\")] if text else []

    def numbers(self, tag: int) -> tuple[float, ...] | None:
        """The values of a DS or IS element; None if absent, empty or not finite numbers."""
        return parse_numbers(self.text(tag))

    def number(self, tag: int) -> float | None:
        """The first value of a DS or IS element."""
        values = self.numbers(tag)
        return values[0] if values else None

    def integer(self, tag: int, signed: bool = False) -> int | None:
        """The first value of a US or SS element; None if absent or empty."""
        value = self.values.get(tag, b"")[:2]
        return (
            int.from_bytes(value, "little" if self.little else "big", signed=signed)
            if len(value) == 2
            else None
        )

    def dataset(self) -> Any:
        """The sequences asked for, as a pydicom `Dataset`.

        Raises:
            Refusal: they cannot be parsed.
        """
        from io import BytesIO

        from pydicom.filereader import read_dataset

        try:
            content = BytesIO(b"".join(self.sequences[tag] for tag in sorted(self.sequences)))
            return read_dataset(content, not self.explicit, self.little)
        except Exception as error:  # pydicom raises many kinds on damaged bytes; all mean the same here
            raise Refusal(Reason.CORRUPT_HEADER, f"functional groups cannot be parsed: {error}") from None


@lru_cache(maxsize=256)  # slices of a series share most of them, and then one object
def parse_numbers(text: str) -> tuple[float, ...] | None:
    """Read a DS or IS string; None if empty, or any part is not a finite number."""
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None


def read_header(file: IO[bytes], values: frozenset[int], sequences: frozenset[int]) -> Header:
    """Read a DICOM header.

    Args:
        file: open for reading, at its start, seekable.
        values: tags whose values to keep.
        sequences: tags of sequences to keep whole.

    Raises:
        Refusal: not DICOM, empty, or a header that cannot be parsed.
    """
    window = _Window(file)
    if window.size == 0:
        raise Refusal(Reason.EMPTY_FILE, "0 bytes")
    meta_start = _find_meta(window)
    syntax, position = "", 0
    meta: dict[int, bytes] = {}
    if meta_start is not None:
        position = _read_meta(window, meta_start, meta)
        syntax = meta.get(0x00020010, b"").decode("latin-1").strip(" \0")
    if syntax == DEFLATED:
        window = _Window(inflate(file, position))
        position = 0
    explicit, little = _encoding(window, position, syntax)
    header = Header(
        syntax=syntax or _native_syntax(explicit, little),
        syntax_stated=bool(syntax),
        has_prefix=meta_start is not None,
        explicit=explicit,
        little=little,
        data=window.file,
        size=window.size,
        values=meta,
    )
    _Walk(window, header, values, sequences).run(position)
    return header


def inflated(file: IO[bytes]) -> IO[bytes]:
    """The unpacked data set of a deflated file.

    Raises:
        Refusal: see `inflate`.
    """
    window = _Window(file)
    start = _find_meta(window)
    return inflate(file, 0 if start is None else _read_meta(window, start, {}))


def inflate(file: IO[bytes], position: int) -> IO[bytes]:
    """Unpack a raw deflate stream (PS3.5 A.5) that starts at `position`; a temporary file if large.

    Raises:
        Refusal: the stream is damaged, ends early or unpacks to more than `MAX_UNPACKED`.
    """
    # The caller keeps and closes it.
    unpacked = tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY)  # noqa: SIM115
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    file.seek(position)
    try:
        while not stream.eof:
            packed = stream.unconsumed_tail or file.read(1 << 18)
            if not packed:
                raise Refusal(Reason.TRUNCATED, "the deflated data set ends early")
            unpacked.write(stream.decompress(packed, 1 << 22))
            if unpacked.tell() > MAX_UNPACKED:
                raise Refusal(Reason.CORRUPT_HEADER, "the deflated data set unpacks to more than 4 GiB")
    except zlib.error as error:
        unpacked.close()
        raise Refusal(Reason.CORRUPT_HEADER, f"the deflated data set is damaged: {error}") from None
    except BaseException:
        unpacked.close()
        raise
    unpacked.seek(0)
    return unpacked


class _Window:
    """Random access to a file through one buffer, so that a header costs one read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        file.seek(0, 2)
        self.size = file.tell()
        self._start = 0
        file.seek(0)
        self._buffer = file.read(WINDOW)

    def read(self, position: int, count: int) -> bytes:
        """Up to `count` bytes at `position`; fewer at the end of the file."""
        start = position - self._start
        if start < 0 or start + count > len(self._buffer):
            self.file.seek(position)
            self._buffer = self.file.read(max(WINDOW, count))
            self._start = position
            start = 0
        return self._buffer[start : start + count]

    def whole_elements(self, position: int) -> tuple[bytes, int]:
        """The buffer and where it starts in the file, with the heads of elements from `position` on in it."""
        if not 0 <= position - self._start <= len(self._buffer) - LONG_HEAD:
            self.read(position, LONG_HEAD)
        return self._buffer, self._start


def _find_meta(window: _Window) -> int | None:
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


def _read_meta(window: _Window, position: int, meta: dict[int, bytes]) -> int:
    """Collect group 0002, which is always explicit little endian; return where the data set starts."""
    while True:
        head = window.read(position, 12)
        if head[:2] != b"\x02\x00" or len(head) < 8:
            return position
        tag = 0x00020000 | struct.unpack_from("<H", head, 2)[0]
        if head[4:6] in _LONG_VRS:
            start, length = position + 12, struct.unpack_from("<L", head.ljust(12, b"\0"), 8)[0]
        else:
            start, length = position + 8, struct.unpack_from("<H", head, 6)[0]
        if start + length > window.size:
            raise Refusal(Reason.TRUNCATED, "the file ends inside its meta information")
        if length <= 1024:
            meta[tag] = window.read(start, length)
        position = start + length


def _encoding(window: _Window, position: int, syntax: str) -> tuple[bool, bool]:
    """(explicit, little endian), believing the first element over a transfer syntax that contradicts it."""
    first = window.read(position, 6)
    if len(first) < 6:
        return syntax != IMPLICIT_LITTLE, syntax != EXPLICIT_BIG
    explicit = _is_vr(first[4:6])
    if syntax:
        return explicit, syntax != EXPLICIT_BIG
    return explicit, first[0] != 0


def _native_syntax(explicit: bool, little: bool) -> str:
    if not little:
        return EXPLICIT_BIG
    return EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE


def _is_vr(two: bytes) -> bool:
    return len(two) == 2 and 0x41 <= two[0] <= 0x5A and 0x41 <= two[1] <= 0x5A


class _Walk:
    """Steps over the elements of a data set and fills in a `Header`."""

    def __init__(
        self, window: _Window, header: Header, values: Iterable[int], sequences: Iterable[int]
    ) -> None:
        self._window = window
        self._header = header
        self._values = values
        self._sequences = sequences
        order = "<" if header.little else ">"
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "L")
        self._head = struct.Struct(order + "HH2sH")

    def run(self, position: int) -> None:
        """Walk from `position` to the pixel data or the end of the file."""
        header, size = self._header, self._window.size
        while (position := self._short_elements(position)) < size:
            element = self._element(position, header.explicit)
            if element is None:
                header.cut_at = 0
                return
            tag, vr, start, length = element
            if tag == PIXEL_DATA or tag in FLOAT_PIXEL_DATA:
                header.pixels = PixelElement(tag, vr, start, None if length == UNDEFINED else length)
                return
            end = self._skip_items(start, vr, 0) if length == UNDEFINED else start + length
            if end is None or end > size:
                header.cut_at = tag
                return
            if tag in self._values and length <= MAX_VALUE:
                header.values[tag] = self._window.read(start, length)
            elif tag in self._sequences and end - position <= MAX_SEQUENCE:
                header.sequences[tag] = self._window.read(position, end - position)
            position = end

    def _short_elements(self, position: int) -> int:
        """Step over explicit elements with a short length while they lie in the window: most of a header.

        One loop without a call for an element: a header has a hundred or two of them.

        Returns:
            Where the first element is that is not of this kind.
        """
        if not self._header.explicit:
            return position
        buffer, offset = self._window.whole_elements(position)
        unpack, wanted, values = self._head.unpack_from, self._values, self._header.values
        at, size = position - offset, len(buffer)
        while at <= size - LONG_HEAD:
            group, number, vr, length = unpack(buffer, at)
            end = at + 8 + length
            if vr not in _SHORT_VRS or end > size or group >= PIXEL_GROUP:
                break
            tag = group << 16 | number
            if tag in wanted:
                values[tag] = buffer[at + 8 : end]
            at = end
        return at + offset

    def _element(self, position: int, explicit: bool) -> tuple[int, str | None, int, int] | None:
        """(tag, VR, offset of the value, length) of an element; None if the file ends in it."""
        head = self._window.read(position, 12)
        if len(head) < 8:
            return None
        group, number = self._tag.unpack_from(head)
        tag = group << 16 | number
        vr = head[4:6]
        # Some writers fall back to implicit VR inside an explicit data set; items never have a VR.
        if not explicit or group == 0xFFFE or not _is_vr(vr):
            return tag, None, position + 8, self._long.unpack_from(head, 4)[0]
        if vr not in _LONG_VRS:
            return tag, vr.decode(), position + 8, self._short.unpack_from(head, 6)[0]
        if len(head) < 12:
            return None
        return tag, vr.decode(), position + 12, self._long.unpack_from(head, 8)[0]

    def _skip_items(self, position: int, vr: str | None, depth: int) -> int | None:
        """The end of a sequence of undefined length; None if the file ends in it."""
        if depth > MAX_DEPTH:
            raise Refusal(Reason.CORRUPT_HEADER, f"sequences nested more than {MAX_DEPTH} deep")
        # PS3.5 6.2.2: a UN element of undefined length holds an implicit VR sequence.
        explicit = self._header.explicit and vr != "UN"
        while True:
            element = self._element(position, explicit)
            if element is None:
                return None
            tag, _, start, length = element
            if tag == _SEQUENCE_END:
                return start
            if tag != _ITEM:
                raise Refusal(Reason.CORRUPT_HEADER, f"a sequence holds {_name(tag)} where an item should be")
            end = self._skip_item(start, explicit, depth) if length == UNDEFINED else start + length
            if end is None:
                return None
            position = end

    def _skip_item(self, position: int, explicit: bool, depth: int) -> int | None:
        """The end of an item of undefined length; None if the file ends in it."""
        while True:
            element = self._element(position, explicit)
            if element is None:
                return None
            tag, vr, start, length = element
            if tag == _ITEM_END:
                return start
            end = self._skip_items(start, vr, depth + 1) if length == UNDEFINED else start + length
            if end is None:
                return None
            position = end


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
