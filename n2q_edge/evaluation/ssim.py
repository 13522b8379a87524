"""The reference quality map: SSIM of a low-dose slice against its full-dose twin (Wang et al. 2004).

Aligned with the image: reflect padding, Gaussian window, population covariance, as scikit-image computes it
with `gaussian_weights=True, use_sample_covariance=False` and as torchmetrics does.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from n2q_edge.spec import SsimDefinition

STRIP = 32  # samples blurred by one matrix


def ssim_map(image: Tensor, reference: Tensor, ssim: SsimDefinition) -> Tensor:
    """SSIM per pixel.

    Args:
        image: [N,1,H,W], windowed to [0, ssim.data_range]; float64 to evaluate, float32 to train.
        reference: same shape and type.
        ssim: window and constants.

    Returns:
        [N,1,H,W] in [-1, 1].
    """
    c1, c2 = ((k * ssim.data_range) ** 2 for k in (ssim.k1, ssim.k2))
    # The two variances are only ever added: four blurs do.
    moments = torch.cat([image, reference, image * image + reference * reference, image * reference])
    mean_x, mean_y, squares, product = gaussian_blur(moments, ssim.window, ssim.sigma).chunk(4)
    means, mean_squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    luminance = (2 * means + c1) / (mean_squares + c1)
    return luminance * (2 * (product - means) + c2) / (squares - mean_squares + c2)


def gaussian_blur(image: Tensor, window: int, sigma: float) -> Tensor:
    """Separable Gaussian of `window` taps with reflect padding, [N,1,H,W] to [N,1,H,W].

    Products with small banded matrices, strip by strip: on one channel they beat convolutions several times.
    """
    half, (height, width) = window // 2, image.shape[-2:]
    matrix = _strip_matrix(window, sigma).to(image.device, image.dtype)
    padded = F.pad(image, (half, half, half, half), mode="reflect")
    down = [_taps(matrix, rows).T @ padded[..., rows, :] for rows in _strips(height, half)]
    blurred = torch.cat(down, dim=-2)
    across = [blurred[..., columns] @ _taps(matrix, columns) for columns in _strips(width, half)]
    return torch.cat(across, dim=-1)


def _strips(size: int, half: int) -> list[slice]:
    """The strips of an axis with their margins, in the padded image."""
    return [slice(start, min(start + STRIP, size) + 2 * half) for start in range(0, size, STRIP)]


def _taps(matrix: Tensor, strip: slice) -> Tensor:
    """The part of the strip matrix that a strip, perhaps shorter, needs."""
    length = strip.stop - strip.start
    return matrix[:length, : length - (matrix.shape[0] - matrix.shape[1])]


@lru_cache(maxsize=16)
def _strip_matrix(window: int, sigma: float) -> Tensor:
    """From `STRIP` samples and their margins to the blurred strip: [STRIP + window - 1, STRIP], float64."""
    offset = torch.arange(window) - window // 2
    weights = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    weights = weights / weights.sum()
    matrix = torch.zeros(STRIP + window - 1, STRIP, dtype=torch.float64)
    for tap in range(window):
        matrix.diagonal(-tap).copy_(weights[tap].expand(STRIP))
    return matrix
