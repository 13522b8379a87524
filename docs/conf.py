"""The documentation site: `make docs` builds it, and a warning is an error."""

import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

from n2q_edge import __version__

project = "n2q-edge"
author = "n2q-edge developers"
copyright = "2026, n2q-edge developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["images"]
suppress_warnings = ["myst.header"]  # a page may skip a level of headings

myst_heading_anchors = 3
default_role = "code"  # docstrings mark code with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
napoleon_use_ivar = True

html_theme = "furo"
html_title = "n2q-edge"
html_copy_source = False


def write_commands(app: Sphinx) -> None:
    """Typer's own page of every command and option, from the command line as it is (git ignores the page)."""
    page = Path(app.srcdir, "reference", "commands.md")
    command = [sys.executable, "-m", "typer", "n2q_edge.cli", "utils", "docs", "--name", "n2q-edge"]
    subprocess.run([*command, "--title", "Commands", "--output", str(page)], check=True, capture_output=True)


def setup(app: Sphinx) -> None:
    """Sphinx calls this first."""
    app.connect("builder-inited", write_commands)
