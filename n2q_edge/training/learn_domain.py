"""What a model was trained on, as limits of the features in `n2q_edge.quality.domain`.

A value counts as learned between the extremes that at least `MIN_PATIENTS` patients and at least `MIN_SHARE`
of the slices reach: one patient, or a handful of slices, teach a network nothing. What the header says is
taken as it is, since what thickness and pixel size do to a slice the other features measure. `MARGIN` of that
range (`HEADER_MARGIN` for the header's facts), in the feature's own scale, is added at both ends.
docs/explanation/out-of-domain.md says how they were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.model import checkpoint
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.domain import FEATURES, Feature, Features, measure
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.simulation.noise import inserted_noise
from n2q_edge.spec import HU_MAX, HU_MIN, FeatureLimits

DOSES = (1.0, 0.25, 0.03)  # full dose, and down to the lowest that `training.sampling` draws
MIN_PATIENTS = 2
MIN_SHARE = 0.02
MARGIN = 0.15
HEADER_MARGIN = 0.10
SMALLEST_MARGIN = {"metal": 0.002}  # most slices have none: a range of 0 to 0 has no width to take a share of

Domain = dict[str, FeatureLimits]


@dataclass(frozen=True)
class Example:
    """A training slice as training may see it.

    Attributes:
        patient: hashed patient ID.
        features: of the slice at each of `DOSES`.
    """

    patient: str
    features: Sequence[Features]


def examples(slices: Iterable[CachedSlice]) -> Iterator[Example]:
    """Measure training slices, as they are and with the noise of lower doses; about 0.1 s a slice."""
    for item in slices:
        full = np.asarray(item.hu(), dtype=np.float32)
        basis, rng = item.basis(), np.random.default_rng(int(item.key, 16))
        doses = (full if dose == 1.0 else full + inserted_noise(basis, dose, rng) for dose in DOSES)
        yield Example(
            item.patient,
            [features_of(np.clip(hu, HU_MIN, HU_MAX), item.pixel_mm, item.thickness_mm) for hu in doses],
        )


def features_of(hu: NDArray[np.float32], pixel_mm: float, thickness_mm: float | None) -> Features:
    """The features of a slice [H,W] in HU with square pixels, measured as `assess` does."""
    spacing = (pixel_mm, pixel_mm)
    body = body_mask(hu, spacing)
    return measure(hu, body, spacing, thickness_mm, global_noise_level(hu, body, spacing))


def learn(found: Iterable[Example], margin: float = MARGIN) -> Domain:
    """The domain of a model trained on these examples; without a feature that none of them has."""
    found = list(found)
    domain = {}
    for name, feature in FEATURES.items():
        limits = _limits(name, feature, found, margin)
        if limits:
            domain[name] = limits
    return domain


def write_into(checkpoint_file: Path, slices: Iterable[CachedSlice]) -> Domain:
    """Give a checkpoint that was trained without one the domain of its training slices.

    `n2q-edge train` needs no help; this is for weights from before.

    Raises:
        ModelError: no checkpoint.
        OutputError: it could not be written.
    """
    spec, weights = checkpoint.load(checkpoint_file)
    domain = learn(examples(slices))
    checkpoint.save(checkpoint_file, replace(spec, domain=domain), weights)
    return domain


def _limits(name: str, feature: Feature, found: Sequence[Example], margin: float) -> FeatureLimits | None:
    values = [[one[name] for one in example.features if name in one] for example in found]
    measured = [(example.patient, each) for example, each in zip(found, values, strict=True) if each]
    if not measured:
        return None
    patients = [patient for patient, _ in measured]
    scale = math.log if feature.ratio else float
    low = -_reached(patients, [-scale(min(each)) for _, each in measured], everything=feature.header)
    high = _reached(patients, [scale(max(each)) for _, each in measured], everything=feature.header)
    low, high = min(low, high), max(low, high)  # the two cross where a few patients share no value
    share = HEADER_MARGIN if feature.header else margin
    width = max(share * (high - low), SMALLEST_MARGIN.get(name, 0.0))
    back = math.exp if feature.ratio else float
    lowest, highest = back(low - width), back(high + width)
    if feature.unit == "%":
        lowest, highest = max(lowest, 0.0), min(highest, 1.0)
    return FeatureLimits((back(low), back(high)), (lowest, highest))


def _reached(patients: Sequence[str], highest: Sequence[float], *, everything: bool) -> float:
    """The highest value that enough patients and enough slices reach.

    Args:
        patients: patient of every slice.
        highest: highest value of every slice.
        everything: take the highest value of all instead.
    """
    if everything:
        return max(highest)
    by_patient: dict[str, float] = {}
    for patient, value in zip(patients, highest, strict=True):
        by_patient[patient] = max(value, by_patient.get(patient, -math.inf))
    ranked = sorted(by_patient.values(), reverse=True)
    return min(ranked[min(MIN_PATIENTS, len(ranked)) - 1], float(np.quantile(highest, 1 - MIN_SHARE)))
