"""The paper-compatible column: the authors' reference map and the three scores of their table.

Their reference is the 'valid' SSIM map of the windowed, reduced pair, stretched back to the image's size, so
it is misplaced by up to 5 pixels towards the borders. It is kept here only to be comparable in kind with the
published table (Haque, Wang, Imran 2022); `n2q_edge.evaluation.ssim` is the aligned map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.evaluation.ssim import ssim_map
from n2q_edge.network.preprocess import Window
from n2q_edge.spec import ModelSpec

Float64Array = NDArray[np.float64]

SIZE = 256  # rows and columns of the authors' images
SCORE_WINDOW = 7  # of the SSIM between two maps: scikit-image's default
SCORE_RANGE = 2.0  # maps are in [-1, 1]
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class PaperScores:
    """Agreement of a predicted map with the reference map, both in [-1, 1] (negative SSIM lies below -1).

    Attributes:
        ssim: mean SSIM between the maps.
        mse: mean squared error.
        nrmse: ||reference - predicted|| / ||reference||.
    """

    ssim: float
    mse: float
    nrmse: float


def resize(image: NDArray[np.floating], size: int = SIZE) -> Float64Array:
    """Resize [H,W] to [size,size] as `skimage.transform.resize(..., order=1, anti_aliasing=True)` does.

    A Gaussian of sigma (factor - 1) / 2 where the image shrinks, then linear interpolation of pixel areas.
    """
    factors = np.array(image.shape) / size
    exact = np.asarray(image, dtype=np.float64)
    smooth = ndimage.gaussian_filter(exact, np.maximum(0.0, (factors - 1.0) / 2.0), mode="mirror")
    return np.asarray(ndimage.zoom(smooth, 1.0 / factors, order=1, mode="mirror", grid_mode=True))


def reference_map(low: NDArray[np.floating], full: NDArray[np.floating], spec: ModelSpec) -> Float64Array:
    """The authors' reference: HU pair [H,W] to [256,256], in [-1, 1]."""
    window = Window(spec.window_center, spec.window_width)
    image, reference = (
        torch.from_numpy(resize(window(torch.from_numpy(hu.astype(np.float64))).numpy()))[None, None]
        for hu in (low, full)
    )
    lost = spec.ssim.window // 2
    valid = ssim_map(image, reference, spec.ssim)[0, 0, lost:-lost, lost:-lost].numpy()
    return 2.0 * resize(valid) - 1.0


def score(reference: Float64Array, predicted: Float64Array) -> PaperScores:
    """Scores of a predicted map [256,256] against the reference map, both in [-1, 1]."""
    error = reference - predicted
    return PaperScores(
        ssim=box_ssim(reference, predicted),
        mse=float(np.mean(error**2)),
        nrmse=float(np.linalg.norm(error) / np.linalg.norm(reference)),
    )


def box_ssim(first: Float64Array, second: Float64Array) -> float:
    """Mean SSIM of two images in [-1, 1]: `skimage.metrics.structural_similarity(..., data_range=2)`.

    A uniform 7x7 window, sample covariance, and the mean over the pixels whose window lies in the image.
    """
    margin = SCORE_WINDOW // 2
    inner = (slice(margin, -margin),) * 2
    mean_x, mean_y, square_x, square_y, product = (
        ndimage.uniform_filter(moment, SCORE_WINDOW)[inner]
        for moment in (first, second, first * first, second * second, first * second)
    )
    sample = SCORE_WINDOW**2 / (SCORE_WINDOW**2 - 1)
    variance_x = sample * (square_x - mean_x * mean_x)
    variance_y = sample * (square_y - mean_y * mean_y)
    covariance = sample * (product - mean_x * mean_y)
    c1, c2 = (K1 * SCORE_RANGE) ** 2, (K2 * SCORE_RANGE) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)))
