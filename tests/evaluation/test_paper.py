"""The paper-compatible column against scikit-image, which the authors used."""

import numpy as np
import pytest

pytest.importorskip("torch")

from skimage import metrics, transform

from n2q_edge.evaluation.paper import box_ssim, reference_map, resize, score
from n2q_edge.spec import ModelSpec

SPEC = ModelSpec(name="t", version="t", network={"class": "compact"})


def noisy_ramp(seed: int, size: int) -> np.ndarray:
    """HU from -150 to 250 across the image, with noise of 20 HU."""
    ramp = np.broadcast_to(np.linspace(-150.0, 250.0, size), (size, size))
    return ramp + 20.0 * np.random.default_rng(seed).standard_normal((size, size))


@pytest.mark.parametrize("size", [512, 400, 246])
def test_resize_equals_scikit_image(size: int) -> None:
    image = noisy_ramp(0, size)
    expected = transform.resize(image, (256, 256), order=1, anti_aliasing=size > 256)
    np.testing.assert_allclose(resize(image), expected, atol=1e-9)


def test_the_reference_is_the_valid_map_stretched() -> None:
    """All by scikit-image: window, reduce, SSIM map, cut the 5 pixels a valid window loses, resize."""
    low, full = noisy_ramp(1, 512), noisy_ramp(2, 512)
    pair = [
        transform.resize(np.clip((hu + 110.0) / 300.0, 0, 1), (256, 256), anti_aliasing=True)
        for hu in (low, full)
    ]
    _, ssim = metrics.structural_similarity(
        *pair, data_range=1.0, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    valid = ssim[5:-5, 5:-5]
    assert valid.shape == (246, 246)
    expected = (transform.resize(valid, (256, 256), order=1) - 0.5) / 0.5
    np.testing.assert_allclose(reference_map(low, full, SPEC), expected, atol=1e-9)


def test_scores_equal_scikit_image() -> None:
    rng = np.random.default_rng(3)
    true, predicted = rng.uniform(-1, 1, (2, 256, 256))
    found = score(true, predicted)
    assert found.ssim == pytest.approx(metrics.structural_similarity(true, predicted, data_range=2.0))
    assert found.mse == pytest.approx(metrics.mean_squared_error(true, predicted))
    assert found.nrmse == pytest.approx(metrics.normalized_root_mse(true, predicted))


def test_a_map_against_itself() -> None:
    image = np.random.default_rng(4).uniform(-1, 1, (32, 32))
    assert box_ssim(image, image) == pytest.approx(1.0)
    assert score(image, image).nrmse == 0.0
