"""Does the model's noise agree with noise measured without it? A check that the model is in its domain."""

from __future__ import annotations

NOISE_DISAGREEMENT = "noise_disagreement"
"""Flag of a slice in which the two differ by more than `NOISE_RATIO_LIMIT`."""

NOISE_RATIO_LIMIT = 1.5
"""Ratio of the two, either way. docs/reference/policy.md says what it was measured on."""

MIN_NOISE_HU = 1.0  # below it both numbers are rounding and smoothing, and their ratio says nothing


def noise_disagrees(measured_hu: float | None, model_hu: float | None) -> bool:
    """Whether the noise measured in soft tissue and the model's noise there contradict one another.

    Args:
        measured_hu: global noise level (`scoring.global_noise_level`); None if it could not be measured.
        model_hu: median of the model's noise map in soft tissue; None if it gives none.
    """
    if measured_hu is None or model_hu is None:
        return False
    low, high = sorted((max(measured_hu, MIN_NOISE_HU), max(model_hu, MIN_NOISE_HU)))
    return high > NOISE_RATIO_LIMIT * low
