"""NIfTI volumes, by nibabel's own writer and by the standard's definition of the affine."""

from __future__ import annotations

import sys
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

nibabel: Any = pytest.importorskip("nibabel")

import n2q_edge
from n2q_edge.arrays import FloatArray
from n2q_edge.dicom import Reason, Rejected, iter_slices, scan
from n2q_edge.dicom.records import LoadedSlice
from tests.helpers.fakes import SPACING_MM, FakeRuntime, phantom, write_series

# From indices along (left, back, head) to NIfTI's mm, which count to the right and the front; slices of 5 mm.
AFFINE = np.diag([-SPACING_MM, -SPACING_MM, 5.0, 1.0])


def volume() -> FloatArray:
    """[W,H,Z] towards left, back and head: three unlike, lopsided slices of whole HU."""
    slices = []
    for index in range(3):
        hu = phantom(96, 30 + 10 * index)
        hu[20:30, 40:60] = 100 + index  # front of the middle: no mirrored slice is the same
        hu += np.rint(np.random.default_rng(index).normal(0, 10, hu.shape))
        slices.append(np.clip(hu, -1024, 3071).astype(np.float32))
    return np.stack(slices).transpose(2, 1, 0)


def write(path: Path, data: Any, affine: Any = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def slices(path: Path) -> list[FloatArray]:
    (series,) = scan([path]).series
    loaded = list(iter_slices(series))
    assert all(isinstance(one, LoadedSlice) for one in loaded), loaded
    return [one.hu for one in loaded if isinstance(one, LoadedSlice)]


def rejected(path: Path) -> Rejected:
    inventory = scan([path])
    (found,) = inventory.rejected or [
        one for one in iter_slices(inventory.series[0]) if isinstance(one, Rejected)
    ]
    assert "\n" not in found.detail
    return found


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "SCAN.NII"])
@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_the_slices_of_a_volume(tmp_path: Path, name: str, kind: type) -> None:
    path = write(tmp_path / name, volume().astype(kind))
    (series,) = scan([path]).series
    assert [ref.position_mm for ref in series.slices] == [0, 5, 10]
    assert [ref.frame for ref in series.slices] == [1, 2, 3]
    assert series.slices[0].pixel_spacing_mm == pytest.approx((SPACING_MM, SPACING_MM))
    assert series.slices[0].slice_thickness_mm == 5
    assert series.flags == series.slices[0].flags == ()
    for hu, expected in zip(slices(path), volume().transpose(2, 1, 0), strict=True):
        np.testing.assert_array_equal(hu, expected)


@pytest.mark.parametrize("order", permutations(range(3)))
def test_whatever_the_orientation(tmp_path: Path, order: tuple[int, ...]) -> None:
    """All 48 ways to store the axes of one volume give the same slices at the same places."""
    for signs in product((1, -1), repeat=3):
        turned = nibabel.Nifti1Image(volume(), AFFINE).as_reoriented(
            np.array([(order.index(axis), sign) for axis, sign in enumerate(signs)])
        )
        path = tmp_path / "".join(f"{sign:+d}" for sign in signs)
        path = path.with_suffix(".nii")
        nibabel.save(turned, path)
        for hu, expected in zip(slices(path), volume().transpose(2, 1, 0), strict=True):
            np.testing.assert_array_equal(hu, expected)
        (series,) = scan([path]).series
        assert [ref.image_position[2] for ref in series.slices if ref.image_position] == [0, 5, 10]


def test_a_nifti_and_its_dicom_series_give_equal_numbers(tmp_path: Path) -> None:
    def by_brightness(hu: FloatArray) -> FloatArray:
        return np.clip(hu / 200, 0, 1)

    write_series(tmp_path / "dicom", list(volume().transpose(2, 1, 0)))
    write(tmp_path / "scan.nii.gz", volume().astype(np.int16))
    model = n2q_edge.Model(FakeRuntime(by_brightness))
    (one,) = n2q_edge.assess(tmp_path / "dicom", model=model).series
    (other,) = n2q_edge.assess(tmp_path / "scan.nii.gz", model=model).series
    assert one.summary.noise_hu == other.summary.noise_hu
    assert one.summary.quality == other.summary.quality
    for of_dicom, of_nifti in zip(one.slices, other.slices, strict=True):
        assert of_dicom.quality == of_nifti.quality
        assert of_dicom.noise_hu == of_nifti.noise_hu
        assert of_dicom.regions == of_nifti.regions
        assert of_dicom.ref.position_mm == of_nifti.ref.position_mm


def test_scaled_values_and_what_is_no_number(tmp_path: Path) -> None:
    """HU = slope * stored + intercept; NaN outside the field of view is air."""
    image = nibabel.Nifti1Image((volume() + 1024).astype(np.int16) * 2, AFFINE)
    image.header.set_slope_inter(0.5, -1024)
    nibabel.save(image, tmp_path / "scaled.nii")
    stored = nibabel.load(tmp_path / "scaled.nii")
    assert (stored.dataobj.slope, stored.dataobj.inter) == (0.5, -1024)
    np.testing.assert_array_equal(slices(tmp_path / "scaled.nii")[1], volume()[:, :, 1].T)
    data = volume()
    data[0, 0, 0] = np.nan
    assert slices(write(tmp_path / "nan.nii", data))[0][0, 0] == -1024


def test_other_units(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(volume(), np.diag([*(np.diag(AFFINE)[:3] / 1000), 1]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "meters.nii")
    (series,) = scan([tmp_path / "meters.nii"]).series
    assert series.slices[1].position_mm == pytest.approx(5)


def test_an_oblique_volume_is_flagged(tmp_path: Path) -> None:
    angle = np.deg2rad(40)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    (series,) = scan([write(tmp_path / "oblique.nii", volume(), turn @ AFFINE)]).series
    assert "non_axial" in series.slices[0].flags


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.zeros((8, 8, 2, 5), np.int16), Reason.BAD_DIMENSIONS),
        (np.zeros((8, 8, 2), np.complex64), Reason.UNSUPPORTED_PIXEL_FORMAT),
        (np.zeros((8, 8, 1), np.uint8), Reason.NOT_HU),
    ],
)
def test_what_is_no_volume_of_hu(tmp_path: Path, data: Any, reason: Reason) -> None:
    assert rejected(write(tmp_path / "other.nii", data)).reason is reason


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("kept", [0, 100, 400, 5000])
def test_a_damaged_file_costs_only_itself(tmp_path: Path, name: str, kept: int) -> None:
    path = write(tmp_path / name, volume())
    path.write_bytes(path.read_bytes()[:kept])
    write_series(tmp_path / "good", [phantom()])
    run = n2q_edge.assess(tmp_path, model=n2q_edge.Model(FakeRuntime()))
    assert sum(len(report.slices) for report in run.series) == 1
    assert run.rejected
    assert {Path(one.path).name for one in run.rejected} == {name}


def test_random_bytes(tmp_path: Path) -> None:
    (tmp_path / "noise.nii").write_bytes(np.random.default_rng(0).bytes(2000))
    assert rejected(tmp_path / "noise.nii").reason is Reason.CORRUPT_HEADER


def test_without_nibabel_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scan.nii", volume())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    found = rejected(path)
    assert found.reason is Reason.MISSING_PACKAGE
    assert "[nifti]" in found.detail


def test_there_is_no_dicom_object_of_what_was_not_dicom(tmp_path: Path) -> None:
    """Whose they are is unknown: a reason, no object."""
    pytest.importorskip("highdicom")
    from tests.helpers.result_files import results

    write(tmp_path / "scan.nii", volume())
    writer, assessment = results(tmp_path / "scan.nii", tmp_path / "out")
    assert len(assessment.series[0].slices) == 3
    assert writer.series[0].written == []
    assert [each.kind for each in writer.series[0].not_written] == ["all"]
