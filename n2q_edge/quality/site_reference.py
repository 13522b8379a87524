"""A site's reference: learned from its full-dose slices, kept in a file without anything of patients."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from n2q_edge.errors import UsageError
from n2q_edge.files import write_text
from n2q_edge.quality.reference import (
    DIAMETER_RANGE_MM,
    LEAST_SPREAD,
    NOISE_RANGE_HU,
    Acquisition,
    Entry,
    Observation,
    SiteReference,
    agrees,
)

SCHEMA_VERSION = 1
KIND = "n2q-edge reference"
FEWEST_SERIES, FEWEST_SLICES = 3, 20  # of a protocol, to stand for a site
FEWEST_OF_ONE = 5  # slices, of a series that is itself the reference
SIZE_RANGE_MM = 30.0  # diameters must differ by this before a dependence on size is learned


@dataclass(frozen=True)
class Learned:
    """What could be learned.

    Attributes:
        entries: of the protocols with enough slices.
        refused: a line for every protocol with too few.
    """

    entries: tuple[Entry, ...]
    refused: tuple[str, ...]


def learn(
    observations: Iterable[Observation],
    *,
    fewest_series: int = FEWEST_SERIES,
    fewest_slices: int = FEWEST_SLICES,
) -> Learned:
    """Noise against body size for every protocol.

    Args:
        observations: full-dose slices.
        fewest_series: of a protocol, or it is refused.
        fewest_slices: likewise.
    """
    groups: list[tuple[Acquisition, list[Observation]]] = []
    for seen in observations:
        for acquisition, members in groups:
            if agrees(acquisition, seen.acquisition):
                members.append(seen)
                break
        else:
            groups.append((seen.acquisition, [seen]))
    entries, refused = [], []
    for acquisition, members in sorted(groups, key=lambda group: group[0].text):
        series = len({one.series for one in members})
        if series < fewest_series or len(members) < fewest_slices:
            refused.append(
                f"{acquisition.text}: slices {len(members)}, series {series}; "
                f"needed {fewest_slices} and {fewest_series}"
            )
        else:
            entries.append(_fit(acquisition, members))
    return Learned(tuple(entries), tuple(refused))


def _fit(acquisition: Acquisition, seen: Sequence[Observation]) -> Entry:
    """The line of ln noise against diameter; every series has the same weight, however many slices it has."""
    names, member = np.unique([one.series for one in seen], return_inverse=True)
    weight = 1.0 / np.bincount(member)[member]
    weight /= weight.sum()
    diameter = np.array([one.diameter_mm for one in seen])
    log_noise = np.log([one.noise_hu for one in seen])
    center, level = float(weight @ diameter), float(weight @ log_noise)
    offset = diameter - center
    growth = 0.0
    if np.ptp(diameter) >= SIZE_RANGE_MM:
        growth = float((weight * offset) @ (log_noise - level) / ((weight * offset) @ offset))
    residual = log_noise - level - growth * offset
    return Entry(
        acquisition,
        noise_hu=math.exp(level),
        diameter_mm=center,
        growth_per_mm=growth,
        spread=max(LEAST_SPREAD, math.sqrt(float(weight @ residual**2))),
        diameters_mm=(float(diameter.min()), float(diameter.max())),
        slices=len(seen),
        series=len(names),
    )


def save(path: Path, entries: Sequence[Entry]) -> None:
    """Write a reference file. It holds protocols and noise, nothing of patients.

    Raises:
        OutputError: it cannot be written.
    """
    document = {"kind": KIND, "schema_version": SCHEMA_VERSION, "entries": [asdict(each) for each in entries]}
    write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def load(path: Path) -> SiteReference:
    """Read a reference file.

    Raises:
        UsageError: it cannot be read, is no reference file, or says what cannot be.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the reference {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is not a reference file: it is not JSON") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise UsageError(f"{path} is not a reference file: 'n2q-edge reference' makes one")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"{path} is of another version: make it anew with 'n2q-edge reference'")
    try:
        entries = tuple(_entry(each) for each in document["entries"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"{path} is a damaged reference file: {error}") from None
    if not entries:
        raise UsageError(f"{path} has no reference in it")
    return SiteReference(path.name, entries)


def _entry(fields: Mapping[str, Any]) -> Entry:
    acquisition = fields["acquisition"]
    low, high = fields["diameters_mm"]
    entry = Entry(
        Acquisition(
            str(acquisition["scanner"]),
            str(acquisition["kernel"]),
            float(acquisition["slice_thickness_mm"]),
            float(acquisition["kvp"]),
        ),
        noise_hu=float(fields["noise_hu"]),
        diameter_mm=float(fields["diameter_mm"]),
        growth_per_mm=float(fields["growth_per_mm"]),
        spread=float(fields["spread"]),
        diameters_mm=(float(low), float(high)),
        slices=int(fields["slices"]),
        series=int(fields["series"]),
    )
    plausible = (
        NOISE_RANGE_HU[0] <= entry.noise_hu <= NOISE_RANGE_HU[1]
        and DIAMETER_RANGE_MM[0] <= entry.diameters_mm[0] <= entry.diameters_mm[1] <= DIAMETER_RANGE_MM[1]
        and entry.diameters_mm[0] <= entry.diameter_mm <= entry.diameters_mm[1]
        and abs(entry.growth_per_mm) <= 0.05
        and 0.0 < entry.spread <= 2.0
    )
    if not plausible:
        raise ValueError(f"values of {entry.acquisition.text} are not plausible")
    return entry
