"""The trend database: one SQLite file of slice scores.

Scores are stored, verdicts are not: a policy is applied when the data is read, so thresholds can change
later.

A slice is known by its SOP Instance UID, its frame and the model's SHA-256: assessing it again replaces its
scores and adds nothing. Without `with_phi` the file holds no identifier of a patient: UIDs are replaced by an
HMAC-SHA-256 under a salt, and paths, dates of the scan and free-text descriptions are left out. The salt lies
beside the database, not in it: who gets the database alone cannot test whether a UID they know is in it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import n2q_edge
from n2q_edge.assessment.results import RunReport, SeriesReport, SliceResult
from n2q_edge.assessment.summary import is_doubted
from n2q_edge.errors import UsageError
from n2q_edge.trends import database
from n2q_edge.trends.database import Identity, opened_database, prepared, schema_version

PROTOCOL = (
    "manufacturer",
    "model",
    "station",
    "body_part",
    "protocol_name",
    "kernel",
    "kvp",
    "tube_current_ma",
    "exposure_mas",
    "ctdivol",
    "pitch",
    "slice_thickness_mm",
)


@dataclass(frozen=True)
class Appended:
    """What one append did, in slices.

    Attributes:
        new: added.
        replaced: known before, with this model.
        without_uid: not stored, because a slice without SOP or Series Instance UID cannot be known again.
    """

    new: int
    replaced: int
    without_uid: int


@dataclass(frozen=True)
class StoredSeries:
    """One series of one model, as the database has it.

    Attributes:
        series_uid: hashed, unless the database keeps identity.
        stack: number among the stacks of the series.
        assessed: start of the run that stored it first, ISO 8601, UTC; assessing it again does not move it.
        ai_model: name, version and the first 12 characters of the SHA-256.
        protocol: as in `n2q_edge.dicom.protocol`, without what identifies.
        qualities: mean quality of every slice that has one, in z order.
        noises_hu: model-free noise of every slice that has one.
        doubted: how many of the slices with a quality are unlike what models are trained on.
    """

    series_uid: str
    stack: int
    assessed: str
    ai_model: str
    protocol: dict[str, Any]
    qualities: tuple[float, ...]
    noises_hu: tuple[float, ...]
    doubted: int


def append(path: Path, assessment: RunReport, *, with_phi: bool = False) -> Appended:
    """Add a run to the database, which is made if it is not there; all of it or nothing.

    Other processes may append at the same time: each waits for its turn.

    Args:
        path: the database.
        assessment: the run.
        with_phi: keep UIDs and series descriptions as they are. A database is either with or without
            identity.

    Raises:
        OutputError: it cannot be written, is locked for over a minute, or is no database.
        UsageError: it is another program's or a newer version's, its salt is missing or another one, or
            `with_phi` is not what it was made with.
    """
    with opened_database(path, write=True) as connection:
        identify = prepared(connection, path, with_phi)
        model = _store_model(connection, assessment)
        counts = [0, 0, 0]
        for report in assessment.series:
            if not report.series.series_instance_uid:
                counts[2] += len(report.slices)
            elif report.slices:
                series = _store_series(connection, model, report, assessment, identify, with_phi)
                for result in report.slices:
                    counts[_store_slice(connection, model, series, result, identify)] += 1
        _drop_empty_series(connection)
    return Appended(*counts)


def prepare(path: Path, *, with_phi: bool = False) -> None:
    """Make the database or see that it can be appended to, before an assessment that would be stored in it.

    Raises:
        OutputError: as `append`.
        UsageError: as `append`.
    """
    with opened_database(path, write=True) as connection:
        prepared(connection, path, with_phi)


def read(path: Path) -> list[StoredSeries]:
    """All series, ordered by when they were assessed.

    Raises:
        UsageError: there is no such file, or it is not a trend database of this version.
        OutputError: it cannot be read, or is damaged.
    """
    if not path.is_file():
        raise UsageError(f"there is no trend database {path}: 'n2q-edge assess --db {path}' makes one")
    with opened_database(path, write=False) as connection:
        version = schema_version(connection, path)
        if version != len(database.MIGRATIONS):
            raise UsageError(
                f"{path} has schema {version}: append once with this n2q-edge to bring it up to date"
            )
        columns = ", ".join(f"series.{name}" for name in PROTOCOL)
        rows = connection.execute(
            "SELECT series.id, series_uid, stack, assessed, "
            "ai_model.name || ' ' || ai_model.version || ' ' || substr(sha256, 1, 12), "
            f"{columns} FROM series JOIN ai_model ON ai_model.id = series.ai_model "
            "ORDER BY assessed, series.id"
        ).fetchall()
        return [_stored(connection, row) for row in rows]


def _stored(connection: sqlite3.Connection, row: Sequence[Any]) -> StoredSeries:
    slices = connection.execute(
        "SELECT quality_mean, noise_hu, flags FROM slice WHERE series = ? ORDER BY number", (row[0],)
    ).fetchall()
    return StoredSeries(
        series_uid=row[1],
        stack=row[2],
        assessed=row[3],
        ai_model=row[4],
        protocol=dict(zip(PROTOCOL, row[5:], strict=True)),
        qualities=tuple(quality for quality, _, _ in slices if quality is not None),
        noises_hu=tuple(noise for _, noise, _ in slices if noise is not None),
        doubted=sum(is_doubted(flags.split()) for quality, _, flags in slices if quality is not None),
    )


def _store_model(connection: sqlite3.Connection, assessment: RunReport) -> int:
    spec, sha256 = assessment.spec, assessment.runtime.get("model_sha256")
    connection.execute(
        "INSERT INTO ai_model (sha256, name, version, dose_levels) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (sha256) DO NOTHING",
        (sha256, spec.name, spec.version, json.dumps(spec.predicted_doses)),
    )
    (number,) = connection.execute("SELECT id FROM ai_model WHERE sha256 = ?", (sha256,)).fetchone()
    return int(number)


def _store_series(
    connection: sqlite3.Connection,
    model: int,
    report: SeriesReport,
    assessment: RunReport,
    identify: Identity,
    with_phi: bool,
) -> int:
    series = report.series
    values: dict[str, Any] = {
        "ai_model": model,
        "study_uid": identify(series.study_instance_uid),
        "series_uid": identify(series.series_instance_uid),
        "stack": series.stack,
        "series_description": series.protocol.get("series_description") if with_phi else None,
        "assessed": assessment.created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "n2q_edge_version": n2q_edge.__version__,
        **{name: series.protocol.get(name) for name in PROTOCOL},
    }
    key = ("ai_model", "series_uid", "stack")
    updates = ", ".join(f"{name} = excluded.{name}" for name in values if name not in (*key, "assessed"))
    connection.execute(
        f"INSERT INTO series ({', '.join(values)}) VALUES ({', '.join('?' * len(values))}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {updates}",
        tuple(values.values()),
    )
    (number,) = connection.execute(
        "SELECT id FROM series WHERE ai_model = ? AND series_uid = ? AND stack = ?",
        tuple(values[name] for name in key),
    ).fetchone()
    return int(number)


def _store_slice(
    connection: sqlite3.Connection, model: int, series: int, result: SliceResult, identify: Identity
) -> int:
    """Store a slice; 0 if it is new, 1 if it was known, 2 if it has no UID."""
    if not result.ref.sop_instance_uid:
        return 2
    key = (model, identify(result.ref.sop_instance_uid), result.ref.frame or 0)
    known = connection.execute(
        "SELECT 1 FROM slice WHERE ai_model = ? AND sop_uid = ? AND frame = ?", key
    ).fetchone()
    quality = result.quality
    connection.execute(
        "INSERT OR REPLACE INTO slice VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *key,
            series,
            result.number,
            result.ref.position_mm,
            quality.mean if quality else None,
            quality.p05 if quality else None,
            json.dumps(list(quality.histogram)) if quality else None,
            result.dose.level if result.dose else None,
            result.noise_hu,
            result.model_noise_hu,
            " ".join(result.flags),
            result.times.total,
        ),
    )
    return 1 if known else 0


def _drop_empty_series(connection: sqlite3.Connection) -> None:
    """A slice that moved to another stack of its series may leave one without slices."""
    connection.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM slice)")
