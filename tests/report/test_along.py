"""The charts along z show what there is, on a scale that fits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.results import SeriesReport
from n2q_edge.assessment.run import assess
from n2q_edge.dicom import scan
from n2q_edge.report.along import charts_along, limits_below
from n2q_edge.report.charts import Chart
from tests.helpers.fakes import FakeRuntime, phantom


def by_brightness(hu: FloatArray) -> FloatArray:
    return np.clip(hu / 100, 0, 1)


@pytest.fixture
def report(ct_series: Callable[..., Path]) -> SeriesReport:
    """Three slices of quality .87, .81 and .86, 5 mm apart."""
    folder = ct_series(images=[phantom(96, hu) for hu in (87, 81, 86)])
    return assess(scan([folder]), FakeRuntime(by_brightness), worst=2).series[0]


def changed(report: SeriesReport, **values: list[Any]) -> SeriesReport:
    """The report with other values of its slices."""
    slices = [
        replace(result, **{name: each[index] for name, each in values.items()})
        for index, result in enumerate(report.slices)
    ]
    return SeriesReport(report.number, report.series, report.policy, slices, report.worst)


def titles(charts: list[Chart]) -> list[str]:
    return [chart.plot.y.title for chart in charts]


def test_noise_comes_before_the_prediction(report: SeriesReport) -> None:
    assert titles(charts_along(report)) == ["noise, HU", "predicted SSIM"]


def test_the_quality_axis_fits_the_data(report: SeriesReport) -> None:
    """Slices of .81 to .87, uniform, so the 5th percentiles are the means."""
    scale = charts_along(report)[1].plot.y
    assert (scale.low, scale.high) == pytest.approx((0.8, 0.88))


def test_it_makes_room_for_the_expected_error(report: SeriesReport) -> None:
    """.81 - .15 = .66 and .87 + .15 is beyond 1; without an error there is no band."""
    chart = charts_along(changed(report, expected_error=[0.15] * 3))[1]
    assert (chart.plot.y.low, chart.plot.y.high) == pytest.approx((0.6, 1.0))
    assert 'class="band"' in chart.svg()
    assert 'class="band"' not in charts_along(report)[1].svg()


def test_limits_off_the_scale_are_named_instead_of_drawn(report: SeriesReport) -> None:
    """The default policy asks .6 and .4 of a slice."""
    assert "slice limit" not in charts_along(report)[1].svg()
    assert limits_below(report) == "0.6 (meets the standard) and 0.4 (usable)"
    low = changed(report, expected_error=[0.25] * 3)  # down to .56
    assert "slice limit, meets the standard" in charts_along(low)[1].svg()
    assert limits_below(low) == "0.4 (usable)"


def test_the_worst_slices_are_those_of_the_summary(report: SeriesReport) -> None:
    chart = charts_along(report)[1]
    assert chart.svg().count('class="mark"') == len(report.summary.worst) == 2
    assert chart.description == "Predicted SSIM along z, 3 slices: mean 0.85, lowest 0.81 at slice 2"


def with_current(report: SeriesReport, *values: float | None) -> SeriesReport:
    refs = [
        replace(result.ref, exposure=replace(result.ref.exposure, tube_current_ma=value))
        for result, value in zip(report.slices, values, strict=True)
    ]
    return changed(report, ref=refs)


def test_a_modulated_tube_current_has_a_chart(report: SeriesReport) -> None:
    charts = charts_along(with_current(report, 9.0, None, 115.0))
    assert titles(charts) == ["noise, HU", "predicted SSIM", "mA"]
    assert charts[-1].description == "Tube current along z: 9 to 115 mA"
    assert [chart.plot.x_labels for chart in charts] == [False, False, True]


@pytest.mark.parametrize("values", [(180.0,) * 3, (None,) * 3])
def test_a_constant_or_unknown_one_has_none(report: SeriesReport, values: tuple[float | None, ...]) -> None:
    assert titles(charts_along(with_current(report, *values))) == ["noise, HU", "predicted SSIM"]
