"""Limits from made-up examples whose ranges are known."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("numba")

from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.model import checkpoint
from n2q_edge.spec import ModelSpec
from n2q_edge.training.learn_domain import DOSES, Example, examples, learn, write_into


def one(patient: str, *values: float, name: str = "fat") -> Example:
    """A slice with one value at each dose."""
    return Example(patient, [{name: value} for value in values])


def test_a_range_is_what_two_patients_reach() -> None:
    """A alone reaches 0.1 and E alone 0.9; B and D are the second."""
    found = [one(patient, value) for patient, value in zip("ABCDE", (0.1, 0.2, 0.5, 0.7, 0.9), strict=True)]
    limits = learn(found, margin=0.1)["fat"]
    assert limits.training == pytest.approx((0.2, 0.7))
    assert limits.limits == pytest.approx((0.15, 0.75))  # a tenth of the width of 0.5


def test_a_range_is_what_a_fiftieth_of_the_slices_reaches() -> None:
    """Two patients have one slice each at 0.0, which is 2 of 400; the next are at 0.3."""
    bulk = [one(f"P{index % 20}", 0.3 + 0.4 * index / 397) for index in range(398)]
    low, high = learn([one("A", 0.0), one("B", 0.0), *bulk])["fat"].training
    assert 0.3 <= low < 0.3 + 0.4 * 0.02
    assert 0.7 - 0.4 * 0.02 - 0.001 < high <= 0.7


def test_every_dose_of_a_slice_counts() -> None:
    found = [one(patient, 10.0, 20.0, 60.0, name="noise_hu") for patient in "ABC"]
    assert learn(found)["noise_hu"].training == pytest.approx((10.0, 60.0))


def test_ratios_have_a_margin_of_ratios() -> None:
    found = [one(patient, 10.0, 1000.0, name="noise_hu") for patient in "AB"]
    assert learn(found, margin=0.5)["noise_hu"].limits == pytest.approx((1.0, 10000.0))


def test_the_header_is_taken_as_it_is() -> None:
    found = [
        one(patient, value, name="slice_mm") for patient, value in zip("ABC", (1.0, 5.0, 8.0), strict=True)
    ]
    limits = learn(found)["slice_mm"]
    assert limits.training == pytest.approx((1.0, 8.0))
    assert limits.limits == pytest.approx((8**-0.1, 8 * 8**0.1))


def test_a_feature_nobody_has_is_not_in_the_domain() -> None:
    assert set(learn([one("A", 0.5), one("B", 0.5)])) == {"fat"}
    assert learn([]) == {}


def test_shares_stay_shares() -> None:
    limits = learn([one("A", 0.01, 0.98), one("B", 0.01, 0.98)])["fat"]
    assert limits.limits == (0.0, 1.0)


def test_nothing_without_metal_is_strange_by_noise_of_its_share() -> None:
    limits = learn([one(patient, 0.0, name="metal") for patient in "ABC"])["metal"]
    assert limits.training == (0.0, 0.0)
    assert limits.limits[1] == pytest.approx(0.002)


def test_two_patients_without_a_common_value_span_the_range() -> None:
    assert learn([one("A", 0.2), one("B", 0.4)])["fat"].training == pytest.approx((0.2, 0.4))


def test_slices_are_measured_at_every_dose(cached_slices: list[CachedSlice]) -> None:
    (found,) = examples(cached_slices[:1])
    assert found.patient == cached_slices[0].patient
    noise = [features["noise_hu"] for features in found.features]
    assert len(noise) == len(DOSES)
    assert noise == sorted(noise)
    # At a quarter of the dose the variance is four times as large, and some electronic noise comes on top;
    # less is measured here, in patches of 3 pixels, which miss the coarse part of the grain.
    assert 1.5 < noise[1] / noise[0] < 3.0
    assert found.features[0]["diameter_mm"] == pytest.approx(260, rel=0.03)


def test_a_checkpoint_from_before_gets_its_domain(cached_slices: list[CachedSlice], tmp_path: Path) -> None:
    import torch

    path = tmp_path / "old.safetensors"
    checkpoint.save(path, ModelSpec("old", "1", {"class": "compact"}), {"weight": torch.ones(2)})
    domain = write_into(path, cached_slices)
    spec, weights = checkpoint.load(path)
    assert spec.domain == domain
    assert "diameter_mm" in domain
    assert weights["weight"].tolist() == [1, 1]
