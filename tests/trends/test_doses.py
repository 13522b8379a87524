"""Dose reports: read as an independent program reads them, joined to series, watched with noise."""

from __future__ import annotations

import math
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from n2q_edge.trends.dose_report import DoseEvent, DoseReport, read_dose_report
from n2q_edge.trends.doses import DosedSeries, _Event, _nearest, add_report, dose_groups, read_doses

SOURCE = (
    "openrem==0.10.0"  # GPL; its reports are downloaded for this test and never become part of the project
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Dose reports of real scanners, from the source distribution of OpenREM."""
    folder = tmp_path_factory.mktemp("openrem")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        SOURCE,
    ]
    done = subprocess.run([*command, "-d", str(folder)], capture_output=True, text=True, timeout=180)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        pytest.skip("OpenREM's source distribution cannot be downloaded here")
    with tarfile.open(archives[0]) as archive:
        for member in archive.getmembers():
            if member.name.endswith(".dcm") and member.isfile():
                member.name = Path(member.name).name
                archive.extract(member, folder, filter="data") if sys.version_info >= (
                    3,
                    12,
                ) else archive.extract(member, folder)
    return lambda name: folder / name


# Expected: OpenREM's own tests (test_import_ct_rdsr_siemens, _esr_ge, _rdsr_multiple, _philips_rdsr).
@pytest.mark.parametrize(
    ("name", "events", "total_dlp", "an_event"),
    [
        ("CT-RDSR-Siemens_Flash-TAP-SS.dcm", 4, 724.52, (9.91, 708.2)),
        ("CT-ESR-GE_VCT.dcm", 27, 2002.39, (176.12, 352.24)),
        ("CT-ESR-GE_Optima.dcm", 6, 415.82, (5.3, 259.85)),
        ("CT-RDSR-Siemens-Multi-3.dcm", 3, 236.09, (7.02, 158.82)),
        ("CT-RDSR-Philips_BigBore4DCT.dcm", 1, 541.1, (23.7, 541.1)),
    ],
)
def test_real_reports(reports, name: str, events: int, total_dlp: float, an_event: tuple) -> None:
    report = read_dose_report(reports(name))
    assert report is not None
    assert len(report.events) == events
    assert sum(event.dlp_mgycm or 0 for event in report.events) == pytest.approx(total_dlp, abs=0.01)
    found = [(event.ctdivol_mgy, event.dlp_mgycm) for event in report.events]
    assert an_event in found


@pytest.mark.parametrize("name", ["ESR_non-dose.dcm", "RF-RDSR-GE.dcm", "MG-RDSR-Hologic_2D.dcm"])
def test_other_reports_are_none(reports, name: str) -> None:
    assert read_dose_report(reports(name)) is None


def test_cumulative_reports_count_every_event_once(reports, tmp_path: Path) -> None:
    """Siemens sends the whole study again after each scan: 1, 2, then 3 events, the last report has all."""
    database = tmp_path / "trend.sqlite"
    for number in (1, 2, 3, 3):
        report = read_dose_report(reports(f"CT-RDSR-Siemens-Multi-{number}.dcm"))
        assert report is not None
        add_report(database, report)
    import sqlite3

    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT dlp, event_uid FROM dose_event").fetchall()
    assert sum(dlp for dlp, _ in rows) == pytest.approx(236.09, abs=0.01)
    assert all("." not in uid for _, uid in rows)  # hashed


def test_junk_is_none(tmp_path: Path) -> None:
    (tmp_path / "junk.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 300)
    assert read_dose_report(tmp_path / "junk.dcm") is None


def event(uid: str, **changes: object) -> _Event:
    fields = {"study": "s", "scanner": "A", "protocol": None, "kind": "Spiral Acquisition", "started": None}
    return _Event(uid, **{**fields, "ctdivol": 5.0, "dlp": 100.0, "phantom_cm": 32, **changes})


def test_without_an_event_uid_study_and_time_decide_or_nothing_does() -> None:
    scout = event("0", kind="Constant Angle Acquisition")
    first, second = event("1", started="20260101120000"), event("2", started="20260101120500")
    assert _nearest([scout, first, second], "20260101120430.5") is second
    assert _nearest([scout, first, second], "20260101150000") is None
    assert _nearest([scout, first], None) is first
    assert _nearest([first, second], None) is None
    assert _nearest([], "20260101120000") is None


def test_a_series_is_joined_by_its_irradiation_event(tmp_path: Path) -> None:
    from n2q_edge.assessment.run import assess
    from n2q_edge.dicom import scan
    from n2q_edge.trends.doses import link_series
    from n2q_edge.trends.store import append
    from tests.helpers.fakes import FakeRuntime
    from tests.helpers.node_files import slice_dataset

    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(1, 4):
        dataset = slice_dataset(number)
        dataset.IrradiationEventUID = "1.2.3.4"
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    database = tmp_path / "trend.sqlite"
    run = assess(scan([folder]), FakeRuntime())
    append(database, run)
    assert read_doses(database) == []
    link_series(database, run)
    spiral = DoseEvent("1.2.3.4", "Abdomen", "Spiral Acquisition", None, 8.0, 400.0, 32)
    other = DoseEvent("1.2.3.5", "Abdomen", "Spiral Acquisition", None, 9.0, 410.0, 32)
    add_report(database, DoseReport(dataset.StudyInstanceUID, "ACME CT 1", (spiral, other)))
    (dosed,) = read_doses(database)
    assert (dosed.ctdivol_mgy, dosed.dlp_mgycm, dosed.phantom_cm, dosed.protocol) == (
        8.0,
        400.0,
        32,
        "Abdomen",
    )
    assert dosed.noise_hu == pytest.approx(20, rel=0.25)  # what the phantom was made with


def test_noise_that_is_too_high_for_its_dose_is_outside_the_limits() -> None:
    """Noise 40 / sqrt(dose) within 2 %: only the one at twice the noise is outside, whatever its dose."""
    doses = [4.0 + index for index in range(14)]
    series = [
        DosedSeries("A", "Abdomen", 32, dose, None, 40 / math.sqrt(dose) * (1.02 if index % 2 else 0.98), 0.8)
        for index, dose in enumerate(doses)
    ]
    series.append(DosedSeries("A", "Abdomen", 32, 10.0, None, 80 / math.sqrt(10.0), 0.5))
    (group,) = dose_groups(series)
    assert group.outside == (14,)
    assert group.limits is not None
    assert group.limits.centre == pytest.approx(40, rel=0.03)
