"""The phantom series: valid DICOM, known truth, noise that follows the dose."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from n2q_edge.errors import MissingDependencyError, UsageError

pytest.importorskip("numba")

from n2q_edge.quality.body import body_mask
from n2q_edge.quality.domain import deviations, measure
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.runtimes import open_model
from n2q_edge.simulation.noise import DEFAULT_ELECTRONIC_QUANTA, noise_images
from n2q_edge.simulation.phantom import SLICE_THICKNESS_MM, Phantom
from n2q_edge.simulation.series import (
    FIELD_OF_VIEW_MM,
    KERNEL_CUTOFF,
    QUANTA_PER_MM,
    PhantomScan,
    scan_noise,
    write_phantom,
    write_scan,
)

SCAN = PhantomScan(slices=3, dose=0.25, seed=7, size=128)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "out"
    for _ in write_scan(out, SCAN, full_dose=True):
        pass
    return out


def _series(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def _hu(dataset: Dataset) -> NDArray[np.float64]:
    return np.asarray(dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))


def test_files_hold_what_was_simulated_rounded_to_whole_hu(written: Path) -> None:
    phantom = Phantom(SCAN.seed)
    for index, (full, low) in enumerate(
        zip(_series(written / "dose-100"), _series(written / "dose-25"), strict=True)
    ):
        scanned = SCAN.acquire(phantom, index)
        assert np.array_equal(_hu(full), np.rint(scanned.full_dose))
        assert np.array_equal(_hu(low), np.rint(scanned.low_dose))


def test_geometry_rises_with_the_instance_number_and_is_centred(written: Path) -> None:
    for number, dataset in enumerate(_series(written / "dose-25"), start=1):
        assert dataset.InstanceNumber == number
        assert dataset.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
        # Three slices over 120 mm: middles at 20, 60 and 100 mm.
        assert dataset.ImagePositionPatient[2] == pytest.approx(40 * number - 20)
        for axis in (0, 1):
            last = dataset.ImagePositionPatient[axis] + 127 * dataset.PixelSpacing[axis]
            assert dataset.ImagePositionPatient[axis] == pytest.approx(-last, abs=1e-4)
        assert 128 * dataset.PixelSpacing[0] == pytest.approx(FIELD_OF_VIEW_MM)


def test_the_twins_share_study_and_space_but_not_series(written: Path) -> None:
    full, low = (_series(written / name) for name in ("dose-100", "dose-25"))
    everything = full + low
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({dataset[keyword].value for dataset in everything}) == 1
    assert len({dataset.SeriesInstanceUID for dataset in full}) == 1
    assert {dataset.SeriesInstanceUID for dataset in full} != {dataset.SeriesInstanceUID for dataset in low}
    assert len({dataset.SOPInstanceUID for dataset in everything}) == 6
    for source, derived in zip(full, low, strict=True):
        assert source.ImagePositionPatient == derived.ImagePositionPatient
        assert derived.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_tags_tell_the_truth(written: Path) -> None:
    full, low = _series(written / "dose-100")[0], _series(written / "dose-25")[0]
    assert list(full.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert list(low.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
    for dataset, share in ((full, 1.0), (low, 0.25)):
        assert dataset.SyntheticData == "YES"
        assert "no patient" in dataset.ImageComments
        assert dataset.XRayTubeCurrent == 200 * share
        assert dataset.Exposure == 100 * share  # mAs: 200 mA for 0.5 s
        assert dataset.CTDIvol == pytest.approx(8.0 * share)


@pytest.mark.peer
def test_dciodvfy_has_nothing_to_say(written: Path) -> None:
    beside = Path(sys.executable).with_name("dciodvfy")
    program = str(beside) if beside.exists() else shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (package dicom3tools) is not installed")
    for path in (written / "dose-100" / "001.dcm", written / "dose-25" / "003.dcm"):
        done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False)
        said = (done.stdout + done.stderr).splitlines()
        assert "CTImage" in said  # it recognised the object
        assert [line for line in said if line.startswith(("Error", "Warning"))] == []


@pytest.mark.peer
def test_simpleitk_reads_a_volume_in_place(written: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(written / "dose-25")))
    volume = reader.Execute()
    pixel = 380 / 128
    assert volume.GetSize() == (128, 128, 3)
    assert volume.GetSpacing() == pytest.approx((pixel, pixel, 40.0))
    assert volume.GetOrigin() == pytest.approx((-63.5 * pixel, -63.5 * pixel, 20.0), abs=1e-3)
    assert volume.GetDirection() == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))
    middle = _series(written / "dose-25")[1]
    assert np.array_equal(sitk.GetArrayFromImage(volume)[1], _hu(middle))


@pytest.fixture(scope="module")
def liver() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    hu = Phantom(0).slice_hu(62.5, 128, FIELD_OF_VIEW_MM / 128)
    mask = (hu > 98) & (hu < 118) & (np.arange(128) < 60)
    assert mask.sum() > 500
    return hu, mask


def _draws(hu: NDArray[np.float32], dose: float, count: int = 24) -> NDArray[np.float32]:
    """[count,2,H,W]: full-dose noise and inserted noise of independent scans."""
    return np.array(
        [
            scan_noise(hu, 380 / 128, dose, np.random.default_rng(2 * k), np.random.default_rng(2 * k + 1))
            for k in range(count)
        ]
    )


def test_noise_in_the_liver_grows_as_the_root_of_one_over_dose(
    liver: tuple[NDArray[np.float32], NDArray[np.bool_]],
) -> None:
    """24 draws x > 500 pixels, of which neighbours correlate over some 4: the std is known to about 1.3 %.

    Electronic noise adds to the root law: its share of the variance is Ne r / D with Ne r about 1 %, so 2 %
    of the standard deviation at a quarter dose.
    """
    hu, mask = liver
    spread = {dose: _draws(hu, dose).sum(axis=1)[:, mask].std() for dose in (1.0, 0.5, 0.25)}
    assert spread[0.5] / spread[1.0] == pytest.approx(2**0.5, rel=0.05)
    assert spread[0.25] / spread[1.0] == pytest.approx(2.0, rel=0.06)


def test_noise_agrees_with_the_noise_of_training(
    liver: tuple[NDArray[np.float32], NDArray[np.bool_]],
) -> None:
    """Quantum variance / (N0 D) plus electronic variance Ne / (N0 D)^2, from noise images for one quantum."""
    hu, mask = liver
    pixel = 380 / 128
    quantum, electronic = noise_images(
        hu, pixel, KERNEL_CUTOFF, np.random.default_rng(99), quantum=24, electronic=24
    )
    incident = QUANTA_PER_MM * pixel * 0.05
    expected = quantum[:, mask].var() / incident + electronic[:, mask].var() * (
        DEFAULT_ELECTRONIC_QUANTA / incident**2
    )
    found = _draws(hu, 0.05).sum(axis=1)[:, mask].var()
    assert found == pytest.approx(expected, rel=0.10)  # two variances, each known to about 2.6 %


def test_inserted_noise_has_zero_mean_and_ignores_the_full_dose_noise(
    liver: tuple[NDArray[np.float32], NDArray[np.bool_]],
) -> None:
    hu, mask = liver
    draws = _draws(hu, 0.25)[:, :, mask]
    means = draws[:, 1].mean(axis=1)
    standard_error = means.std(ddof=1) / np.sqrt(len(means))
    assert abs(means.mean()) < 3 * standard_error
    correlation = [np.corrcoef(full, inserted)[0, 1] for full, inserted in draws]
    assert abs(np.mean(correlation)) < 3 * np.std(correlation, ddof=1) / np.sqrt(len(correlation))


def test_full_dose_noise_is_that_of_a_clinical_scan() -> None:
    """10 to 12 HU is a usual abdomen; the phantom's patients are thinner and thicker."""
    phantom = Phantom(0)
    hu = phantom.slice_hu(47.5)
    liver = (hu > 99) & (hu < 117) & (np.arange(512) < 230)
    noise, _ = scan_noise(hu, 380 / 512, 1.0, np.random.default_rng(0), np.random.default_rng(1))
    assert 8 < noise[liver].std() < 14


def test_the_phantom_is_like_what_the_released_model_was_trained_on() -> None:
    """Else `make demo` would warn; with a cutoff of 0.65 the noise was smoother than any in training."""
    pytest.importorskip("onnxruntime")
    scan = PhantomScan(slices=24, dose=0.25, seed=0)
    with open_model() as model:
        limits = model.spec.domain
    assert limits
    spacing = (scan.pixel_mm, scan.pixel_mm)
    for hu in scan.acquire(Phantom(scan.seed), 12):
        body = body_mask(hu, spacing)
        features = measure(hu, body, spacing, SLICE_THICKNESS_MM, global_noise_level(hu, body, spacing))
        assert deviations(features, limits) == ()


def test_the_same_seed_writes_the_same_bytes_with_or_without_the_twin(tmp_path: Path, written: Path) -> None:
    for _ in write_scan(tmp_path / "again", SCAN, full_dose=False):
        pass
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["dose-25"]
    for path in (tmp_path / "again" / "dose-25").iterdir():
        assert path.read_bytes() == (written / "dose-25" / path.name).read_bytes()


def test_another_seed_is_another_patient_and_another_dose_is_not(tmp_path: Path, written: Path) -> None:
    one = PhantomScan(slices=3, dose=0.5, seed=SCAN.seed, size=128)
    other = PhantomScan(slices=3, dose=0.25, seed=8, size=128)
    next(write_scan(tmp_path / "one", one, full_dose=True))
    next(write_scan(tmp_path / "other", other, full_dose=False))
    assert (tmp_path / "one/dose-100/001.dcm").read_bytes() == (written / "dose-100/001.dcm").read_bytes()
    half, quarter, stranger = (
        pydicom.dcmread(path)
        for path in (
            tmp_path / "one/dose-50/001.dcm",
            written / "dose-25/001.dcm",
            tmp_path / "other/dose-25/001.dcm",
        )
    )
    assert half.StudyInstanceUID == quarter.StudyInstanceUID != stranger.StudyInstanceUID
    assert len({x.SeriesInstanceUID for x in (half, quarter, stranger)}) == 3
    assert half.PixelData != quarter.PixelData != stranger.PixelData


def test_write_phantom_reports_each_slice_and_writes_512(tmp_path: Path) -> None:
    done: list[int] = []
    files = write_phantom(tmp_path / "new" / "out", slices=1, dose_percent=12.5, on_slice=done.append)
    assert done == [1]
    assert files == [tmp_path / "new/out/dose-12.5/001.dcm"]
    dataset = pydicom.dcmread(files[0])
    assert (dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.PixelRepresentation) == (
        512,
        512,
        16,
        1,
    )


def test_full_dose_alone_is_one_series(tmp_path: Path) -> None:
    scan = PhantomScan(slices=1, dose=1.0, seed=0, size=128)
    files = [path for each in write_scan(tmp_path / "out", scan, full_dose=True) for path in each]
    assert [path.parent.name for path in files] == ["dose-100"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"dose_percent": 0.0}, "dose"),
        ({"dose_percent": 100.5}, "dose"),
        ({"dose_percent": float("nan")}, "dose"),
        ({"slices": 0}, "slice"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_usage_errors(tmp_path: Path, arguments: dict[str, float], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        write_phantom(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_phantom(tmp_path, slices=1)
    with pytest.raises(UsageError, match="not an empty folder"):
        write_phantom(tmp_path / "mine.txt", slices=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_numba_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MissingDependencyError, match=r"\[sim\]"):
        write_phantom(tmp_path / "out", slices=1)
