"""A body cut off by the field of view, against the same body seen whole."""

import numpy as np
import pytest

pytest.importorskip("numba")

from n2q_edge.simulation.continuation import continued
from n2q_edge.simulation.noise import line_integrals
from n2q_edge.simulation.projector import Geometry

WHOLE, SEEN, PIXEL_MM = 192, 128, 2.5  # a body of 400 x 250 mm; the field of view is 320 mm wide


def body(size: int) -> np.ndarray:
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * PIXEL_MM
    return np.where((x / 200.0) ** 2 + (y / 125.0) ** 2 < 1, 0.0, -1000.0).astype(np.float32)


@pytest.fixture(params=["square", "circle"])
def cut(request: pytest.FixtureRequest) -> np.ndarray:
    """The middle of the body; outside the circle padding, as GE has it."""
    hu = body(SEEN)
    if request.param == "circle":
        y, x = np.mgrid[:SEEN, :SEEN] - (SEEN - 1) / 2
        hu[np.hypot(x, y) > SEEN / 2] = -1024.0
    return hu


def test_the_body_goes_on_where_it_was(cut: np.ndarray) -> None:
    larger = continued(cut)
    assert larger.shape == (WHOLE, WHOLE)
    wrong = (larger > -500) != (body(WHOLE) > -500)
    assert wrong.sum() < 0.02 * (body(WHOLE) > -500).sum()


def test_rays_see_what_lies_beside_the_image(cut: np.ndarray) -> None:
    """Lateral rays cross 400 mm of water, p = 0.0195/mm * 400 mm = 7.8; the image shows 320 mm of them."""
    geometry = Geometry.for_image(SEEN, PIXEL_MM, 60)
    middle = geometry.detectors // 2
    rays = line_integrals(cut, geometry)
    assert rays[30, middle] == pytest.approx(7.8, rel=0.05)  # view 30 of 60 looks along the rows
    assert rays[0, middle] == pytest.approx(0.0195 * 250, rel=0.03)


def test_a_body_seen_whole_is_left_alone() -> None:
    hu = body(WHOLE)
    assert continued(hu) is hu


def test_a_body_that_fills_the_image_is_given_a_size() -> None:
    """No skin to fit: it goes on, but not for ever."""
    larger = continued(np.zeros((SEEN, SEEN), np.float32))
    inside = larger > -500
    assert inside[WHOLE // 2].sum() > SEEN
    assert not inside[0].any()
