"""A lower dose of a series on disk: valid DICOM, the right noise, nothing overwritten."""

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("numba")

from n2q_edge.cli import main
from n2q_edge.dicom import LoadedSlice, iter_slices, scan
from n2q_edge.errors import ExitCode
from n2q_edge.simulation.series import PhantomScan, write_scan

SLICES, SIZE = 2, 512


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    list(write_scan(folder, PhantomScan(slices=SLICES, dose=1.0, seed=5, size=SIZE), full_dose=True))
    return folder


@pytest.fixture(scope="module")
def low(full: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("low") / "out"
    assert main(["simulate", str(full), "--dose", "25", "-o", str(out), "--quiet"]) == ExitCode.OK
    return out


def slices(folder: Path) -> list[LoadedSlice]:
    (series,) = scan([folder]).series
    return [item for item in iter_slices(series) if isinstance(item, LoadedSlice)]


def test_every_slice_has_a_low_dose_twin_at_its_place(full: Path, low: Path) -> None:
    before, after = slices(full), slices(low)
    assert len(after) == SLICES
    assert [item.ref.position_mm for item in after] == [item.ref.position_mm for item in before]


def test_added_noise_is_what_the_dose_asks_for(full: Path, low: Path) -> None:
    """At 25 % the inserted noise is sqrt(1/D - 1) = sqrt(3) times the scan's own, without bias.

    The phantom's noise is known: its scan less its anatomy. Electronic noise makes the inserted a little
    stronger.
    """
    from n2q_edge.simulation.patches import solid_tissue
    from n2q_edge.simulation.phantom import Phantom

    made = PhantomScan(slices=SLICES, dose=1.0, seed=5, size=SIZE)
    phantom = Phantom(5)
    for index, (before, after) in enumerate(zip(slices(full), slices(low), strict=True)):
        mask = solid_tissue(before.hu)
        own = (before.hu - phantom.slice_hu(made.z_mm(index), made.size, made.pixel_mm))[mask]
        added = (after.hu - before.hu)[mask]
        assert added.std() / own.std() == pytest.approx(np.sqrt(3.0), rel=0.12)
        assert abs(added.mean()) < 0.05 * added.std()


def test_the_copy_says_what_it_is(full: Path, low: Path) -> None:
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in full.rglob("*.dcm")}
    for path in low.rglob("*.dcm"):
        copy = pydicom.dcmread(path)
        assert copy.ImageType[0] == "DERIVED"
        assert "25 % of the dose" in copy.DerivationDescription
        assert copy.SourceImageSequence[0].ReferencedSOPInstanceUID in sources
        assert copy.SOPInstanceUID not in sources
        assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID


def test_the_same_seed_gives_the_same_files(full: Path, low: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["simulate", str(full), "--dose", "25", "-o", str(out), "--quiet"]) == ExitCode.OK
    first, second = slices(low), slices(out)
    for one, other in zip(first, second, strict=True):
        assert one.ref.sop_instance_uid == other.ref.sop_instance_uid
        np.testing.assert_allclose(one.hu, other.hu, atol=1.0)  # rounding to whole HU


@pytest.mark.parametrize("dose", ["0", "100", "-5", "250"])
def test_a_dose_out_of_range_is_refused(full: Path, tmp_path: Path, dose: str) -> None:
    arguments = ["simulate", str(full), f"--dose={dose}", "-o", str(tmp_path / "out")]
    assert main(arguments) == ExitCode.USAGE
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    assert main(["simulate", str(full), "--dose", "25", "-o", str(tmp_path)]) == ExitCode.USAGE
    assert "not a new or empty folder" in capsys.readouterr().err


def test_what_cannot_be_simulated_is_named(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One good slice and one of air: the first is written, the second named, exit code 3."""
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    good, other = sorted(full.rglob("*.dcm"))[:2]
    shutil.copy(good, mixed)
    air = pydicom.dcmread(other)
    air.PixelData = np.zeros((air.Rows, air.Columns), "<i2").tobytes()  # stored 0 is -1024 HU
    air.save_as(mixed / "air.dcm")
    out = tmp_path / "out"
    assert main(["simulate", str(mixed), "--dose", "50", "-o", str(out), "--quiet"]) == ExitCode.PARTIAL
    assert len(list(out.rglob("*.dcm"))) == 1
    assert "air.dcm" in capsys.readouterr().err


def test_without_any_ct_nothing_is_simulated(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    arguments = ["simulate", str(tmp_path / "in"), "--dose", "50", "-o", str(tmp_path / "out")]
    assert main(arguments) == ExitCode.NOTHING_ASSESSED
