"""The cache and the batches drawn from it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

torch = pytest.importorskip("torch")

from n2q_edge.network.preprocess import Window
from n2q_edge.spec import ModelSpec
from n2q_edge.training import cache
from n2q_edge.training.recipe import TrainingSettings
from n2q_edge.training.sampling import Sampler
from n2q_edge.training.ssim import ssim_map

SPEC = ModelSpec(name="t", version="t", network={"class": "compact"})
SETTINGS = TrainingSettings(steps=1, batch=4, crop=32, doses="continuous")
CPU = torch.device("cpu")


def test_cache_gives_back_what_was_stored(cached_slices: list[cache.CachedSlice]) -> None:
    stored = cached_slices[0]
    again = cache.load(stored.folder, stored.key)
    assert again == stored
    assert stored.noise().shape == (cache.QUANTUM_IMAGES + cache.ELECTRONIC_IMAGES, 96, 96)
    assert stored.hu().shape == (96, 96)


def test_an_interrupted_entry_does_not_count(tmp_path: Path) -> None:
    """The description is written last: arrays alone are no entry."""
    key = cache.slice_key("x")
    np.save(tmp_path / f"{key}.hu.npy", np.zeros((8, 8), np.int16))
    assert cache.load(tmp_path, key) is None


def test_a_crop_sees_the_map_of_the_whole_slice(cached_slices: list[cache.CachedSlice]) -> None:
    """Cut out of its context a crop's SSIM would differ at its borders; its margin prevents that."""
    sampler = Sampler(cached_slices[:1], SPEC, SETTINGS)
    pair = sampler._pair(np.random.default_rng(5))
    window = Window(40.0, 300.0)
    low, full = (window(torch.from_numpy(image.copy())[None, None]) for image in (pair.low, pair.full))
    # The margin is 8 pixels and the SSIM window reaches 5: widening the margin changes nothing inside.
    inside = ssim_map(low, full, SPEC.ssim)[..., 8:-8, 8:-8]
    narrower = ssim_map(low[..., 2:-2, 2:-2], full[..., 2:-2, 2:-2], SPEC.ssim)[..., 6:-6, 6:-6]
    assert torch.allclose(inside, narrower, atol=1e-4)


def test_batches_are_reproducible_and_differ(cached_slices: list[cache.CachedSlice]) -> None:
    sampler = Sampler(cached_slices, SPEC, SETTINGS)
    first, same, other = (sampler.batch(np.random.default_rng(seed), CPU) for seed in (1, 1, 2))
    assert torch.equal(first.hu, same.hu)
    assert not torch.equal(first.hu, other.hu)
    assert first.hu.shape == first.quality.shape == (4, 1, 32, 32)
    assert first.log_noise.shape == (4, 1, 4, 4)


def test_noise_target_is_the_noise_of_the_crop(cached_slices: list[cache.CachedSlice]) -> None:
    """Quantum noise of the slice's own scan (8 HU) and of the insertion add in variance: 8 / sqrt(D)."""
    settings = dataclasses.replace(SETTINGS, batch=64)
    batch = Sampler(cached_slices[:1], SPEC, settings).batch(np.random.default_rng(0), CPU)
    expected = 8.0 / batch.log_dose.exp().sqrt()
    found = batch.log_noise.exp().mean(dim=(1, 2, 3))
    # Calibrated on the flattest tissue and averaged over a cylinder: it holds to some tens of percent.
    assert torch.median(found / expected).item() == pytest.approx(1.0, abs=0.35)
    assert np.corrcoef(found, expected)[0, 1] > 0.95


def test_lower_dose_means_lower_quality(cached_slices: list[cache.CachedSlice]) -> None:
    settings = dataclasses.replace(SETTINGS, batch=64, crop=0)
    batch = Sampler(cached_slices[:1], SPEC, settings).batch(np.random.default_rng(0), CPU)
    assert spearmanr(batch.log_dose, batch.quality.mean(dim=(1, 2, 3))).statistic > 0.98


def test_levels_are_drawn_from_the_spec(cached_slices: list[cache.CachedSlice]) -> None:
    settings = dataclasses.replace(SETTINGS, batch=32, doses="levels")
    batch = Sampler(cached_slices, SPEC, settings).batch(np.random.default_rng(0), CPU)
    drawn = batch.log_dose.exp().numpy()
    np.testing.assert_allclose(drawn, np.array(SPEC.dose_levels)[batch.level], rtol=1e-5)
