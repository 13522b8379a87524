"""The reference quality map: SSIM of a low-dose slice against its full-dose twin (Wang et al. 2004).

Aligned with the image: reflect padding, Gaussian window, population covariance, as scikit-image computes it
with `gaussian_weights=True, use_sample_covariance=False` and as torchmetrics does.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from n2q_edge.spec import SsimDefinition


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
    moments = torch.cat([image, reference, image * image, reference * reference, image * reference])
    mean_x, mean_y, square_x, square_y, product = gaussian_blur(moments, ssim.window, ssim.sigma).chunk(5)
    variance_x = square_x - mean_x * mean_x
    variance_y = square_y - mean_y * mean_y
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)


def gaussian_blur(image: Tensor, window: int, sigma: float) -> Tensor:
    """Separable Gaussian of `window` taps with reflect padding, [N,1,H,W] to [N,1,H,W].

    Two products with banded matrices: on one channel they beat convolutions several times over.
    """
    rows, columns = (
        _blur_matrix(size, window, sigma).to(image.device, image.dtype) for size in image.shape[-2:]
    )
    return rows @ image @ columns.T


@lru_cache(maxsize=16)
def _blur_matrix(size: int, window: int, sigma: float) -> Tensor:
    """The blur of a line of `size` samples as a matrix [size, size], float64."""
    half = window // 2
    offset = torch.arange(-half, half + 1)
    weights = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    weights = weights / weights.sum()
    source = (torch.arange(size)[:, None] + offset).abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    return matrix.scatter_add_(1, source, weights.expand(size, window).contiguous())
