"""What a CT image object is: planes, products, exposure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from n2q_edge.dicom import scan
from tests.helpers.dicom_files import (
    ct_dataset,
    enhanced_dataset,
    item,
    load_one,
    raw_values,
    save,
    stored_values,
)

FRAMES = np.stack([stored_values(seed=seed) for seed in range(3)])


# ---------------------------------------------------------------------------------------------- what it shows


EXPOSURES = [
    # mA, mAs, ms, doubtful: values of public archives
    ("308", "140", "500", False),  # Siemens Volume Zoom
    ("200", "200", "1000", False),  # GE HiSpeed CT/i
    ("100", "500", "361", False),  # Siemens Sensation Open, gated, pitch 0.07
    ("100", "3", "500", True),  # GE LightSpeed VCT
    ("121", "10268", "1186", True),  # GE Discovery LS
    ("9", "0", "500", True),
    ("250", "1e9", "500", True),
    ("-5", "100", "500", True),
    ("250", "125", None, False),
]


@pytest.mark.parametrize(("current", "mas", "time", "doubtful"), EXPOSURES)
def test_mas_that_do_not_go_with_the_tube_current_are_doubtful(
    tmp_path: Path, current: str, mas: str, time: str | None, doubtful: bool
) -> None:
    values = {"XRayTubeCurrent": current, "Exposure": mas}
    if time:
        values["ExposureTime"] = time
    (series,) = scan([raw_values(tmp_path / "x.dcm", **values)]).series
    assert ("doubtful_exposure" in series.slices[0].flags) is doubtful


def test_exposure_of_each_slice_and_what_results_need(tmp_path: Path) -> None:
    for number in (1, 2):
        data = ct_dataset(
            number=number,
            XRayTubeCurrent=100 * number,
            Exposure=50 * number,
            ExposureTime=500,
            CTDIvol=2.5 * number,
            AcquisitionNumber=3,
            FrameOfReferenceUID="1.2.3.4",
            PatientID=f"SECRET{number}",
        )
        save(data, tmp_path / f"{number}.dcm")
    (series,) = scan([tmp_path]).series
    first, second = series.slices
    assert (first.exposure.tube_current_ma, second.exposure.tube_current_ma) == (100, 200)
    assert (first.exposure.exposure_mas, second.exposure.exposure_mas) == (50, 100)
    assert (first.exposure.ctdivol_mgy, second.exposure.ctdivol_mgy) == (2.5, 5.0)
    assert first.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"
    assert first.frame_of_reference_uid == "1.2.3.4"
    assert first.acquisition_number == 3
    assert first.patient_key != second.patient_key
    assert dict(series.header.values)[0x00100020].strip() == b"SECRET1"
    assert "SECRET" not in repr(series)


def test_exposure_of_each_frame(tmp_path: Path) -> None:
    data = enhanced_dataset(FRAMES)
    for index, groups in enumerate(data.PerFrameFunctionalGroupsSequence):
        groups.CTExposureSequence = [item(XRayTubeCurrentInmA=100.0 + index, CTDIvol=float("nan"))]
    refs = sorted(scan([save(data, tmp_path / "x.dcm")]).slices(), key=lambda ref: ref.frame or 0)
    assert [ref.exposure.tube_current_ma for ref in refs] == [100, 101, 102]
    assert {ref.exposure.ctdivol_mgy for ref in refs} == {None}


# --------------------------------------------------------------------------------------------------- products


@pytest.mark.parametrize(
    ("image_type", "reason"),
    [
        ("ORIGINAL\\PRIMARY\\LOCALIZER\\CT_SOM5 TOP", "localizer"),
        ("ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 TOP", "localizer"),
        ("ORIGINAL\\PRIMARY\\SCANOGRAM", "localizer"),
        ("DERIVED\\SECONDARY\\PROJECTION IMAGE", "localizer"),
        ("ORIGINAL\\PRIMARY\\SCOUT", "localizer"),
        ("DERIVED\\SECONDARY\\AXIAL\\IODINE_MAP", "not_hu"),
        ("DERIVED\\PRIMARY\\AXIAL\\DE_IODINE", "not_hu"),
        ("DERIVED\\PRIMARY\\AXIAL\\IODINE(WATER)", "not_hu"),
        ("DERIVED\\SECONDARY\\ZEFF", "not_hu"),
        ("DERIVED\\SECONDARY\\AXIAL\\SUBTRACT", "not_hu"),
        ("DERIVED\\SECONDARY\\VRT", "not_hu"),
        ("DERIVED\\PRIMARY\\AXIAL\\CT_SOM5 MIP", "not_hu"),
        ("DERIVED\\PRIMARY\\AXIAL\\EFF_ATOMIC_NUM", "not_hu"),
        ("DERIVED\\SECONDARY\\SCREEN SAVE", "secondary_capture"),
    ],
)
def test_products_that_are_no_slices_in_hu(tmp_path: Path, image_type: str, reason: str) -> None:
    inventory = scan([save(ct_dataset(ImageType=image_type.split("\\")), tmp_path / "x.dcm")])
    assert [each.reason.value for each in inventory.skipped] == [reason]


@pytest.mark.parametrize("rescale_type", ["Hounsfield Unit", "HU", "hu", "HOUNSFIELD"])
def test_hu_spelled_out(tmp_path: Path, rescale_type: str) -> None:
    assert load_one(save(ct_dataset(RescaleType=rescale_type), tmp_path / "x.dcm")).ref.slope == 1


def tilted(degrees: float, about: str = "x") -> list[float]:
    cosine, sine = round(np.cos(np.radians(degrees)), 6), round(np.sin(np.radians(degrees)), 6)
    return [1, 0, 0, 0, cosine, -sine] if about == "x" else [cosine, 0, sine, 0, 1, 0]


@pytest.mark.parametrize(
    ("orientation", "image_type", "axial"),
    [
        ([1, 0, 0, 0, 1, 0], "ORIGINAL\\PRIMARY\\AXIAL", True),
        ([-1, 0, 0, 0, -1, 0], "ORIGINAL\\PRIMARY\\AXIAL", True),  # prone
        ([0, 1, 0, -1, 0, 0], "ORIGINAL\\PRIMARY\\AXIAL", True),  # decubitus
        (tilted(30), "ORIGINAL\\PRIMARY\\AXIAL", True),  # the largest gantry tilt
        (tilted(45), "ORIGINAL\\PRIMARY\\AXIAL", False),
        ([1, 0, 0, 0, 0, -1], "DERIVED\\SECONDARY\\MPR", False),  # coronal
        ([0, 1, 0, 0, 0, -1], "DERIVED\\SECONDARY\\REFORMATTED", False),  # sagittal
        ([1, 0, 0, 0, 0, -1], "ORIGINAL\\PRIMARY\\AXIAL", False),
        (tilted(20, "y"), "DERIVED\\SECONDARY\\OBLIQUE", False),
        (tilted(20), "DERIVED\\SECONDARY\\MPR", False),
        (tilted(2), "DERIVED\\SECONDARY\\MPR", True),
        (None, "DERIVED\\PRIMARY\\CORONAL", False),
        (None, "ORIGINAL\\PRIMARY\\AXIAL", True),
    ],
)
def test_planes(tmp_path: Path, orientation: list[float] | None, image_type: str, axial: bool) -> None:
    data = ct_dataset(ImageType=image_type.split("\\"), ImageOrientationPatient=orientation)
    assert ("non_axial" in load_one(save(data, tmp_path / "x.dcm")).ref.flags) is not axial


@pytest.mark.parametrize(
    "value",
    ["MONOENERGETIC", "VMI", "70 KEV", "MONO_70KEV", "VNC", "MONOENERGETIC PLUS", "VIRTUAL_NON_CONTRAST"],
)
def test_slices_computed_from_several_energies(tmp_path: Path, value: str) -> None:
    data = ct_dataset(ImageType=["DERIVED", "PRIMARY", "AXIAL", value])
    assert "spectral_product" in load_one(save(data, tmp_path / "x.dcm")).ref.flags
