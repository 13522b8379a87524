"""`n2q-edge evaluate`: all systems on the same cases, resumable.

Cases are made once and shown to every system that has not scored them yet. The scores of a system are stored
after every slice under its name and the digest of its weights: what was scored once is not scored again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.dataset.collect import TEST, TRAIN, OnSlice, collect, of_split
from n2q_edge.errors import UsageError
from n2q_edge.evaluation.cases import Case, slice_cases
from n2q_edge.evaluation.oracle import PhantomSlice, phantom_slices
from n2q_edge.evaluation.scores import CaseScores, score
from n2q_edge.evaluation.systems import System, load_baselines, load_networks, load_oracle, per_patient
from n2q_edge.files import make_folder, write_text
from n2q_edge.network.device import pick_device
from n2q_edge.spec import ModelSpec

VERSION = 1  # of what is scored and how: stored scores of another version are not used

OnFraction = Callable[[float, str], None]
OnStage = Callable[[str], None]
Scores = dict[str, list[CaseScores]]
"""Scores of one system by the key of the slice; no scores for a slice that gives no cases."""


@dataclass(frozen=True)
class Source:
    """A full-dose slice and how its cases are made."""

    key: str
    make: Callable[[], Iterator[Case]]


@dataclass(frozen=True)
class Row:
    """One system and what it scored.

    Attributes:
        system: which.
        test: scores on the patients held out, in the order of the cases; none for the oracle.
        phantom: scores on the phantoms.
    """

    system: System
    test: list[CaseScores]
    phantom: list[CaseScores]


@dataclass(frozen=True)
class Comparison:
    """All systems on the same cases.

    Attributes:
        spec: what is predicted: window, dose levels, SSIM.
        rows: one a system: networks in the order given, baselines, the oracle.
        slices: test slices that were used.
        available: test slices there are.
        slices_per_patient: the limit that was set, None for all.
    """

    spec: ModelSpec
    rows: list[Row]
    slices: list[CachedSlice]
    available: int
    slices_per_patient: int | None


def compare(
    recipes: Sequence[Path],
    data: Sequence[Path],
    *,
    runs: Path,
    device: str = "auto",
    slices_per_patient: int | None = None,
    on_slice: OnSlice | None = None,
    on_fraction: OnFraction = lambda fraction, label: None,
    on_stage: OnStage = lambda stage: None,
) -> Comparison:
    """Score the trained systems, the baselines and, on phantoms, the oracle.

    Args:
        recipes: TOML recipes whose checkpoints lie beside them.
        data: DICOM files and folders; baselines are fitted on their `train` split, all is scored on `test`.
        runs: folder of the noise cache; scores are kept in its folder `evaluate`.
        device: `auto`, `cpu` or `cuda`.
        slices_per_patient: at most so many test slices of a patient, evenly spaced; None for all.
        on_slice: progress of filling the noise cache.
        on_fraction: progress of scoring.
        on_stage: called with the name of each stage.

    Raises:
        ModelError: a recipe or checkpoint is missing or wrong.
        UsageError: nothing to test on, or systems that predict different things.
        OutputError: scores cannot be stored.
    """
    spec, networks = load_networks(recipes, pick_device(device))
    on_stage("collecting slices")
    slices = collect(data, runs / "cache", on_slice)
    available = list(of_split(slices, TEST))
    if not available:
        raise UsageError("no test slices: give data whose index.csv names some, or of more patients")
    testing = per_patient(available, slices_per_patient) if slices_per_patient else available
    folder = runs / "evaluate"
    on_stage("fitting the baselines")
    baselines = load_baselines(list(of_split(slices, TRAIN)), spec, folder, on_fraction)
    systems = [*networks, *baselines]
    on_stage(f"scoring {len(systems)} systems on {len(testing)} slices x {len(spec.dose_levels)} doses")
    test = run(systems, [_source(item, spec) for item in testing], spec, folder, on_fraction)
    phantoms = [_phantom_source(phantom, spec, runs) for phantom in phantom_slices()]
    systems.append(load_oracle(spec))
    on_stage(f"scoring {len(systems)} systems on {len(phantoms)} phantoms x {len(spec.dose_levels)} doses")
    phantom = run(systems, phantoms, spec, folder, on_fraction)
    rows = [Row(system, test.get(system.name, []), phantom[system.name]) for system in systems]
    return Comparison(spec, rows, testing, len(available), slices_per_patient)


def phantom_folder(runs: Path) -> Path:
    """Where the phantoms' noise images are kept."""
    return runs / "evaluate" / "phantoms"


def _source(item: CachedSlice, spec: ModelSpec) -> Source:
    return Source(item.key, lambda: slice_cases(item, spec))


def _phantom_source(phantom: PhantomSlice, spec: ModelSpec, runs: Path) -> Source:
    return Source(phantom.key, lambda: phantom.cases(spec, phantom_folder(runs)))


def run(
    systems: Sequence[System],
    sources: Sequence[Source],
    spec: ModelSpec,
    folder: Path,
    on_fraction: OnFraction = lambda fraction, label: None,
) -> dict[str, list[CaseScores]]:
    """Scores of every system on every case, by the system's name; only what is not stored is computed.

    Raises:
        OutputError: scores cannot be stored.
    """
    make_folder(folder)
    stored = {system.name: _load(folder, system) for system in systems}
    for number, source in enumerate(sources):
        on_fraction(number / len(sources), f"slice {number + 1} of {len(sources)}")
        missing = [system for system in systems if source.key not in stored[system.name]]
        if not missing:
            continue
        found: Scores = {system.name: [] for system in missing}
        for case in source.make():
            for system in missing:
                found[system.name].append(score(case, system.answer(case), spec))
        for system in missing:
            stored[system.name][source.key] = found[system.name]
            _store(folder, system, stored[system.name])
    return {
        system.name: [one for source in sources for one in stored[system.name][source.key]]
        for system in systems
    }


def _file(folder: Path, system: System) -> Path:
    return folder / f"{system.name}-{system.digest}-{VERSION}.json"


def _load(folder: Path, system: System) -> Scores:
    file = _file(folder, system)
    if not file.exists():
        return {}
    stored = json.loads(file.read_text())
    return {key: [CaseScores.from_json(fields) for fields in scores] for key, scores in stored.items()}


def _store(folder: Path, system: System, scores: Scores) -> None:
    document = {key: [one.to_json() for one in own] for key, own in scores.items()}
    write_text(_file(folder, system), json.dumps(document))
