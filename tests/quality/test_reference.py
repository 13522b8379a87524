"""Expected values: exact lines of ln noise against diameter, and the arithmetic beside each test."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from n2q_edge.errors import UsageError
from n2q_edge.quality.reference import (
    Acquisition,
    DeclaredNoise,
    Observation,
    ReferenceNoise,
    SiteReference,
    Unknown,
    compare,
)
from n2q_edge.quality.site_reference import learn, load, save

PROTOCOL = {"manufacturer": "ACME", "model": "One", "kernel": "B30f", "slice_thickness_mm": 3.0, "kvp": 120.0}
ACQUISITION = Acquisition("ACME One", "B30f", 3.0, 120.0)


def seen(
    diameter: float, noise: float, series: str = "a", acquisition: Acquisition = ACQUISITION
) -> Observation:
    return Observation(acquisition, series, diameter, noise)


def line(growth: float = 0.005, series: str = "abc", slices: int = 10) -> list[Observation]:
    """Noise of 10 HU at 300 mm that grows as exp(growth * D), 250 to 340 mm."""
    return [
        seen(250 + 10 * n, 10 * math.exp(growth * (10 * n - 50)), each)
        for each in series
        for n in range(slices)
    ]


def site(observations: list[Observation] | None = None) -> SiteReference:
    return SiteReference("site.json", learn(observations or line()).entries)


def test_noise_follows_the_diameter() -> None:
    for diameter, expected in ((300, 10.0), (250, 10 * math.exp(-0.25)), (350, 10 * math.exp(0.25))):
        found = site().noise(PROTOCOL, diameter)
        assert isinstance(found, ReferenceNoise)
        assert found.noise_hu == pytest.approx(expected)


def test_the_interval_is_what_series_differ_by() -> None:
    """Series at 8, 10 and 12.5 HU: the logarithm's deviation is ln 1.25 * sqrt(2/3) = 0.1822."""
    observations = [
        seen(300, noise, name) for name, noise in (("a", 8.0), ("b", 10.0), ("c", 12.5)) for _ in range(10)
    ]
    found = site(observations).noise(PROTOCOL, 300)
    assert isinstance(found, ReferenceNoise)
    assert found.noise_hu == pytest.approx(10.0)
    assert found.interval_hu == pytest.approx(
        (10 * math.exp(-1.96 * 0.1822), 10 * math.exp(1.96 * 0.1822)), 1e-3
    )


def test_a_long_series_counts_no_more_than_a_short_one() -> None:
    observations = [seen(300, 8.0, "a")] * 90 + [seen(300, 10.0, "b")] * 10 + [seen(300, 12.5, "c")] * 10
    found = site(observations).noise(PROTOCOL, 300)
    assert isinstance(found, ReferenceNoise)
    assert found.noise_hu == pytest.approx(10.0)


def test_sizes_that_hardly_differ_teach_no_dependence() -> None:
    observations = [seen(300 + n / 4, 10 + n / 10, name) for name in "abc" for n in range(10)]
    assert learn(observations).entries[0].growth_per_mm == 0.0


def test_too_little_is_refused_with_the_numbers() -> None:
    learned = learn(line(series="ab"))
    assert learned.entries == ()
    assert learned.refused == ("ACME One, kernel B30f, 3 mm, 120 kV: slices 20, series 2; needed 20 and 3",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"kernel": "B70f"},
            "no reference for ACME One, kernel B70f, 3 mm, 120 kV; it has ACME One, kernel B30f",
        ),
        ({"model": "Two"}, "nor for that scanner"),
        ({"slice_thickness_mm": 1.0}, "no reference for"),
        ({"kvp": 100.0}, "no reference for"),
        ({"kernel": None}, "the header lacks"),
    ],
)
def test_another_protocol_is_unknown_never_a_guess(change: dict[str, Any], words: str) -> None:
    found = site().noise({**PROTOCOL, **change}, 300)
    assert isinstance(found, Unknown)
    assert words in found.reason


@pytest.mark.parametrize(
    ("diameter", "known"), [(231, True), (229, False), (359, True), (361, False), (None, False)]
)
def test_sizes_far_from_those_learned_are_unknown(diameter: float | None, known: bool) -> None:
    assert isinstance(site().noise(PROTOCOL, diameter), ReferenceNoise) is known


def test_small_differences_of_the_header_do_not_matter() -> None:
    found = site().noise({**PROTOCOL, "kernel": "b30F", "slice_thickness_mm": 3.01, "kvp": 120.4}, 300)
    assert isinstance(found, ReferenceNoise)


def test_declared_noise_holds_for_all_sizes_or_is_corrected() -> None:
    plain = DeclaredNoise(12.0).noise({}, None)
    assert isinstance(plain, ReferenceNoise)
    assert plain.noise_hu == 12.0
    larger = DeclaredNoise(12.0, 300.0).noise({}, 320.0)
    assert isinstance(larger, ReferenceNoise)
    assert larger.noise_hu == pytest.approx(12.0 * math.exp(0.0195 * 20 / 2))  # half the attenuation of 20 mm
    assert isinstance(DeclaredNoise(12.0, 300.0).noise({}, None), Unknown)


@pytest.mark.parametrize(
    ("noise", "diameter"),
    [(0.0, None), (-5.0, None), (math.nan, None), (math.inf, None), (10.0, 5.0), (10.0, math.nan)],
)
def test_declared_values_must_be_plausible(noise: float, diameter: float | None) -> None:
    with pytest.raises(UsageError, match="not plausible"):
        DeclaredNoise(noise, diameter)


def test_equivalent_dose_is_the_squared_inverse_of_the_noise() -> None:
    """Twice the noise is a quarter of the dose; the interval is the reference's, the other way round."""
    found = compare(20.0, ReferenceNoise(10.0, (8.0, 12.5), "test"))
    assert found.ratio == 2.0
    assert found.equivalent_dose == 0.25
    assert found.ratio_interval == (1.6, 2.5)
    assert found.equivalent_dose_interval == pytest.approx((0.16, 0.390625))


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    entries = learn(line()).entries
    save(tmp_path / "site.json", entries)
    assert load(tmp_path / "site.json") == SiteReference("site.json", entries)


def changed(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    def change(document: dict[str, Any]) -> Any:
        document["entries"][0].update(fields)
        return document

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda _: [],
    "another kind": lambda document: {**document, "kind": "x"},
    "another version": lambda document: {**document, "schema_version": 99},
    "no entries": lambda document: {**document, "entries": []},
    "entries of another type": lambda document: {**document, "entries": 7},
    "entry of another type": lambda document: {**document, "entries": [None]},
    "negative noise": changed(noise_hu=-1),
    "infinite noise": changed(noise_hu=float("inf")),
    "not a number": changed(noise_hu=float("nan")),
    "text": changed(noise_hu="many"),
    "huge growth": changed(growth_per_mm=3.0),
    "no spread": changed(spread=0.0),
    "diameters the wrong way round": changed(diameters_mm=[300, 200]),
    "three diameters": changed(diameters_mm=[200, 250, 300]),
    "a diameter of an elephant": changed(diameters_mm=[200, 2000]),
    "slices without end": changed(slices=float("inf")),
    "no acquisition": changed(acquisition=None),
    "acquisition without a kernel": changed(acquisition={"scanner": "x"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "site.json"
    save(file, learn(line()).entries)
    file.write_text(json.dumps(HOSTILE[name](json.loads(file.read_text()))))
    with pytest.raises(UsageError, match=r"site\.json") as caught:
        load(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "site.json").write_bytes(content)
    with pytest.raises(UsageError, match="not a reference file"):
        load(tmp_path / "site.json")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the reference"):
        load(tmp_path / "none.json")
