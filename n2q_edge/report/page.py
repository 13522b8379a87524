"""What the HTML pages share: the template environment. Pages are one file, load nothing and run nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any

from markupsafe import Markup

from n2q_edge.report.text import printable

PIECE = 1000  # expressions of a template at a time
VERDICTS = {
    "usable": ("good", "✓", "Usable", "meets the standard"),
    "usable_does_not_meet": ("fair", "!", "Usable", "does not meet the standard"),
    "unusable": ("bad", "✕", "Unusable", "quality renders the images unusable"),
    None: ("none", "?", "Not judged", ""),
}
"""Of a verdict: style class, sign (color is never the only one), headline, what it means."""


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template; see `render_pieces`."""
    return "".join(render_pieces(template, context))


def render_pieces(template: str, context: Mapping[str, Any]) -> Iterator[str]:
    """Fill a template of `templates/` piece by piece; every value is escaped, control characters too.

    Args:
        template: file name.
        context: its values; a missing one is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("n2q_edge.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    stream = environment.get_template(template).stream(verdicts=VERDICTS, capital=capital, **context)
    stream.enable_buffering(PIECE)
    return stream


def data_uri(kind: str, data: bytes) -> Markup:
    """Bytes as a data URI of the media type `kind`."""
    return Markup(f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}")


def capital(text: str) -> str:
    """A clause as a sentence, its own capitals kept."""
    return text[:1].upper() + text[1:]
