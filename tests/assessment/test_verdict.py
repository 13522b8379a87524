"""What is not an axial slice in HU is never judged usable in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from n2q_edge.assessment.run import assess
from n2q_edge.dicom import scan
from n2q_edge.quality.policy import Verdict
from tests.helpers.dicom_files import ct_dataset, save, stored_values
from tests.helpers.fakes import FakeRuntime

AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]
PLAIN = ["ORIGINAL", "PRIMARY", "AXIAL"]


@pytest.mark.parametrize(
    ("orientation", "image_type", "judged"),
    [
        (AXIAL, PLAIN, True),
        (CORONAL, PLAIN, False),
        (AXIAL, ["DERIVED", "PRIMARY", "AXIAL", "VMI"], False),
    ],
)
def test_only_axial_slices_in_hu_get_a_verdict(
    tmp_path: Path, orientation: list[int], image_type: list[str], judged: bool
) -> None:
    for number in (1, 2):
        data = ct_dataset(
            stored_values(128, 128), number=number, ImageOrientationPatient=orientation, ImageType=image_type
        )
        data.ImagePositionPatient = [0, 5 * number, 5 * number]
        data.PixelSpacing = [3.2, 3.2]
        save(data, tmp_path / f"{number}.dcm")
    (report,) = assess(scan([tmp_path]), FakeRuntime()).series
    assert report.summary.scored == 2
    judgement = report.summary.verdict
    assert (judgement.verdict is not None) is judged
    if not judged:
        assert judgement.verdict is not Verdict.USABLE
        assert judgement.reasons[0].startswith("2 of 2 scored slices are out of domain")
