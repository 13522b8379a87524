"""Another reconstruction kernel for a slice and its noise: a linear filter, as kernels of one scan differ.

x + k (x - Gaussian(x)) is smoother for k < 0 and sharper for k > 0.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from n2q_edge.arrays import FloatArray
from n2q_edge.evaluation.ssim import gaussian_blur

WINDOW, SIGMA = 7, 1.0  # pixels
STRENGTHS = np.linspace(0.0, 8.0, 65)  # k that `whitening` chooses among
LARGEST_GAIN = 4.0  # of the noise; D45f has two to three times that of B30f


def other_kernel(
    full: FloatArray, noise: FloatArray, std: FloatArray, strength: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Slice, noise and noise level under another kernel. The outer 3 pixels are not meant.

    Args:
        full: [H,W], HU.
        noise: [H,W], HU.
        std: noise level on a grid of its own, HU; scaled as the noise is.
        strength: k.
    """
    images = torch.from_numpy(np.stack([full, noise]))[:, None]
    changed = (images + strength * (images - gaussian_blur(images, WINDOW, SIGMA)))[:, 0].numpy()
    return changed[0], changed[1], std * (changed[1].std() / max(float(noise.std()), 1e-6))


def whitening(noise: FloatArray, correlation: float) -> float:
    """The k that brings the correlation of neighboring pixels of a noise image [H,W] down to a value.

    0 where it is lower already; where it would take more than `LARGEST_GAIN`, what that gain reaches.
    """
    detail = noise - gaussian_blur(torch.from_numpy(noise)[None, None], WINDOW, SIGMA)[0, 0].numpy()
    images = (noise[8:-8, 8:-8], detail[8:-8, 8:-8])
    # Both are quadratic in k: of noise + k detail with itself, and with its neighbor.
    power = _quadratic([[float(np.mean(a * b)) for b in images] for a in images])
    neighbors = _quadratic([[float(np.mean(a[:, 1:] * b[:, :-1])) for b in images] for a in images])
    enough = (neighbors <= correlation * power) | (power > LARGEST_GAIN**2 * power[0])
    return float(STRENGTHS[int(enough.argmax())] if enough.any() else STRENGTHS[-1])


def _quadratic(products: list[list[float]]) -> NDArray[np.float64]:
    (first, mixed), (other, last) = products
    return first + STRENGTHS * (mixed + other) + STRENGTHS**2 * last
