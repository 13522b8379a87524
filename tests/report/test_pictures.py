"""Pictures of a series: the slice as it is, its quality as color beside it, its charts as a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.results import RunReport
from n2q_edge.assessment.run import assess
from n2q_edge.dicom import scan
from n2q_edge.quality.overlay import gray, overlay
from n2q_edge.report.pictures import GAP, MARGIN, page_pictures, series_charts, slice_picture, slice_pictures
from tests.helpers.fakes import FakeRuntime, phantom

WINDOW = (40.0, 300.0)


def by_brightness(hu: FloatArray) -> FloatArray:
    return np.clip(hu / 100, 0, 1)


@pytest.fixture
def run(ct_series: Callable[..., Path]) -> RunReport:
    folder = ct_series(images=[phantom(192, 60), phantom(192, 20)])
    return assess(scan([folder]), FakeRuntime(by_brightness), worst=2, keep_images=True)


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_slice_picture_holds_slice_and_overlay_as_they_are(run: RunReport) -> None:
    result = run.series[0].worst[0]
    assert result.images
    picture = opened(slice_picture(result, run.spec, "a slice"))
    height, width = result.images.hu.shape
    top = picture.shape[0] - height
    assert picture.shape == (height + top, 2 * width + GAP, 3)
    left, right = picture[top:, :width], picture[top:, width + GAP :]
    plain = gray(result.images.hu, WINDOW)
    assert (left == plain[..., None]).all()
    middle = np.s_[height // 2 :]  # below the color bar
    assert (right[middle] == overlay(plain, result.images.quality_map, result.images.mask)[middle]).all()
    assert picture[:top].any()  # the words


def test_a_picture_says_noise_and_prediction_and_no_dose(
    run: RunReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("n2q_edge.report.pictures.draw_text", lambda _, __, text, ___: said.append(text))
    slice_picture(run.series[0].worst[0], run.spec, "Slice 2")
    assert said[0] == "Slice 2"
    assert "predicted SSIM mean 0.20" in said[1]
    assert "dose" not in " ".join(said)


def test_pages_get_both_cut_to_the_body_and_the_gray_one_lossless(run: RunReport) -> None:
    images = run.series[0].worst[0].images
    assert images
    png, jpeg = page_pictures(images, run.spec)
    plain = opened(png)
    assert plain.shape == opened(jpeg).shape[:2]
    rows = np.flatnonzero(images.mask.any(axis=1))
    assert plain.shape[0] == rows[-1] - rows[0] + 1 + 2 * MARGIN
    # 20 HU in the window -110 to 190 is 130/300 of 255
    assert plain[plain.shape[0] // 2, plain.shape[1] // 2] == round(255 * 130 / 300)


def test_a_series_has_its_charts_and_its_worst_slices(run: RunReport) -> None:
    (report,) = run.series
    found = dict([*series_charts(report, run.spec), *slice_pictures(report, report.worst, run.spec)])
    assert list(found) == ["series001_along.svg", "series001_slice0002.png", "series001_slice0001.png"]
    assert found["series001_slice0002.png"].startswith(b"\x89PNG")


def test_the_charts_are_a_file_that_any_viewer_can_draw(run: RunReport) -> None:
    """Well-formed, with a size, and without the CSS variables that only browsers know."""
    ((_, svg),) = series_charts(run.series[0], run.spec)
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    inner = [element for element in root if element.tag.endswith("svg")]
    assert [element.get("aria-label", "").partition(" along z")[0] for element in inner] == [
        "Noise",
        "Predicted SSIM",
    ]
    ends = [float(element.get("y", 0)) + float(element.get("height", 0)) for element in inner]
    assert ends == sorted(ends)
    assert ends[-1] <= float(root.get("height", 0))
    assert b"var(" not in svg
    assert b"stroke: #1d5fa8" in svg  # the line of the light theme
