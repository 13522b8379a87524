"""The cache and the batches drawn from it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

torch = pytest.importorskip("torch")

from n2q_edge.dataset import cache
from n2q_edge.evaluation.ssim import ssim_map
from n2q_edge.model.recipe import TrainingSettings
from n2q_edge.network.preprocess import Window
from n2q_edge.spec import ModelSpec
from n2q_edge.training.kernel import other_kernel
from n2q_edge.training.sampling import Sampler, _mixtures, _other_contrast

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


def test_crops_have_no_weight_where_the_variance_ends_with_the_crop(
    cached_slices: list[cache.CachedSlice],
) -> None:
    """The SSIM's window reaches 5 pixels. Only the recipes that ask for it give them no weight."""
    settings = dataclasses.replace(SETTINGS, ignore_edge=True)
    weight = Sampler(cached_slices, SPEC, settings).batch(np.random.default_rng(0), CPU).weight
    assert weight[..., 5:-5, 5:-5].min() > 0
    outside = weight.clone()
    outside[..., 5:-5, 5:-5] = 0
    assert outside.sum() == 0
    assert Sampler(cached_slices, SPEC, SETTINGS).batch(np.random.default_rng(0), CPU).weight.min() > 0


def test_another_contrast_changes_slice_and_noise_alike() -> None:
    """1.2 times as far from 40 HU: fat at -100 comes to 40 - 168 = -128, water at 0 to -8."""
    tissue, ten = np.array([[-100.0, 0.0, 40.0]], np.float32), np.full((1, 3), 10.0, np.float32)
    full, noise, std = _other_contrast(tissue, ten, ten, 1.2)
    np.testing.assert_allclose(full, [[-128.0, -8.0, 40.0]], rtol=1e-6)
    np.testing.assert_allclose(noise, 12.0, rtol=1e-6)
    np.testing.assert_allclose(std, 12.0, rtol=1e-6)


def test_contrasts_are_drawn_when_the_recipe_asks(cached_slices: list[cache.CachedSlice]) -> None:
    plain, changed = (
        Sampler(cached_slices[:1], SPEC, dataclasses.replace(SETTINGS, contrast_change=share))
        for share in (0.0, 1.0)
    )
    # A pair turned or not has the same histogram: air at -1000 HU or below tells the contrast, 40 - c * 1040.
    lowest = [
        [float(sampler._pair(np.random.default_rng(seed)).full.min()) for seed in range(20)]
        for sampler in (plain, changed)
    ]
    contrasts = (40.0 - np.array(lowest[1])) / (40.0 - np.array(lowest[0]))
    assert 0.8 <= contrasts.min() < 0.95
    assert 1.05 < contrasts.max() <= 1.2501


def flat_part(images: np.ndarray) -> np.ndarray:
    """The middle of a crop, away from what the filters do at its edges."""
    return images[..., 8:-8, 8:-8]


def test_half_resolution_is_the_mean_of_four_pixels(cached_slices: list[cache.CachedSlice]) -> None:
    settings = dataclasses.replace(SETTINGS, crop=32, reduced=1.0)
    sampler = Sampler(cached_slices[:1], SPEC, settings)
    full = np.arange(96 * 96, dtype=np.float32).reshape(96, 96)
    small, noise, std = sampler._halved(full, full, np.ones((12, 12), np.float32))
    assert small.shape == (48, 48)  # crop and margins: 32 + 16
    assert small[3, 5] == full[6:8, 10:12].mean()
    assert std.shape == (6, 6)
    assert std[0, 0] == pytest.approx(noise.std() / full.std())


def test_a_slice_smaller_than_the_crop_goes_on_by_reflection(cached_slices: list[cache.CachedSlice]) -> None:
    """96 pixels are 48 at half resolution; crop and margins are 64."""
    settings = dataclasses.replace(SETTINGS, crop=48, reduced=1.0)
    batch = Sampler(cached_slices[:1], SPEC, settings).batch(np.random.default_rng(0), CPU)
    assert batch.hu.shape == (4, 1, 48, 48)
    assert batch.log_noise.shape == (4, 1, 6, 6)


def test_another_kernel_changes_high_frequencies_only() -> None:
    """x + k (x - G x): a constant stays, stripes of one pixel are multiplied by 1 + k (1 - G's gain)."""
    line = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    answer = (line / line.sum() * (-1.0) ** np.arange(-3, 4)).sum()  # of a 7-tap Gaussian to +-1
    constant = np.full((32, 32), 40.0, np.float32)
    stripes = np.where(np.arange(32) % 2, 1.0, -1.0).astype(np.float32) * np.ones((32, 1), np.float32)
    full, noise, std = other_kernel(constant, stripes, np.ones((4, 4), np.float32), 1.5)
    factor = 1 + 1.5 * (1 - answer)
    np.testing.assert_allclose(flat_part(full), 40.0, rtol=1e-5)
    np.testing.assert_allclose(flat_part(noise), flat_part(stripes) * factor, rtol=1e-4)
    assert std[0, 0] == pytest.approx(factor, rel=0.05)


def test_a_noisier_twin_keeps_the_dose_between_the_two(cached_slices: list[cache.CachedSlice]) -> None:
    """Of a twin with the dose F, a slice of D F has (1/D - 1) / F times the quantum variance inserted.

    The pair's own difference must show it, on average over F (uniform from 0.4 to 1): mean of 1/F = 1.527.
    """
    settings = dataclasses.replace(SETTINGS, doses="continuous")
    plain, noisier = (
        Sampler(cached_slices[:1], SPEC, dataclasses.replace(settings, noisier_twin=share))
        for share in (0.0, 1.0)
    )
    ratios = []
    for seed in range(60):
        difference = {}
        for name, sampler in (("plain", plain), ("noisier", noisier)):
            pair = sampler._pair(np.random.default_rng(seed))
            difference[name] = ((pair.low - pair.full) ** 2).mean() / (1 / pair.dose - 1)
        ratios.append(difference["noisier"] / difference["plain"])
    assert np.mean(ratios) == pytest.approx(np.log(1 / 0.4) / 0.6, rel=0.25)


def told(**settings: object) -> TrainingSettings:
    return dataclasses.replace(SETTINGS, batch=48, crop=64, reference=1.0, **settings)


def test_the_reference_is_the_twins_noise(cached_slices: list[cache.CachedSlice]) -> None:
    """8 HU in the slice; what is told is measured on the twin, so a twin of a fifth of the dose has more."""
    rng = np.random.default_rng(0)
    plain = Sampler(cached_slices[:1], SPEC, told()).batch(rng, CPU).reference_noise_hu
    known = plain[plain > 0]
    assert len(known) > 24  # crops of mostly air have nothing to measure
    assert known.median().item() == pytest.approx(8.0, rel=0.3)
    settings = told(declared_twin=1.0, least_twin_dose=0.2)
    noisier = Sampler(cached_slices[:1], SPEC, settings).batch(rng, CPU).reference_noise_hu
    # Doses of 0.2 to 1, drawn evenly: noise of 1.3 times the slice's in the median, 2.2 at most.
    assert noisier[noisier > 0].median() > 1.1 * known.median()
    assert noisier.max() > 1.7 * known.median()


def test_a_third_is_told_nothing_and_the_rest_is_wrong_by_the_given_error(
    cached_slices: list[cache.CachedSlice],
) -> None:
    sampler = Sampler(
        cached_slices, SPEC, dataclasses.replace(SETTINGS, reference=2 / 3, reference_error=0.3)
    )
    factors = np.array([sampler._told(np.random.default_rng(seed)) for seed in range(2000)])
    assert np.mean(factors == 0) == pytest.approx(1 / 3, abs=0.04)
    given = factors[factors > 0]
    assert given.max() <= 1.3
    assert given.min() >= 1 / 1.3
    assert np.median(np.abs(np.log(given))) < 0.1


def test_patients_weigh_alike(cached_slices: list[cache.CachedSlice]) -> None:
    """One patient of three slices and one of one: a sixth each, and a half."""
    one = dataclasses.replace(cached_slices[0], patient="a")
    slices = [one, one, one, dataclasses.replace(one, patient="b")]
    weights = Sampler(slices, SPEC, dataclasses.replace(SETTINGS, equal_patients=True)).weights
    assert weights == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_a_noisier_twin_and_its_slice_share_no_noise(cached_slices: list[cache.CachedSlice]) -> None:
    item = cached_slices[0]
    images = torch.from_numpy(item.noise().astype(np.float32))
    found = []
    for seed in range(20):
        (first, _), (second, _) = _mixtures(item, images, np.random.default_rng(seed))
        body = np.s_[24:72, 24:72]
        found.append(np.corrcoef(first[body].ravel(), second[body].ravel())[0, 1])
    assert abs(np.mean(found)) < 0.1
    assert np.abs(found).max() < 0.25
