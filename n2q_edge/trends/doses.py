"""Doses in the trend database: what the scanner's dose reports say, joined to the series that were assessed.

A series is joined by the Irradiation Event UID (0008,3010) of its images; without one by its study and time,
or by its study if that has a single event that is no localizer. What cannot be told apart is not joined.
Dates are stored only with identity, like all that identifies: without it there is no join by time.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import dcmread

from n2q_edge.assessment.results import RunReport, SeriesReport
from n2q_edge.trends.control import Limits, control_limits, rank_correlation
from n2q_edge.trends.database import opened_database, prepared
from n2q_edge.trends.dose_report import DoseReport, read_dose_report
from n2q_edge.trends.store import read

LOCALIZER = "Constant Angle Acquisition"  # CID 10013, DCM 113805
NEAR_S = 600.0

TABLES = (
    "CREATE TABLE IF NOT EXISTS dose_event (event_uid TEXT PRIMARY KEY, study_uid TEXT NOT NULL, "
    "scanner TEXT, protocol TEXT, kind TEXT, started TEXT, ctdivol REAL, dlp REAL, phantom_cm INTEGER)",
    "CREATE TABLE IF NOT EXISTS series_irradiation (series_uid TEXT NOT NULL, study_uid TEXT NOT NULL, "
    "event_uid TEXT NOT NULL, acquired TEXT, PRIMARY KEY (series_uid, event_uid))",
)


@dataclass(frozen=True)
class DosedSeries:
    """A series and its dose.

    Attributes:
        scanner: of the dose report.
        protocol: Protocol Name of the images, else the report's.
        phantom_cm: that CTDIvol refers to.
        ctdivol_mgy: mean CTDIvol, mGy.
        dlp_mgycm: mGy cm.
        noise_hu: median model-free noise; None if it was not measured.
        quality: mean quality; None if nothing was scored.
    """

    scanner: str
    protocol: str
    phantom_cm: int | None
    ctdivol_mgy: float
    dlp_mgycm: float | None
    noise_hu: float | None
    quality: float | None


@dataclass(frozen=True)
class DoseGroup:
    """All series of one scanner, protocol and phantom.

    Quantum noise falls with the square root of the dose: `noise x sqrt(CTDIvol)` stays the same if nothing
    but the dose changes, and is what the limits are of.

    Attributes:
        name: scanner, protocol, phantom.
        series: in the order they were assessed.
        figures: noise x sqrt(CTDIvol), HU sqrt(mGy), of every series that has both.
        limits: of the figures; None with too few.
        outside: indices of figures beyond the limits.
        quality_follows_dose: Spearman's rho of quality against CTDIvol; None with too few.
    """

    name: tuple[str, str, int | None]
    series: tuple[DosedSeries, ...]
    figures: tuple[float, ...]
    limits: Limits | None
    outside: tuple[int, ...]
    quality_follows_dose: float | None


def add_report(path: Path, report: DoseReport, *, with_phi: bool = False) -> None:
    """Add the events of a dose report; one that is known is replaced.

    Raises:
        OutputError: as `store.append`.
        UsageError: as `store.append`.
    """
    with opened_database(path, write=True) as connection:
        identify = prepared(connection, path, with_phi)
        for table in TABLES:
            connection.execute(table)
        for event in report.events:
            connection.execute(
                "INSERT OR REPLACE INTO dose_event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    identify(event.uid),
                    identify(report.study_uid),
                    report.scanner,
                    event.protocol,
                    event.kind,
                    event.started if with_phi else None,
                    event.ctdivol_mgy,
                    event.dlp_mgycm,
                    event.phantom_cm,
                ),
            )


def link_series(path: Path, assessment: RunReport, *, with_phi: bool = False) -> None:
    """Note which irradiation events the series of a run are of.

    Raises:
        OutputError: as `store.append`.
        UsageError: as `store.append`.
    """
    with opened_database(path, write=True) as connection:
        identify = prepared(connection, path, with_phi)
        for table in TABLES:
            connection.execute(table)
        for report in assessment.series:
            series = report.series
            if not (series.series_instance_uid and report.slices):
                continue
            for event, acquired in _irradiations(report):
                connection.execute(
                    "INSERT OR REPLACE INTO series_irradiation VALUES (?, ?, ?, ?)",
                    (
                        identify(series.series_instance_uid),
                        identify(series.study_instance_uid),
                        identify(event) if event else "",
                        acquired if with_phi else None,
                    ),
                )


def add_skipped_reports(path: Path, assessment: RunReport, *, with_phi: bool = False) -> int:
    """Add the dose reports among the files that a run skipped; how many.

    Raises:
        OutputError: as `store.append`.
        UsageError: as `store.append`.
    """
    reports = [read_dose_report(Path(item.path)) for item in assessment.skipped if Path(item.path).is_file()]
    found = [report for report in reports if report]
    for report in found:
        add_report(path, report, with_phi=with_phi)
    return len(found)


def _irradiations(report: SeriesReport) -> list[tuple[str, str]]:
    """Irradiation Event UID and time of the first and the last slice: a series is of one event or few."""
    found: dict[str, str] = {}
    for result in (report.slices[0], report.slices[-1]):
        source = result.ref.source
        if source.member is not None:
            continue
        try:
            header = dcmread(
                source.file,
                specific_tags=["IrradiationEventUID", "AcquisitionDate", "AcquisitionTime"],
                stop_before_pixels=True,
            )
            event = str(header.get("IrradiationEventUID") or "")
            acquired = f"{header.get('AcquisitionDate') or ''}{header.get('AcquisitionTime') or ''}"
        except Exception:  # whatever a hostile header makes pydicom raise
            continue
        found.setdefault(event, acquired)
    return list(found.items())


def read_doses(path: Path) -> list[DosedSeries]:
    """Every series that could be joined to a dose, in the order they were assessed.

    Raises:
        UsageError: there is no such file, or it is not a trend database of this version.
        OutputError: it cannot be read, or is damaged.
    """
    stored = read(path)
    with opened_database(path, write=False) as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if not {"dose_event", "series_irradiation"} <= tables:
            return []
        events = [_Event(*row) for row in connection.execute("SELECT * FROM dose_event")]
        links = list(connection.execute("SELECT * FROM series_irradiation"))
    by_uid = {event.uid: event for event in events}
    by_study: dict[str, list[_Event]] = defaultdict(list)
    for event in events:
        by_study[event.study].append(event)
    doses: dict[str, _Event] = {}
    for series, study, event_uid, acquired in links:
        dose = by_uid.get(event_uid) or _nearest(by_study[study], acquired)
        if dose and dose.ctdivol:
            doses[series] = dose
    found = []
    for each in stored:
        if (dose := doses.get(each.series_uid)) and dose.ctdivol:
            found.append(
                DosedSeries(
                    scanner=dose.scanner or "",
                    protocol=str(each.protocol.get("protocol_name") or dose.protocol or ""),
                    phantom_cm=dose.phantom_cm,
                    ctdivol_mgy=dose.ctdivol,
                    dlp_mgycm=dose.dlp,
                    noise_hu=statistics.median(each.noises_hu) if each.noises_hu else None,
                    quality=statistics.fmean(each.qualities) if each.qualities else None,
                )
            )
    return found


@dataclass(frozen=True)
class _Event:
    """A row of dose_event."""

    uid: str
    study: str
    scanner: str | None
    protocol: str | None
    kind: str | None
    started: str | None
    ctdivol: float | None
    dlp: float | None
    phantom_cm: int | None


def _nearest(events: Sequence[_Event], acquired: str | None) -> _Event | None:
    """The event of a study that a series without an event UID must be of; None if that cannot be told."""
    candidates = [event for event in events if event.kind != LOCALIZER and event.ctdivol]
    when = _seconds(acquired)
    timed = [
        (abs(start - when), event) for event in candidates if when and (start := _seconds(event.started))
    ]
    near = [item for item in timed if item[0] <= NEAR_S]
    if near:
        return min(near, key=lambda item: item[0])[1]
    return candidates[0] if len(candidates) == 1 else None


def _seconds(text: str | None) -> float | None:
    """Seconds of a DICOM DT, its fraction and zone left out; None if it is none."""
    try:
        return datetime.strptime((text or "")[:14], "%Y%m%d%H%M%S").timestamp()
    except ValueError:
        return None


def dose_groups(series: Sequence[DosedSeries]) -> list[DoseGroup]:
    """Series by scanner, protocol and phantom, with the control limits of noise x sqrt(CTDIvol)."""
    groups: dict[tuple[str, str, int | None], list[DosedSeries]] = defaultdict(list)
    for each in series:
        groups[each.scanner, each.protocol, each.phantom_cm].append(each)
    return [_group(name, members) for name, members in groups.items()]


def _group(name: tuple[str, str, int | None], series: Sequence[DosedSeries]) -> DoseGroup:
    figures = [each.noise_hu * math.sqrt(each.ctdivol_mgy) for each in series if each.noise_hu is not None]
    limits = control_limits(figures)
    scored = [(each.ctdivol_mgy, each.quality) for each in series if each.quality is not None]
    return DoseGroup(
        name=name,
        series=tuple(series),
        figures=tuple(figures),
        limits=limits,
        outside=tuple(index for index, value in enumerate(figures) if limits and limits.outside(value)),
        quality_follows_dose=rank_correlation(
            [dose for dose, _ in scored], [quality for _, quality in scored]
        ),
    )
