"""The projector against line integrals and images known in closed form."""

import numpy as np
import pytest

pytest.importorskip("numba")

from n2q_edge.simulation.projector import Geometry, filtered_back_projection, forward_project

SIZE, PIXEL_MM = 192, 1.5
GRID = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) * PIXEL_MM
SUPERSAMPLED = (np.mgrid[: 4 * SIZE, : 4 * SIZE] - (4 * SIZE - 1) / 2) * PIXEL_MM / 4


def disc(radius_mm: float, x_mm: float = 0.0, y_mm: float = 0.0) -> np.ndarray:
    """A disc of value 1 with anti-aliased edges."""
    y, x = SUPERSAMPLED
    inside = ((x - x_mm) ** 2 + (y - y_mm) ** 2 < radius_mm**2).astype(np.float32)
    return inside.reshape(SIZE, 4, SIZE, 4).mean(axis=(1, 3))


def test_line_integrals_of_a_disc_are_its_chords() -> None:
    geometry = Geometry.for_image(SIZE, PIXEL_MM, views=90)
    rays = forward_project(0.02 * disc(80.0), geometry)
    t = geometry.ray_positions_mm
    inner = np.abs(t) < 75.0
    chords = 0.02 * 2.0 * np.sqrt(80.0**2 - t[inner] ** 2)
    np.testing.assert_allclose(rays[:, inner], np.broadcast_to(chords, (90, inner.sum())), rtol=0.02)


def test_an_off_centre_disc_lands_where_the_conventions_say() -> None:
    geometry = Geometry.for_image(SIZE, PIXEL_MM, views=8)
    x_mm, y_mm = 40.0, -25.0
    rays = forward_project(disc(15.0, x_mm, y_mm), geometry)
    centroid = (rays * geometry.ray_positions_mm).sum(axis=1) / rays.sum(axis=1)
    expected = x_mm * np.cos(geometry.angles) + y_mm * np.sin(geometry.angles)
    np.testing.assert_allclose(centroid, expected, atol=0.1 * PIXEL_MM)


def test_back_projection_inverts_projection() -> None:
    geometry = Geometry.for_image(SIZE, PIXEL_MM, views=360)
    image = 0.02 * disc(90.0) + 0.01 * disc(20.0, 30.0, 10.0)
    restored = filtered_back_projection(forward_project(image, geometry)[None], geometry)[0]
    y, x = GRID
    flat = (x * x + y * y < 80.0**2) & ((x - 30) ** 2 + (y - 10) ** 2 > 28.0**2)
    lesion = (x - 30) ** 2 + (y - 10) ** 2 < 12.0**2
    assert restored[flat].mean() == pytest.approx(0.02, rel=1e-3)
    assert restored[lesion].mean() == pytest.approx(0.03, rel=1e-3)
    assert restored[flat].std() < 0.01 * 0.02


def test_images_of_one_call_do_not_mix() -> None:
    geometry = Geometry.for_image(64, 2.0, views=60)
    sinograms = np.random.default_rng(0).standard_normal((3, 60, geometry.detectors)).astype(np.float32)
    together = filtered_back_projection(sinograms, geometry, 0.8)
    alone = [filtered_back_projection(sinogram[None], geometry, 0.8)[0] for sinogram in sinograms]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_noise_of_filtered_back_projection_follows_theory() -> None:
    """White noise of variance s2 per ray gives variance s2 * (pi/V)**2 * V * sum|h|^2 * (interpolation).

    With h the filter kernel; linear interpolation at a uniformly random position keeps the share
    E[(1-w)^2 + w^2] = 2/3 of white noise and adds 2 E[w (1-w)] = 1/3 of the lag-one product.
    """
    from n2q_edge.simulation.projector import _ramp_response

    geometry = Geometry.for_image(128, 1.0, views=180)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, 180, geometry.detectors)).astype(np.float32)
    images = filtered_back_projection(noise, geometry, 0.6)
    response = _ramp_response(geometry.detectors, 1.0, 0.6)
    kernel = np.fft.irfft(response)
    power = (kernel**2).sum() * 2 / 3 + (kernel * np.roll(kernel, 1)).sum() / 3
    expected = (np.pi / 180) ** 2 * 180 * power
    assert images[:, 20:-20, 20:-20].var() == pytest.approx(expected, rel=0.05)
