"""The results of a comparison as one JSON document, and the files they are written to."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from n2q_edge import __version__
from n2q_edge.dataset.collect import kernels
from n2q_edge.evaluation.comparison import Comparison, Row, phantom_folder
from n2q_edge.evaluation.figures import write_figures
from n2q_edge.evaluation.results_page import markdown
from n2q_edge.evaluation.scores import CaseScores, bootstrap, metrics
from n2q_edge.evaluation.systems import NETWORK
from n2q_edge.files import write_text
from n2q_edge.machine import describe_machine

SCHEMA_VERSION = 1

Json = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """The results, and the files they are in."""

    document: Json
    files: list[Path]


def write_results(
    comparison: Comparison, data: Sequence[Path], runs: Path, folder: Path, command: str
) -> Written:
    """Write `RESULTS.md`, `results.json` and `figures/*.png` into a folder.

    Args:
        comparison: all systems on the same cases.
        data: the DICOM files and folders it was made on, for the kernels.
        runs: the folder it was made with.
        folder: where to write.
        command: the command line that made it.

    Raises:
        OutputError: a file cannot be written.
    """
    figures = write_figures(comparison, phantom_folder(runs), folder / "figures")
    found = document(comparison, command, kernels(data))
    page, numbers = folder / "RESULTS.md", folder / "results.json"
    write_text(page, markdown(found))
    write_text(numbers, json.dumps(found, indent=1) + "\n")
    return Written(found, [page, numbers, *figures])


def command_line(recipes: Sequence[Path], data: Sequence[Path], slices_per_patient: int | None) -> str:
    """The command that repeats the results, without what only this machine knows: where its folders are."""
    parts = ["n2q-edge evaluate", *(f"export/{path.name}" for path in recipes)]
    parts += ["--data DIR"] * len(data)
    if slices_per_patient:
        parts.append(f"--slices-per-patient {slices_per_patient}")
    return " ".join(parts)


def document(comparison: Comparison, command: str, kernel_of: dict[str, str]) -> Json:
    """Everything that was found, JSON-able.

    Args:
        comparison: all systems on the same cases.
        command: the command line that made it.
        kernel_of: reconstruction kernel by the key of a slice, as far as known.
    """
    spec = comparison.spec
    best = _best_network(comparison.rows)
    patients: dict[str, set[str]] = {}
    for item in comparison.slices:
        patients.setdefault(item.patient, set()).add(kernel_of.get(item.key) or "unknown")
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "n2q_edge": __version__,
        "torch": torch.__version__,
        "machine": describe_machine(),
        "data": {
            "slices": len(comparison.slices),
            "slices_available": comparison.available,
            "slices_per_patient": comparison.slices_per_patient,
            "patients": {patient: sorted(kernel) for patient, kernel in patients.items()},
        },
        "prediction": {
            "window_center": spec.window_center,
            "window_width": spec.window_width,
            "dose_levels": list(spec.dose_levels),
        },
        "best_network": best.system.name,
        "systems": [_system(row, best, comparison) for row in comparison.rows],
    }


def _best_network(rows: Sequence[Row]) -> Row:
    """The network of the lowest error over the body's pixels."""

    def body_mae(row: Row) -> float:
        sums = np.sum([one.body for one in row.test], axis=0)
        return float(sums[1] / sums[0])

    return min((row for row in rows if row.system.kind == NETWORK), key=body_mae)


def _system(row: Row, best: Row, comparison: Comparison) -> Json:
    found: Json = {"name": row.system.name, "kind": row.system.kind, "about": row.system.about}
    found["test"] = metrics(row.test, comparison.spec) if row.test else None
    found["phantom"] = metrics(row.phantom, comparison.spec)
    if row.test and row is not best:
        found["body_mae_above_best"] = _paired_difference(row.test, best.test)
    return found


def _paired_difference(own: Sequence[CaseScores], other: Sequence[CaseScores]) -> list[float] | None:
    """95 % interval of the difference in body MAE, resampling the same patients for both."""
    first, second = bootstrap(own), bootstrap(other)
    if not first:
        return None
    return [float(q) for q in np.percentile(first["body.mae"] - second["body.mae"], (2.5, 97.5))]
