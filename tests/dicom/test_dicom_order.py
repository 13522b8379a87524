"""Order by geometry; irregular series are flagged, never fatal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n2q_edge.dicom import SERIES_FLAGS, SLICE_FLAGS, Inventory, Series, scan
from tests.helpers.dicom_files import SERIES, assert_accounted, ct_dataset, save, stored_values


def scan_slices(tmp_path: Path, *slices: dict[str, Any]) -> Inventory:
    for number, changes in enumerate(slices):
        save(ct_dataset(**{"number": number, **changes}), tmp_path / f"{number:03d}.dcm")
    inventory = scan([tmp_path])
    assert_accounted(inventory)
    return inventory


def series_at(tmp_path: Path, positions: list[float], **changes: Any) -> Series:
    slices = [{"ImagePositionPatient": [0, 0, z], **changes} for z in positions]
    (series,) = scan_slices(tmp_path, *slices).series
    return series


def test_order_is_by_position_not_by_name_or_number(tmp_path: Path) -> None:
    series = series_at(tmp_path, [5, -10, 0, -5])
    assert [ref.position_mm for ref in series.slices] == [-10, -5, 0, 5]
    assert series.flags == ()
    assert all(ref.flags == () for ref in series.slices)


@pytest.mark.parametrize(
    ("orientation", "axis"),
    [
        ([1, 0, 0, 0, 0, -1], [0, 1, 0]),  # coronal: x cross -z = y
        ([0, 1, 0, 0, 0, -1], [-1, 0, 0]),  # sagittal: y cross -z = -x
        ([-1, 0, 0, 0, -1, 0], [0, 0, 1]),  # prone
    ],
)
def test_position_is_along_the_normal(tmp_path: Path, orientation: list[float], axis: list[float]) -> None:
    steps = [3, 1, 2]
    slices = [
        {"ImageOrientationPatient": orientation, "ImagePositionPatient": [7 * step * a for a in axis]}
        for step in steps
    ]
    (series,) = scan_slices(tmp_path, *slices).series
    assert [ref.position_mm for ref in series.slices] == [7, 14, 21]


def test_missing_slice(tmp_path: Path) -> None:
    series = series_at(tmp_path, [0, 2.5, 5, 10, 12.5])
    assert series.flags == ("gaps",)
    assert [ref.flags for ref in series.slices] == [(), (), (), ("gap_before",), ()]


def test_variable_spacing_is_not_a_gap_if_thickness_grows_with_it(tmp_path: Path) -> None:
    slices = [{"ImagePositionPatient": [0, 0, z], "SliceThickness": 5} for z in (0, 5, 10, 15)]
    slices += [{"ImagePositionPatient": [0, 0, z], "SliceThickness": 10} for z in (25, 35)]
    (series,) = scan_slices(tmp_path, *slices).series
    assert series.flags == ("variable_spacing",)


def test_duplicate_positions_are_all_assessed(tmp_path: Path) -> None:
    series = series_at(tmp_path, [0, 2.5, 2.5, 5])
    assert series.flags == ("duplicate_positions",)
    assert [ref.flags for ref in series.slices] == [(), *[("duplicate_position",)] * 2, ()]
    assert [ref.instance_number for ref in series.slices] == [0, 1, 2, 3]


def test_duplicate_sop_instance_uids_are_all_assessed(tmp_path: Path) -> None:
    series = series_at(tmp_path, [0, 2.5, 5], SOPInstanceUID=SERIES + ".77")
    assert len(series.slices) == 3
    assert series.flags == ("duplicate_sop_instance_uid",)
    assert all(ref.flags == ("duplicate_sop_instance_uid",) for ref in series.slices)


def test_tilt_by_its_tag(tmp_path: Path) -> None:
    assert series_at(tmp_path, [0, 5], GantryDetectorTilt="-18.5").flags == ("tilted",)


def test_tilt_by_geometry(tmp_path: Path) -> None:
    """Slices tilted by 20 degrees about x and stacked along z are sheared."""
    tilt = np.radians(20)
    orientation = [1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt))]
    slices = [
        {
            "ImageOrientationPatient": [round(value, 6) for value in orientation],
            "ImagePositionPatient": [0, 0, z],
        }
        for z in (0, 5, 10)
    ]
    (series,) = scan_slices(tmp_path, *slices).series
    assert series.flags == ("tilted",)
    # The normal is (0, -sin, cos): 5 mm along z are 5 cos(20 degrees) along it.
    assert [ref.position_mm for ref in series.slices] == pytest.approx([0, 4.6985, 9.3969], abs=1e-3)


def test_oblique_without_shear_is_not_tilted(tmp_path: Path) -> None:
    tilt = np.radians(20)
    normal = np.array([0, -np.sin(tilt), np.cos(tilt)])
    orientation = [1, 0, 0, 0, round(float(np.cos(tilt)), 6), round(float(np.sin(tilt)), 6)]
    slices = [
        {
            "ImageOrientationPatient": orientation,
            "ImagePositionPatient": [float(f"{v:.5f}") for v in z * normal],
        }
        for z in (0, 5, 10)
    ]
    (series,) = scan_slices(tmp_path, *slices).series
    assert series.flags == ()


def test_no_positions_fall_back_to_instance_number(tmp_path: Path) -> None:
    slices = [{"ImagePositionPatient": None, "InstanceNumber": number} for number in (3, 1, 2)]
    (series,) = scan_slices(tmp_path, *slices).series
    assert [ref.instance_number for ref in series.slices] == [1, 2, 3]
    assert series.flags == ("no_positions",)
    assert all(ref.position_mm is None and ref.flags == ("no_position",) for ref in series.slices)


def test_orientation_that_is_none_gives_no_position(tmp_path: Path) -> None:
    (series,) = scan_slices(tmp_path, {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}).series
    assert series.slices[0].position_mm is None


def test_one_uid_with_several_geometries(tmp_path: Path) -> None:
    axial: list[dict[str, Any]] = [{"ImagePositionPatient": [0, 0, z]} for z in (0, 5)]
    coronal = [{"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}]
    smaller = [{"values": stored_values(32, 32)}]
    inventory = scan_slices(tmp_path, *axial, *coronal, *smaller)
    assert [(series.stack, len(series.slices), series.flags) for series in inventory.series] == [
        (1, 2, ("mixed_geometry",)),
        (2, 1, ("mixed_geometry",)),
        (3, 1, ("mixed_geometry",)),
    ]
    assert len({series.series_instance_uid for series in inventory.series}) == 1


def test_series_of_the_same_uid_in_two_studies_stay_apart(tmp_path: Path) -> None:
    inventory = scan_slices(tmp_path, {}, {"StudyInstanceUID": "1.2.3"})
    assert len(inventory.series) == 2


def test_rounding_of_direction_cosines_does_not_split_a_series(tmp_path: Path) -> None:
    slices = [{"ImageOrientationPatient": [1, 0, 0, 0, cosine, 0]} for cosine in (1, 0.9999999, 0.99996)]
    assert len(scan_slices(tmp_path, *slices).series) == 1


def test_flags_are_documented(tmp_path: Path) -> None:
    slices: list[dict[str, Any]] = [{"ImagePositionPatient": [0, 0, z]} for z in (0, 1, 1, 3, 3.2, 7)]
    inventory = scan_slices(tmp_path, *slices, {"ImagePositionPatient": None}, {"GantryDetectorTilt": "5"})
    assert {flag for series in inventory.series for flag in series.flags} <= set(SERIES_FLAGS)
    assert {flag for ref in inventory.slices() for flag in ref.flags} <= set(SLICE_FLAGS)
