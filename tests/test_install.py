"""The command that adds an extra to this copy, for the ways a copy can be installed (PEP 610)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from n2q_edge import install
from n2q_edge.errors import MissingDependencyError, require

COMMIT = "0123456789abcdef"
WAYS: dict[str, tuple[dict[str, Any] | None, str]] = {
    "index": (None, "pip install 'n2q-edge[cpu]'"),
    "checkout": (
        {"url": "file:///home/me/n2q-edge", "dir_info": {"editable": True}},
        "pip install -e '/home/me/n2q-edge[cpu]'",
    ),
    "folder": ({"url": "file:///home/me/n2q%20edge", "dir_info": {}}, "pip install '/home/me/n2q edge[cpu]'"),
    "wheel": (
        {"url": "file:///tmp/n2q_edge-1-py3-none-any.whl", "archive_info": {}},
        "pip install 'n2q-edge[cpu] @ file:///tmp/n2q_edge-1-py3-none-any.whl'",
    ),
    "address": (
        {"url": "https://x.example/n2q_edge-1-py3-none-any.whl", "archive_info": {"hash": "sha256=0"}},
        "pip install 'n2q-edge[cpu] @ https://x.example/n2q_edge-1-py3-none-any.whl'",
    ),
    "repository": (
        {"url": "https://x.example/r.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}},
        f"pip install 'n2q-edge[cpu] @ git+https://x.example/r.git@{COMMIT}'",
    ),
}


class Installed:
    def __init__(self, recorded: str | None) -> None:
        self._recorded = recorded

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self._recorded


@pytest.mark.parametrize("way", WAYS)
def test_the_command_fits_how_it_was_installed(
    way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    origin, command = WAYS[way]
    monkeypatch.setattr(install, "distribution", lambda _: Installed(origin and json.dumps(origin)))
    monkeypatch.setattr(install, "__file__", str(tmp_path / "site-packages" / "n2q_edge" / "install.py"))
    assert install.install_command("cpu") == command


def test_a_checkout_that_was_never_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "distribution", lambda _: Installed(None))
    monkeypatch.setattr(install, "__file__", str(tmp_path / "n2q_edge" / "install.py"))
    (tmp_path / "pyproject.toml").touch()
    assert install.install_command("sim") == f"pip install -e '{tmp_path}[sim]'"


def test_a_missing_package_names_extra_and_command() -> None:
    with pytest.raises(MissingDependencyError) as missing:
        require("no_such_package.part", "dicom")
    assert f"of the extra 'dicom': {install.install_command('dicom')}" in str(missing.value)
