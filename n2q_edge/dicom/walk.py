"""Step over the elements of a DICOM data set, at any depth, without converting a value.

Own code because a tree may hold 100,000 files, and pydicom's reader needs three times as long for each
header; it converts values later, wherever they are used, with an exception of another kind for each way a
file can be damaged. Here the structure is walked in one pass, linear in the bytes and bounded in depth, and
every failure is a `Refusal`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, NoReturn

from n2q_edge.dicom.reasons import Reason, Refusal

PIXEL_GROUP = 0x7FE0
UNDEFINED = 0xFFFFFFFF
WINDOW = 16 * 1024  # one read covers most headers
MAX_DEPTH = 64
MAX_ELEMENTS = 2_000_000  # 100 for each of 20,000 frames; gigabytes of empty ones would take hours
LONG_HEAD = 12  # bytes of an element before its value, at most

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


class Window:
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


@dataclass(frozen=True, slots=True)
class Element:
    """Where one element is: its head at `head`, its value from `start` to `end`."""

    tag: int
    vr: str | None
    head: int
    start: int
    end: int
    undefined: bool


class Walker:
    """Finds elements in a window; `explicit` and `little` say how they are written."""

    def __init__(self, window: Window, explicit: bool, little: bool) -> None:
        self.window = window
        self.explicit = explicit
        self._left = MAX_ELEMENTS
        order = "<" if little else ">"
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "L")
        self._head = struct.Struct(order + "HH2sH")

    def short_elements(self, position: int, wanted: frozenset[int], values: dict[int, bytes]) -> int:
        """Step over explicit elements with a short length while they lie in the window: most of a header.

        One loop without a call for an element: a header has a hundred or two of them.

        Returns:
            Where the first element is that is not of this kind.
        """
        if not self.explicit:
            return position
        buffer, offset = self.window.whole_elements(position)
        unpack = self._head.unpack_from
        at, size = position - offset, len(buffer)
        while at <= size - LONG_HEAD:
            group, number, vr, length = unpack(buffer, at)
            end = at + 8 + length
            if vr not in SHORT_VRS or end > size or group >= PIXEL_GROUP:
                break
            tag = group << 16 | number
            if tag in wanted:
                values[tag] = buffer[at + 8 : end]
            at = end
        self._left -= (at + offset - position) // 8  # no fewer bytes an element
        if self._left < 0:
            self._refuse()
        return at + offset

    def head(self, position: int, explicit: bool) -> tuple[int, str | None, int, int] | None:
        """(tag, VR, offset of the value, length) of an element; None if the file ends in it."""
        self._left -= 1
        if self._left < 0:
            self._refuse()
        head = self.window.read(position, LONG_HEAD)
        if len(head) < 8:
            return None
        group, number = self._tag.unpack_from(head)
        tag = group << 16 | number
        vr = head[4:6]
        # Some writers fall back to implicit VR inside an explicit data set; items never have a VR.
        if not explicit or group == 0xFFFE or not is_vr(vr):
            return tag, None, position + 8, self._long.unpack_from(head, 4)[0]
        if vr not in LONG_VRS:
            return tag, vr.decode("ascii"), position + 8, self._short.unpack_from(head, 6)[0]
        if len(head) < LONG_HEAD:
            return None
        return tag, vr.decode("ascii"), position + LONG_HEAD, self._long.unpack_from(head, 8)[0]

    def sequence_end(self, position: int, vr: str | None, depth: int = 0) -> int | None:
        """The end of a sequence of undefined length whose first item is at `position`.

        None if the file ends in it.

        Raises:
            Refusal: it holds something else than items, or is nested too deep.
        """
        if depth > MAX_DEPTH:
            raise Refusal(Reason.CORRUPT_HEADER, f"sequences nested more than {MAX_DEPTH} deep")
        explicit = self._explicit_inside(vr)
        while True:
            found = self.head(position, explicit)
            if found is None:
                return None
            tag, _, start, length = found
            if tag == _SEQUENCE_END:
                return start
            if tag != _ITEM:
                raise Refusal(Reason.CORRUPT_HEADER, f"a sequence holds {_name(tag)} where an item should be")
            end = self._item_end(start, explicit, depth) if length == UNDEFINED else start + length
            if end is None:
                return None
            position = end

    def _item_end(self, position: int, explicit: bool, depth: int) -> int | None:
        """The end of an item of undefined length; None if the file ends in it."""
        while True:
            found = self.head(position, explicit)
            if found is None:
                return None
            tag, vr, start, length = found
            if tag == _ITEM_END:
                return start
            end = self.sequence_end(start, vr, depth + 1) if length == UNDEFINED else start + length
            if end is None:
                return None
            position = end

    def elements(self, start: int, end: int, explicit: bool) -> Iterator[Element]:
        """The elements between two offsets, of an item or a data set.

        Raises:
            Refusal: one reaches beyond the end.
        """
        position = start
        while position < end:
            found = self.head(position, explicit)
            if found is None:
                raise _overrun()
            tag, vr, value, length = found
            if tag == _ITEM_END:
                return
            undefined = length == UNDEFINED
            stop = self.sequence_end(value, vr) if undefined else value + length
            if stop is None or stop > end:
                raise _overrun()
            yield Element(tag, vr, position, value, stop, undefined)
            position = stop

    def items(self, sequence: Element) -> Iterator[tuple[int, int, bool]]:
        """(start, end, explicit) of the elements of every item of a sequence.

        Raises:
            Refusal: it is not a sequence, or an item reaches beyond its end.
        """
        if sequence.vr not in (None, "SQ", "UN"):
            raise Refusal(Reason.CORRUPT_HEADER, f"{_name(sequence.tag)} is not a sequence")
        explicit = self._explicit_inside(sequence.vr)
        position = sequence.start
        while position < sequence.end:
            found = self.head(position, explicit)
            if found is None:
                raise _overrun()
            tag, _, start, length = found
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise Refusal(Reason.CORRUPT_HEADER, f"a sequence holds {_name(tag)} where an item should be")
            end = self._item_end(start, explicit, 0) if length == UNDEFINED else start + length
            if end is None or end > sequence.end:
                raise _overrun()
            yield start, end, explicit
            position = end

    @staticmethod
    def _refuse() -> NoReturn:
        raise Refusal(Reason.CORRUPT_HEADER, f"more than {MAX_ELEMENTS} elements")

    def _explicit_inside(self, vr: str | None) -> bool:
        """PS3.5 6.2.2: a UN element of undefined length holds an implicit VR sequence."""
        return self.explicit and vr != "UN"


def is_vr(two: bytes) -> bool:
    """Whether two bytes may be a value representation: capital letters."""
    return len(two) == 2 and 0x41 <= two[0] <= 0x5A and 0x41 <= two[1] <= 0x5A


def _overrun() -> Refusal:
    return Refusal(Reason.CORRUPT_HEADER, "an element reaches beyond the sequence or item it is in")


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
