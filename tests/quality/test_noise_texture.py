"""Expected values: integrals of the spectra that the noise was made with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from n2q_edge.quality.noise_texture import mean_frequency

PIXEL_MM = 0.7
SIDE = 512
Y, X = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
BODY = np.hypot(X, Y) < 200

SPECTRA: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ramp": lambda f: f,  # filtered back-projection without apodisation
    "medium": lambda f: f * np.exp(-2 * (f / 0.3) ** 2),
    "smooth": lambda f: f * np.exp(-2 * (f / 0.2) ** 2),
}


def slice_with_noise(power: Callable[[np.ndarray], np.ndarray], sigma: float = 12.0) -> np.ndarray:
    """A cylinder of soft tissue with noise of a power spectrum over frequency (cycles per pixel)."""
    line = np.fft.fftfreq(SIDE)
    white = np.fft.fft2(np.random.default_rng(1).standard_normal((SIDE, SIDE)))
    noise = np.fft.ifft2(white * np.sqrt(power(np.hypot(line[:, None], line[None])))).real
    return np.where(BODY, 50 + noise * sigma / noise.std(), -1000).astype(np.float32)


@pytest.mark.parametrize("name", SPECTRA)
def test_mean_frequency_of_a_known_spectrum(name: str) -> None:
    frequency = np.linspace(0, 0.5, 5001)
    power = SPECTRA[name](frequency)
    expected = (frequency * power).sum() / power.sum() / PIXEL_MM
    measured = mean_frequency(slice_with_noise(SPECTRA[name]), BODY, (PIXEL_MM, PIXEL_MM))
    assert measured == pytest.approx(expected, rel=0.1)


def test_it_is_a_length_not_a_pixel_count() -> None:
    hu = slice_with_noise(SPECTRA["medium"])
    fine, coarse = (mean_frequency(hu, BODY, (mm, mm)) for mm in (0.5, 1.0))
    assert fine is not None
    assert coarse is not None
    assert fine == pytest.approx(2 * coarse)


def test_it_does_not_depend_on_the_strength_of_the_noise() -> None:
    weak, strong = (
        mean_frequency(slice_with_noise(SPECTRA["medium"], sigma), BODY, (PIXEL_MM, PIXEL_MM))
        for sigma in (5.0, 20.0)
    )
    assert weak == pytest.approx(strong, rel=0.02)


@pytest.mark.parametrize(
    ("hu", "mask", "spacing"),
    [
        (np.full((64, 64), 40.0, np.float32), np.zeros((64, 64), bool), (0.7, 0.7)),  # no body
        (np.full((512, 512), 40.0, np.float32), BODY, (0.7, 0.7)),  # no noise
        (slice_with_noise(SPECTRA["ramp"]), BODY, None),
        (slice_with_noise(SPECTRA["ramp"]), BODY, (0.7, 1.4)),
        (np.full((512, 512), -800.0, np.float32), BODY, (0.7, 0.7)),  # lung only
        (np.full((8, 8), 40.0, np.float32), np.ones((8, 8), bool), (0.7, 0.7)),
    ],
)
def test_nothing_is_invented(hu: np.ndarray, mask: np.ndarray, spacing: tuple[float, float] | None) -> None:
    assert mean_frequency(hu, mask, spacing) is None
