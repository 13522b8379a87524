"""Fixtures that several test modules use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from n2q_edge.arrays import FloatArray
from tests.helpers.fakes import phantom, write_series
from tests.helpers.paths import SHARED


@pytest.fixture
def shared_dir() -> Path:
    """Real CT and the zoo of DICOM oddities, kept beside the repository; absent on most machines."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the repository")
    return SHARED


@pytest.fixture
def ct_series(tmp_path: Path) -> Callable[..., Path]:
    """Write a CT series into a new folder: `ct_series(slices=3)` or `ct_series(images=[...], number=2)`."""

    def write(slices: int = 3, images: Sequence[FloatArray] | None = None, number: int = 1) -> Path:
        folder = tmp_path / f"series{number}"
        write_series(folder, images or [phantom()] * slices, number)
        return folder

    return write
