"""Training data in zip archives: the header that was scanned is all it takes."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.fakes import phantom, write_series

pytest.importorskip("torch")
pytest.importorskip("numba")

from n2q_edge.dataset import collect
from n2q_edge.dataset.pairs import match
from n2q_edge.dicom import scan


def archived(folder: Path, archive: Path) -> Path:
    """Move the files of a folder into an archive."""
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*.dcm")):
            out.write(path, path.name)
            path.unlink()
    return archive


def test_a_folder_with_a_zip(tmp_path: Path) -> None:
    images = [phantom(128) + np.random.default_rng(seed).normal(0, 20, (128, 128)) for seed in (1, 2)]
    write_series(tmp_path / "data" / "plain", images, 1)
    write_series(tmp_path / "data" / "packed", images, 2)
    archived(tmp_path / "data" / "packed", tmp_path / "data" / "packed.zip")
    left_out: list[str | None] = []
    slices = collect.collect(
        [tmp_path / "data"], tmp_path / "cache", lambda done, total, reason: left_out.append(reason)
    )
    assert left_out == [None] * 4
    # The patient is told apart by a digest of Patient ID, in an archive or not.
    assert {each.patient for each in slices} == {hashlib.sha256(b"SECRET-ID").hexdigest()[:16]}


def test_pairs_in_an_archive(tmp_path: Path) -> None:
    write_series(tmp_path / "full", [phantom(128)] * 2, 1)
    write_series(tmp_path / "low", [phantom(128)] * 2, 1)
    archive = archived(tmp_path / "low", tmp_path / "low.zip")
    found = match(scan([tmp_path / "full"]).series, scan([archive]).series)
    assert len(found.pairs) == 2
    assert found.left_out == []
