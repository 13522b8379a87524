"""`n2q-edge reference`: a site learns from its own full-dose series."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from n2q_edge.cli import main
from n2q_edge.quality.reference import ReferenceNoise
from n2q_edge.quality.site_reference import load
from tests.helpers.fakes import SPACING_MM, phantom, write_series

PROTOCOL = {
    "manufacturer": "ACME", "model": "One", "kernel": "STANDARD", "slice_thickness_mm": 5.0, "kvp": 120.0
}  # fmt: skip


def full_dose(folder: Path, number: int, sigma: float, slices: int = 7) -> None:
    """A series of an ACME One with white noise of so many HU."""
    rng = np.random.default_rng(number)
    images = [(phantom(160) + rng.normal(0, sigma, (160, 160))).astype(np.float32) for _ in range(slices)]
    write_series(folder, images, number)
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.Manufacturer, data.ManufacturerModelName = "ACME", "One"
        data.save_as(path)


def test_a_site_learns_its_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three series at 9, 10 and 11 HU: the geometric mean is 9.97; the body is a disk of 0.6 * 160 pixels."""
    for number, sigma in enumerate((9.0, 10.0, 11.0), start=1):
        full_dose(tmp_path / "in" / str(number), number, sigma)
    out = tmp_path / "site.json"
    assert main(["reference", str(tmp_path / "in"), "-o", str(out), "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "ACME One, kernel STANDARD, 5 mm, 120 kV" in printed
    assert "21 slices of 3 series" in printed
    entry = load(out).entries[0]
    assert entry.diameter_mm == pytest.approx(0.6 * 160 * SPACING_MM, rel=0.05)
    found = load(out).noise(PROTOCOL, entry.diameter_mm)
    assert isinstance(found, ReferenceNoise)
    assert found.noise_hu == pytest.approx(9.97, rel=0.05)
    assert "SECRET" not in out.read_text()  # the name and the ID of the patient in every file


def test_too_little_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full_dose(tmp_path / "in", 1, 10.0)
    assert main(["reference", str(tmp_path / "in"), "-o", str(tmp_path / "site.json")]) == 4
    said = capsys.readouterr().err
    assert "slices 7, series 1; needed 20 and 3" in said
    assert not (tmp_path / "site.json").exists()


def test_nothing_is_replaced_without_being_asked(tmp_path: Path) -> None:
    out = tmp_path / "site.json"
    out.write_text("precious")
    assert main(["reference", str(tmp_path), "-o", str(out)]) == 2
    assert out.read_text() == "precious"
