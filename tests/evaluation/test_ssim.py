"""The reference map against scikit-image and against arithmetic."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from skimage.metrics import structural_similarity

from n2q_edge.evaluation.ssim import gaussian_blur, ssim_map
from n2q_edge.spec import SsimDefinition

SSIM = SsimDefinition()


def images(height: int = 72, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = np.clip(0.5 + 0.2 * rng.standard_normal((height, width)), 0, 1)
    return np.clip(reference + 0.1 * rng.standard_normal((height, width)), 0, 1), reference


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None, None]


def test_map_equals_scikit_image() -> None:
    image, reference = images()
    _, expected = structural_similarity(
        image, reference, data_range=1.0, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    found = ssim_map(tensor(image), tensor(reference), SSIM)[0, 0].numpy()
    inner = (slice(5, -5),) * 2  # scikit-image pads by repeating the edge pixel, the definition here does not
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-12)


def test_borders_equal_a_map_of_the_reflected_image() -> None:
    """Reflect padding by hand, then the inner part."""
    image, reference = images()
    padded = [np.pad(each, 16, mode="reflect") for each in (image, reference)]
    expected = ssim_map(tensor(padded[0]), tensor(padded[1]), SSIM)[0, 0, 16:-16, 16:-16].numpy()
    found = ssim_map(tensor(image), tensor(reference), SSIM)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_image_against_itself_is_one() -> None:
    image, _ = images()
    assert ssim_map(tensor(image), tensor(image), SSIM).numpy() == pytest.approx(1.0, abs=1e-12)


def test_constant_images_give_the_luminance_term() -> None:
    """Without variance SSIM is (2ab + C1) / (a^2 + b^2 + C1), C1 = 0.01^2."""
    a, b = 0.2, 0.6
    found = ssim_map(torch.full((1, 1, 16, 16), a).double(), torch.full((1, 1, 16, 16), b).double(), SSIM)
    assert found.numpy() == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-7)


def test_blur_of_an_impulse_is_the_normalised_gaussian() -> None:
    impulse = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    impulse[..., 7, 7] = 1.0
    offset = np.arange(-5, 6)
    line = np.exp(-0.5 * (offset / 1.5) ** 2)
    line /= line.sum()
    blurred = gaussian_blur(impulse, 11, 1.5)[0, 0, 2:13, 2:13].numpy()
    np.testing.assert_allclose(blurred, np.outer(line, line), atol=1e-15)
