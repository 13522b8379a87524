"""Names and numbers as text that any terminal, CSV file or picture can show."""

from __future__ import annotations

from pathlib import Path

FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


def printable(value: object) -> str:
    r"""A path or a DICOM value without what could break a line or drive a terminal.

    Bytes that are not UTF-8 and control characters become escapes: `\udcff`, `\x1b`.
    """
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def cell(value: object) -> object:
    """A cell of a CSV file: text that a spreadsheet would run as a formula begins with an apostrophe.

    Source: OWASP, CSV injection. Numbers, negative ones too, stay numbers.
    """
    if not isinstance(value, str) or value[:1] not in FORMULA_BEGINS:
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def shorten(path: Path | str, width: int) -> str:
    """The end of a path, which tells slices apart, in at most `width` characters."""
    text = printable(path)
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]


def percent(level: float) -> str:
    """A dose level: 25.0 -> '25 %', 2.5 -> '2.5 %'."""
    return f"{level:g} %"


def number(value: float | None, digits: int) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
