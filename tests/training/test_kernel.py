"""Other kernels of a slice and its noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("torch")

from n2q_edge.training.kernel import LARGEST_GAIN, other_kernel, whitening


def noise(smooth: float) -> np.ndarray:
    pattern = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((160, 160)), smooth)
    return (10.0 * pattern / pattern.std()).astype(np.float32)


def correlation(image: np.ndarray) -> float:
    inner = image[8:-8, 8:-8]
    return float(np.corrcoef(inner[:, 1:].ravel(), inner[:, :-1].ravel())[0, 1])


@pytest.mark.parametrize("wanted", [0.15, 0.2])
def test_noise_becomes_as_white_as_wanted(wanted: float) -> None:
    before = noise(0.55)  # neighbors correlate by 0.36
    std = np.full((20, 20), 10.0, np.float32)
    _, after, level = other_kernel(before, before, std, whitening(before, wanted))
    assert correlation(before) > 0.3
    assert correlation(after) == pytest.approx(wanted, abs=0.05)
    assert level[0, 0] == pytest.approx(after.std(), rel=0.02)


def test_noise_that_is_white_stays_as_it_is() -> None:
    assert whitening(noise(0.0), 0.2) == 0.0


def test_very_smooth_noise_is_not_drowned() -> None:
    smooth = noise(1.6)
    _, after, _ = other_kernel(smooth, smooth, np.ones((20, 20), np.float32), whitening(smooth, 0.05))
    assert after.std() / smooth.std() < 1.2 * LARGEST_GAIN
