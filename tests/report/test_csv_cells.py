from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from n2q_edge.assessment.run import assess
from n2q_edge.dicom import scan
from n2q_edge.quality.policy import load_policy
from n2q_edge.report.slices_csv import to_csv
from n2q_edge.report.text import cell
from n2q_edge.trends import groups, store
from tests.helpers.fakes import FakeRuntime, phantom, write_slice

FORMULAS = ['=HYPERLINK("http://x","y")', "+1+1", "-1+1", "@SUM(A1)", "\t=1+1", "\r=1+1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-5.000", "1e-3", "", "slice.dcm", 7, None, -2.5, "1.2.840.1"])
def test_anything_else_stays(value: object) -> None:
    assert cell(value) == value


def test_no_cell_of_a_hostile_series_begins_a_formula(tmp_path: Path) -> None:
    """File name, UIDs and kernel as an attacker would have them; in slices.csv and in the trends."""
    import pydicom

    for number, formula in enumerate(FORMULAS[:4]):
        path = tmp_path / "in" / f"{formula.replace('/', '_')}.dcm"
        data = write_slice(path, phantom(), 5.0 * number)
        data.ConvolutionKernel = data.StationName = formula[:16]
        with pydicom.config.disable_value_validation():
            data.SeriesInstanceUID = data.SOPInstanceUID = f"{formula}.{number}"
            data.save_as(path)
    run = assess(scan([tmp_path / "in"]), FakeRuntime())
    texts = [to_csv(run)]
    store.append(tmp_path / "t.sqlite", run)
    by = ("scanner", "kernel")
    texts.append(groups.to_csv(groups.group(store.read(tmp_path / "t.sqlite"), by, load_policy()), by))
    for text in texts:
        rows = list(csv.reader(io.StringIO(text)))
        assert len(rows) > 1
        assert not [value for row in rows for value in row if value[:1] in "=+@\t\r" and value]
