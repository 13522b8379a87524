"""Tables between marks: a page written by hand, of which a program writes a part."""

from __future__ import annotations

from pathlib import Path

from n2q_edge.files import write_text

END = "<!-- end -->"


def fill(page: Path, begin: str, content: str) -> None:
    """Put `content` between the line `begin`, which the page must have, and the next line `END`."""
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    after = rest.split(END, 1)[1]
    write_text(page, f"{before}{begin}\n{content.rstrip()}\n{END}{after}")
