"""The numbers at the top: measured before predicted, and no claim that a dose class cannot bear."""

from __future__ import annotations

from typing import Any

import pytest

from n2q_edge.report.cards import Card, dose_statement, groups

LEVELS = [5.0, 10.0, 25.0, 50.0, 75.0]


def entry(**summary: Any) -> dict[str, Any]:
    known = {
        "slices": 4,
        "slices_scored": 4,
        "quality": {"mean": 0.914, "min": 0.8, "p05": 0.8},
        "dose": [{"level": 50.0, "slices": 1}, {"level": 75.0, "slices": 3}],
        "noise_hu_median": 11.24,
        "noise_hu_min": 8.3,
        "noise_hu_max": 24.0,
        "model_noise_hu_median": None,
    }
    return {"summary": {**known, **summary}, "latency": {"stages_ms": {"total": {"p50": 30.2, "p90": 41.6}}}}


def test_measured_before_predicted_before_the_run() -> None:
    titles = [group.title for group in groups(entry(), LEVELS)]
    assert titles == ["Measured", "Predicted by the model", "This run"]


def test_noise_with_median_and_range() -> None:
    assert groups(entry(), LEVELS)[0].cards == (Card("Noise", "11.2 HU", "median; 8.3 to 24.0"),)


def test_noise_that_could_not_be_measured() -> None:
    (card,) = groups(entry(noise_hu_median=None, noise_hu_min=None, noise_hu_max=None), LEVELS)[0].cards
    assert (card.name, card.value) == ("Noise", "–")


def test_the_prediction_says_against_what() -> None:
    quality, dose = groups(entry(), LEVELS)[1].cards
    assert quality == Card("Predicted SSIM", "0.91", "against an assumed full dose; lowest slice 0.80")
    assert dose == Card("Dose it looks like", "at least 75 %", "as typical full-dose scans; 3 of 4 slices")


def test_the_prediction_has_its_expected_error() -> None:
    quality = groups(entry(expected_error_median=0.0649), LEVELS)[1].cards[0]
    assert quality.value == "0.91 ± 0.06"


def test_size_and_dose_where_they_are_known() -> None:
    known = {
        f"{name}_{what}": value
        for name, values in {
            "water_equivalent_diameter_mm": (291.4, 250, 310),
            "ssde_mgy": (12.3, 11, 13),
        }.items()
        for what, value in zip(("median", "min", "max"), values, strict=True)
    }
    assert groups(entry(**known, truncated_slices=2), LEVELS)[0].cards[1:] == (
        Card("Water-equivalent diameter", "291 mm", "median; 250 to 310"),
        Card("SSDE", "12.3 mGy", "median; 11.0 to 13.0"),
        Card("Cut by the field of view", "2 slices", "their diameter is too small"),
    )


def test_a_lower_dose_is_no_bound() -> None:
    _, dose = groups(entry(dose=[{"level": 25.0, "slices": 4}]), LEVELS)[1].cards
    assert dose == Card("Dose it looks like", "about 25 %", "of an assumed full dose; 4 of 4 slices")


def test_a_model_without_doses() -> None:
    (quality,) = groups(entry(dose=[]), [])[1].cards
    assert quality.name == "Predicted SSIM"


def test_noise_by_the_model() -> None:
    card = groups(entry(model_noise_hu_median=12.92), LEVELS)[1].cards[-1]
    assert card == Card("Noise by the model", "12.9 HU", "median")


def test_no_body_no_prediction() -> None:
    empty = entry(quality={"mean": None, "min": None, "p05": None}, dose=[])
    assert groups(empty, LEVELS)[1].cards == (Card("Predicted SSIM", "–", "no slice has a body"),)


@pytest.mark.parametrize(("level", "said"), [(75.0, "at least 75 %"), (10.0, "about 10 %")])
def test_dose_statement(level: float, said: str) -> None:
    assert dose_statement(level, LEVELS) == said
