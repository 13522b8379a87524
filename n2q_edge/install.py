"""How this copy of n2q-edge was installed, and so how an extra is added to it."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "n2q-edge"


def install_command(extra: str) -> str:
    """The command that adds an extra to this copy: from the same checkout, file, address or index.

    Installers record where a package is from in `direct_url.json` (PEP 610); one from an index has none.
    """
    return f"pip install {shlex.join(_requirement(extra, _origin()))}"


def _origin() -> dict[str, Any]:
    try:
        recorded = distribution(NAME).read_text("direct_url.json")
        origin: dict[str, Any] = json.loads(recorded) if recorded else {}
    except (PackageNotFoundError, ValueError):
        origin = {}
    source = Path(__file__).parents[1]
    if not origin and (source / "pyproject.toml").is_file():  # a checkout that was never installed
        return {"url": source.as_uri(), "dir_info": {"editable": True}}
    return origin


def _requirement(extra: str, origin: dict[str, Any]) -> list[str]:
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        folder = f"{url2pathname(urlsplit(url).path)}[{extra}]"
        return ["-e", folder] if origin["dir_info"].get("editable") else [folder]
    if "vcs_info" in origin:
        found = origin["vcs_info"]
        return [f"{NAME}[{extra}] @ {found['vcs']}+{url}@{found['commit_id']}"]
    return [f"{NAME}[{extra}] @ {url}" if url else f"{NAME}[{extra}]"]
