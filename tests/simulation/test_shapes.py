"""Shapes against the areas and volumes of geometry, texture against the correlation it promises."""

from __future__ import annotations

import numpy as np
import pytest

from n2q_edge.simulation.shapes import Ellipsoid, Plane, Tissue, Tubes, Warp, blended_cut, grow_tree
from n2q_edge.simulation.texture import PITCH_MM, Texture

PIXEL_MM = 0.8
GRID = ((np.arange(200) - 99.5) * PIXEL_MM).astype(np.float32)


class _Straight(Warp):
    """No warp: shapes keep their exact size."""

    def __init__(self) -> None:
        super().__init__(np.random.default_rng(0))
        self._amplitude = 0.0


def _plane(z: float = 0.0) -> Plane:
    return Plane(GRID[None, :], GRID[:, None], z, PIXEL_MM, _Straight(), Tissue(0, 0))


def _area_mm2(shape: Ellipsoid | Tubes, z: float = 0.0) -> float:
    plane = _plane(z)
    cut = shape.cut(plane)
    return 0.0 if cut is None else float(plane.coverage(cut.distance).sum()) * PIXEL_MM**2


@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_an_ellipse_has_the_area_pi_a_b(angle: float) -> None:
    assert _area_mm2(Ellipsoid((3.3, -7.1, 0), (40, 25, 30), angle)) == pytest.approx(
        np.pi * 40 * 25, rel=0.005
    )


def test_a_sphere_has_its_volume_over_the_slices() -> None:
    areas = [_area_mm2(Ellipsoid((0, 0, 0), (12, 12, 12)), z) for z in np.arange(-13, 13.01, 0.5)]
    assert sum(areas) * 0.5 == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.01)


def test_a_tube_along_z_is_a_disc_and_across_is_a_stadium() -> None:
    assert _area_mm2(Tubes.along([(0, 0, -50), (0, 0, 50)], 10.0)) == pytest.approx(np.pi * 100, rel=0.005)
    across = Tubes.along([(-20, 5, 0), (20, 5, 0)], 6.0)
    assert _area_mm2(across) == pytest.approx(np.pi * 36 + 40 * 12, rel=0.005)


def test_a_plane_that_misses_a_shape_is_not_painted() -> None:
    assert Ellipsoid((0, 0, 60), (10, 10, 10)).cut(_plane()) is None
    assert Tubes.along([(0, 0, 40), (0, 0, 50)], 5.0).cut(_plane()) is None


def test_edges_are_shared_between_pixels() -> None:
    plane = _plane()
    cut = Ellipsoid((0, 0, 0), (30, 30, 30)).cut(plane)
    assert cut is not None
    plane.paint(plane.coverage(cut.distance), Tissue(100, 8), cut.box)
    assert plane.hu[100, 100] == 100
    assert plane.texture[100, 100] == 8
    assert plane.hu[0, 0] == 0
    edge = plane.hu[100, 132:142]
    assert np.all(np.diff(edge) <= 0)
    assert np.any((edge > 0) & (edge < 100))


def test_a_blend_holds_both_shapes() -> None:
    plane = _plane()
    left, right = Ellipsoid((-20, 0, 0), (25, 20, 20)), Ellipsoid((20, 0, 0), (25, 20, 20))
    both = blended_cut((left, right), plane, 10.0)
    assert both is not None
    whole = np.full((200, 200), 1e3, np.float32)
    whole[both.box] = both.distance
    for shape in (left, right):
        cut = shape.cut(plane)
        assert cut is not None
        assert np.all(whole[cut.box] <= cut.distance + 1e-4)


def test_a_vessel_tree_reaches_every_target_and_thickens_by_murrays_law() -> None:
    targets = np.random.default_rng(1).uniform(-30, 30, (64, 3))
    tree = grow_tree((0, 0, 50), targets, 0.5)
    assert tree.starts[0] == pytest.approx((0, 0, 50))
    assert tree.radii[0, 1] == pytest.approx(0.5 * 64 ** (1 / 3))  # = 2 mm
    ends = {tuple(end) for end in tree.ends}
    assert all(tuple(target) in ends for target in targets)
    assert tree.radii.min() == pytest.approx(0.5)


def test_texture_has_unit_variance_and_a_gaussian_correlation() -> None:
    correlation_mm = 3.0
    texture = Texture(correlation_mm, np.random.default_rng(0))
    grid = (np.arange(512) * PITCH_MM).astype(np.float32)  # the lattice itself: nothing is interpolated
    here = texture.at(grid[None, :], grid[:, None], 10.0)
    # (384 / 3)^2 = 16384 correlation areas: the standard deviation is known to about 1 / 128.
    assert here.std() == pytest.approx(1.0, abs=0.03)
    expected = np.exp(-(3.0**2) / (2 * correlation_mm**2))
    beside = np.roll(here, int(3.0 / PITCH_MM), axis=1)
    above = texture.at(grid[None, :], grid[:, None], 13.0)
    assert np.mean(here * beside) == pytest.approx(expected, abs=0.03)
    assert np.mean(here * above) == pytest.approx(expected, abs=0.03)
