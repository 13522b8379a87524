"""Real files in odd encodings and of odd kinds, against an independent decoder (ITK)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n2q_edge.dicom import LoadedSlice, scan
from tests.helpers.dicom_files import assert_accounted, load_all

EXPECTED_SKIPS = {
    "README.md": "not_dicom",
    "manifest.csv": "not_dicom",
    "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm": "not_hu",  # relative cerebral blood flow
    "no-pixel-data.dcm": "not_an_image",
    "I10": "localizer",
    "S4010_I10": "secondary_capture",
    "I50": "secondary_capture",
    "ExplVR_BigEndNoMeta.dcm": "not_an_image",
    "ExplVR_LitEndNoMeta.dcm": "not_an_image",
    "JPEG2000-embedded-sequence-delimiter.dcm": "secondary_capture",
    "MR_truncated.dcm": "not_ct",
    "badVR.dcm": "derived_object",
    "rtdose.dcm": "derived_object",
    "liver_1frame.dcm": "derived_object",
    "empty_charset_LEI.dcm": "not_an_image",
    "image_dfl.dcm": "secondary_capture",
    "no_meta.dcm": "not_dicom",  # a stray byte before the first element
    "no_meta_group_length.dcm": "not_an_image",
    "reportsi.dcm": "not_an_image",
}
EXPECTED_REJECTIONS = {
    "CTImage.dcm_JPEGProcess10_12TransferSyntax_1.2.840.10008.1.2.4.55.dcm": "unsupported_transfer_syntax",
    "CTImage.dcm_JPEGProcess6_8TransferSyntax_1.2.840.10008.1.2.4.53.dcm": "unsupported_transfer_syntax",
    "meta_missing_tsyntax.dcm": "missing_sop_class",
}


def itk_hu(path: Path, frame: int | None) -> Any:
    sitk = pytest.importorskip("SimpleITK")
    volume = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return np.clip(volume[(frame or 1) - 1].astype(np.float64), -1024, 3071)


@pytest.mark.peer
def test_zoo(shared_dir: Path) -> None:
    inventory = scan([shared_dir / "zoo"])
    assert {each.path.name: each.reason.value for each in inventory.skipped} == EXPECTED_SKIPS
    assert {each.path.name: each.reason.value for each in inventory.rejected} == EXPECTED_REJECTIONS
    assert inventory.files_seen == 65  # 63 of the manifest, the manifest and the README
    loaded = load_all(inventory)
    assert len(loaded) == 47  # 43 files, two of them with three frames
    for each in loaded:
        assert isinstance(each, LoadedSlice), each
        expected = itk_hu(each.ref.path, each.ref.frame)
        # float32 against float64 for slopes that are no integers; every other file is exact
        assert np.abs(each.hu - expected).max() <= (0 if each.ref.slope == 1 else 1e-3), each.ref.path
    assert_accounted(inventory)


@pytest.mark.peer
def test_sample_of_real_ct(shared_dir: Path) -> None:
    files = sorted((shared_dir / "ct").rglob("*.dcm"))
    assert len(files) == 359
    for each in load_all(scan(files[::24])):
        assert isinstance(each, LoadedSlice), each
        np.testing.assert_array_equal(each.hu, itk_hu(each.ref.path, each.ref.frame))


def test_a_real_series_is_in_order(shared_dir: Path) -> None:
    (series,) = scan([shared_dir / "ct" / "tcga-lihc"]).series
    positions = [ref.position_mm for ref in series.slices]
    assert len(positions) == 99
    assert positions == sorted(positions, key=float)  # type: ignore[arg-type]
    assert series.protocol["manufacturer"] == "GE MEDICAL SYSTEMS"
