"""Raw element values to numbers and text: the one place where the bytes of a file are converted.

No conversion raises. What is damaged reads as absent, so that the caller decides what that means.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Mapping
from functools import lru_cache

PADDING = " \0\n\r\t"
MAX_UID = 64  # characters (PS3.5 9.1)


class Elements:
    """Elements of a data set or of an item of a sequence, as raw bytes by tag.

    Attributes:
        values: raw bytes by tag.
        little: they are little endian.
        character_set: Specific Character Set of the data set they are from.
    """

    __slots__ = ("character_set", "little", "values")

    def __init__(self, values: Mapping[int, bytes], little: bool, character_set: str = "") -> None:
        self.values = values
        self.little = little
        self.character_set = character_set

    def __contains__(self, tag: int) -> bool:
        return tag in self.values

    def text(self, tag: int) -> str:
        """The value as text without padding; empty if absent. For text of the default repertoire."""
        return self.values.get(tag, b"").decode("latin-1").strip(PADDING)

    def words(self, tag: int) -> str:
        """Text in its character set; bytes it does not know become U+FFFD."""
        return decoded(self.values.get(tag, b"").strip(b" \0"), self.character_set)

    def uid(self, tag: int) -> str:
        """A UID. Damaged files put anything there, so: printable characters, no more than a UID can have."""
        text = self.text(tag)
        if not text.isprintable():
            text = "".join(character for character in text if character.isprintable())
        return text[:MAX_UID]

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

    def whole_number(self, tag: int) -> int | None:
        """The first value of an IS element."""
        number = self.number(tag)
        return int(number) if number is not None and number.is_integer() else None

    def double(self, tag: int) -> float | None:
        """The first value of an FD element; None if absent, too short or not finite."""
        value = self.values.get(tag, b"")
        if len(value) < 8:
            return None
        number: float = struct.unpack_from("<d" if self.little else ">d", value)[0]
        return number if math.isfinite(number) else None

    def integer(self, tag: int, signed: bool = False) -> int | None:
        """The first value of a US or SS element; None if absent or empty."""
        value = self.values.get(tag, b"")[:2]
        if len(value) < 2:
            return None
        return int.from_bytes(value, "little" if self.little else "big", signed=signed)


@lru_cache(maxsize=256)  # slices of a series share most of them, and then one object
def parse_numbers(text: str) -> tuple[float, ...] | None:
    """Read a DS or IS string; None if empty, or any part is not a finite number."""
    try:
        values = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None


def decoded(value: bytes, character_set: str) -> str:
    """Text in a Specific Character Set (PS3.3 C.12.1.1.2).

    Only its defined terms count: Python has codecs of any name (zlib, rot13, unicode_escape), and a file must
    not choose one of them. A term that is none is taken for the default, read as Latin-1.
    """
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    from pydicom.charset import convert_encodings, decode_bytes, python_encoding

    terms = [term.strip(" \0") for term in character_set.split("\\")]
    known = [term if term in python_encoding and term else "ISO_IR 100" for term in terms]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters in a description, which matter to nobody here
        try:
            return decode_bytes(value, convert_encodings(known), set())
        except (LookupError, ValueError):
            return value.decode("utf-8", "replace")
