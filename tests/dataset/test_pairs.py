"""Measured pairs: who belongs to whom, what is left out, and the noise that comes of it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.helpers.fakes import phantom, write_series

pytest.importorskip("torch")
pytest.importorskip("numba")

from n2q_edge.cli import main
from n2q_edge.dataset import cache
from n2q_edge.dataset.pairs import Matches, match, same_anatomy
from n2q_edge.dicom import scan
from n2q_edge.errors import ExitCode
from n2q_edge.model import checkpoint
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.simulation.lower_dose import simulate_lower_dose
from n2q_edge.simulation.noise import inserted_noise, noise_images
from n2q_edge.simulation.series import PhantomScan, write_scan

SLICES = 4
Edit = Callable[[pydicom.Dataset], None]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two patients at full dose, and simulated at a quarter of it."""
    folder = tmp_path_factory.mktemp("scans")
    for seed in (1, 2):
        scan_of = PhantomScan(slices=SLICES, dose=1.0, seed=seed, size=128)
        list(write_scan(folder / "full" / f"P{seed}", scan_of, full_dose=True))
    simulate_lower_dose([folder / "full"], folder / "low", dose_percent=25)
    (folder / "full" / "index.csv").write_text(
        "path,patient,split\n"
        + "".join(
            f"{path.relative_to(folder / 'full')},P{seed},{split}\n"
            for seed, split in ((1, "train"), (2, "test"))
            for path in sorted((folder / "full" / f"P{seed}").rglob("*.dcm"))
        )
    )
    return folder / "full", folder / "low"


def matched(full: Path, low: Path) -> Matches:
    return match(scan([full]).series, scan([low]).series)


def test_pairs_are_found_whatever_files_and_instances_are_called(
    scans: tuple[Path, Path], tmp_path: Path
) -> None:
    """Names and Instance Numbers shuffled, one slice lost. Each low-dose file names its source: the truth."""
    full, low = scans
    rng = np.random.default_rng(0)
    files = sorted(low.rglob("*.dcm"))
    lost, *kept = rng.permutation(files)
    for name, path in enumerate(kept):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = int(rng.integers(1, 1000))
        dataset.save_as(tmp_path / f"{name}.dcm")
    found = matched(full, tmp_path)
    assert len(found.pairs) == 2 * SLICES - 1
    for pair in found.pairs:
        source = pydicom.dcmread(pair.low.path).SourceImageSequence[0].ReferencedSOPInstanceUID
        assert source == pair.full.sop_instance_uid
    ((alone, reason),) = found.left_out
    assert alone.sop_instance_uid == pydicom.dcmread(lost).SourceImageSequence[0].ReferencedSOPInstanceUID
    assert reason == f"no low-dose slice within 0.1 mm of {alone.position_mm:g} mm"


def edited(folder: Path, edit: Edit) -> Path:
    """A low-dose series of two slices, at 0 and 5 mm; the first is edited."""
    write_series(folder, [phantom(96, 20), phantom(96, 40)], number=2)
    dataset = pydicom.dcmread(folder / "slice000.dcm")
    edit(dataset)
    dataset.save_as(folder / "slice000.dcm")
    return folder


def move(x: float, z: float) -> Edit:
    def edit(dataset: pydicom.Dataset) -> None:
        dataset.ImagePositionPatient = [x, 0, z]

    return edit


def crop(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = dataset.PixelData[: 96 * 48 * 2]
    dataset.Rows = 48


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (move(0, 0.2), "no low-dose slice within 0.1 mm of 0 mm"),
        (move(0.3, 0), "from (0, 0, 0) against 96x96 pixels of 0.8 x 0.8 mm from (0.3, 0, 0) at low dose"),
        (crop, "96x96 pixels of 0.8 x 0.8 mm from (0, 0, 0) against 48x96"),
        (lambda d: setattr(d, "PixelSpacing", [0.7, 0.7]), "against 96x96 pixels of 0.7 x 0.7 mm"),
        (lambda d: setattr(d, "ImageOrientationPatient", [0, 1, 0, -1, 0, 0]), "no low-dose slice within"),
        (lambda d: setattr(d, "SliceThickness", 3), "kernel STANDARD, 5 mm thick against kernel STANDARD, 3"),
        (lambda d: delattr(d, "ImagePositionPatient"), "no low-dose slice within"),
    ],
)
def test_what_is_not_the_same_but_for_its_dose_is_left_out(tmp_path: Path, edit: Edit, reason: str) -> None:
    write_series(tmp_path / "full", [phantom(96, 20), phantom(96, 40)], number=1)
    found = matched(tmp_path / "full", edited(tmp_path / "low", edit))
    assert [pair.full.position_mm for pair in found.pairs] == [5.0]
    reasons = {str(ref.path.relative_to(tmp_path)): why for ref, why in found.left_out}
    assert reasons.keys() == {"full/slice000.dcm", "low/slice000.dcm"}
    assert reason in reasons["full/slice000.dcm"]
    assert reasons["low/slice000.dcm"] == "low dose without a full-dose twin"


def test_a_position_in_the_tolerance_is_the_same(tmp_path: Path) -> None:
    write_series(tmp_path / "full", [phantom(96, 20), phantom(96, 40)], number=1)
    assert len(matched(tmp_path / "full", edited(tmp_path / "low", move(0.05, 0.05))).pairs) == 2


def change_all(folder: Path, **values: str) -> None:
    for path in folder.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)


def test_the_frame_of_reference_says_more_than_the_patient(tmp_path: Path) -> None:
    """The same patient was scanned twice: one of the low-dose series lies where the full-dose one does."""
    write_series(tmp_path / "full", [phantom(96, 20)], number=1)
    for name, number in (("here", 2), ("elsewhere", 3)):
        write_series(tmp_path / "low" / name, [phantom(96, 20)], number=number)
    found = matched(tmp_path / "full", tmp_path / "low")  # by the patient alone: either could be it
    assert found.pairs == []
    assert found.left_out[0][1] == "2 low-dose slices match it"
    frame = pydicom.dcmread(tmp_path / "full" / "slice000.dcm").FrameOfReferenceUID
    change_all(tmp_path / "low" / "here", FrameOfReferenceUID=frame)
    (pair,) = matched(tmp_path / "full", tmp_path / "low").pairs
    assert pair.low.path.parent.name == "here"


def test_another_patient_is_never_a_twin(tmp_path: Path) -> None:
    write_series(tmp_path / "full", [phantom(96, 20)], number=1)
    write_series(tmp_path / "low", [phantom(96, 20)], number=2)
    change_all(tmp_path / "low", PatientID="OTHER")
    found = matched(tmp_path / "full", tmp_path / "low")
    assert found.pairs == []
    assert "frame of reference or its patient" in found.left_out[0][1]


def test_two_full_dose_slices_cannot_share_a_twin(tmp_path: Path) -> None:
    for name, number in (("one", 1), ("copy", 3)):
        write_series(tmp_path / "full" / name, [phantom(96, 20)], number=number)
    write_series(tmp_path / "low", [phantom(96, 20)], number=2)
    found = matched(tmp_path / "full", tmp_path / "low")
    assert found.pairs == []
    assert [why for _, why in found.left_out][:2] == ["2 full-dose slices match one low-dose slice"] * 2


def test_noise_is_the_same_anatomy_and_a_moved_patient_is_not() -> None:
    full = phantom(96, 40)
    noise = np.random.default_rng(0).normal(0, 100, full.shape).astype(np.float32)
    assert same_anatomy(full, full + noise)  # 100 HU over 64 pixels: 12.5 HU a block
    assert not same_anatomy(full, np.roll(full, 8, axis=1))  # whole blocks of 1040 HU at two edges
    assert not same_anatomy(full, full + 40)  # another rescale


OWN_HU = 8.0
RADIUS_MM = np.hypot(*((np.mgrid[:96, :96] - 47.5) * 3.2))
CENTRE = RADIUS_MM < 60
WATER = np.where(RADIUS_MM < 130, 40, -1000).astype(np.float32)


def measured(folder: Path, seed: int, dose: float) -> tuple[cache.CachedSlice, np.ndarray]:
    """A cached pair of a water cylinder with quantum noise alone, and its difference.

    A dose D has OWN_HU / sqrt(D) of noise, so what was inserted has OWN_HU * sqrt(1 / D - 1).
    """
    noise, _ = noise_images(WATER, 3.2, 0.8, np.random.default_rng(seed), quantum=2, views=120)
    own, inserted = (image * np.float32(OWN_HU / image[CENTRE].std()) for image in noise)
    difference = inserted * np.float32(np.sqrt(1 / dose - 1))
    source = cache.SourceSlice(f"pair-{seed}", "p", "train", 3.2, WATER + own)
    return cache.store_pair(folder, source, source.hu + difference, dose), difference


@pytest.mark.parametrize("dose", [0.05, 0.1, 0.5, 0.75])
def test_noise_of_a_pair_follows_the_square_root_law(tmp_path: Path, dose: float) -> None:
    """From pairs at a quarter: a scan at dose D has OWN_HU / sqrt(D) of noise.

    Each noise is scaled to its nominal strength in the centre; what is left is their chance correlation over
    the 1,100 pixels there, at most 1/sqrt(1100) = 3 % of the variance a slice, and six slices.
    """
    variances = []
    for seed in range(6):
        cached, _ = measured(tmp_path, seed, 0.25)
        low = cached.hu() + inserted_noise(cached.basis(), dose, np.random.default_rng(seed))
        variances.append(low[CENTRE].var())
    assert np.sqrt(np.mean(variances)) == pytest.approx(OWN_HU / np.sqrt(dose), rel=0.03)


def test_at_its_own_dose_a_pair_gives_its_own_noise_or_the_negative(tmp_path: Path) -> None:
    cached, difference = measured(tmp_path, 0, 0.25)
    signs = set()
    for seed in range(8):
        noise = inserted_noise(cached.basis(), 0.25, np.random.default_rng(seed))
        signs.add(float(np.sign((noise * difference).sum())))
        np.testing.assert_allclose(np.abs(noise), np.abs(difference), rtol=1e-3, atol=1e-2)  # half precision
    assert signs == {-1.0, 1.0}


def test_the_noise_map_of_a_pair_is_that_of_its_difference(tmp_path: Path) -> None:
    """Local standard deviation at D = 1/2, where as much noise is inserted as the slice has of its own."""
    cached, _ = measured(tmp_path, 0, 0.25)
    quantum, electronic = cached.noise_std()
    middle = quantum[4:8, 4:8]  # 32 x 32 pixels around the centre
    assert np.sqrt((middle**2).mean()) == pytest.approx(OWN_HU, rel=0.15)
    assert not electronic.any()


def test_an_entry_knows_the_noise_of_its_full_dose(tmp_path: Path) -> None:
    """The noise that reports state of the same slice."""
    noise, _ = noise_images(WATER, 3.2, 0.8, np.random.default_rng(0), views=120)
    hu = WATER + noise[0] * np.float32(OWN_HU / noise[0][CENTRE].std())
    cached = cache.store_pair(tmp_path, cache.SourceSlice("pair", "p", "train", 3.2, hu), hu + noise[0], 0.25)
    spacing = (3.2, 3.2)
    assert cached.noise_hu == global_noise_level(hu, body_mask(hu, spacing), spacing)
    assert cached.noise_hu
    assert cache.load(tmp_path, cached.key) == cached


Train = Callable[..., int]


@pytest.fixture
def train(tiny_recipe: str, tmp_path: Path) -> Train:
    """`n2q-edge train` of the tiny recipe, with further arguments."""

    def run(*arguments: str | Path) -> int:
        recipe = tmp_path / "tiny.toml"
        recipe.write_text(tiny_recipe)
        folders = ["--runs", str(tmp_path / "runs"), "-o", str(tmp_path)]
        return main(["train", str(recipe), *map(str, arguments), *folders, "--device", "cpu"])

    return run


def test_training_on_pairs(
    scans: tuple[Path, Path], train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, low = scans
    kept = tmp_path / "low"
    kept.mkdir()
    for name, path in enumerate(sorted(low.rglob("*.dcm"))[1:]):  # without one of the training patient's
        (kept / f"{name}.dcm").write_bytes(path.read_bytes())
    assert train("--pairs", full, kept, "--low-dose", "0.25") == ExitCode.OK
    said = capsys.readouterr().err
    assert said.count("left out: ") == 1
    assert "no low-dose slice within 0.1 mm" in said
    spec, _ = checkpoint.load(tmp_path / "tiny.safetensors")
    assert spec.training["slices"] == SLICES - 1
    assert (
        spec.training["simulation"] == "noise of measured pairs at 0.25 of the full dose, scaled in the "
        "image domain"
    )
    metrics = json.loads((tmp_path / "tiny.metrics.json").read_text())["test"]
    assert (metrics["patients"], metrics["slices"]) == (1, SLICES)


def test_a_dose_in_percent_is_refused(
    scans: tuple[Path, Path], train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--pairs", *scans, "--low-dose", "25") == ExitCode.USAGE
    assert "--low-dose 25: give the fraction" in capsys.readouterr().err


def test_without_data_there_is_nothing_to_train_on(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == ExitCode.USAGE
    assert "give --data or --pairs" in capsys.readouterr().err
