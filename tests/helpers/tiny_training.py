"""A cache of two small synthetic slices, and a recipe that is trained in no time."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from n2q_edge.dataset import cache
from n2q_edge.simulation.noise import noise_images

SIZE = 96
torch.set_num_threads(1)  # the networks here are tiny: two threads only wait for each other


def cylinder(seed: int, size: int = SIZE, pixel_mm: float = 3.2) -> np.ndarray:
    """A noisy water-like cylinder with one insert, float32 HU."""
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * pixel_mm
    hu = np.where(np.hypot(x, y) < 130.0, 40.0, -1000.0).astype(np.float32)
    hu[np.hypot(x - 40.0, y) < 30.0] = 90.0
    noise, _ = noise_images(hu, pixel_mm, 0.8, np.random.default_rng(seed), views=120)
    return hu + noise[0] * np.float32(8.0 / noise[0][np.hypot(x, y) < 60].std())


@pytest.fixture(scope="session")
def cached_slices(tmp_path_factory: pytest.TempPathFactory) -> list[cache.CachedSlice]:
    folder = tmp_path_factory.mktemp("cache")
    return [
        cache.store(folder, cache.SourceSlice(f"slice-{n}", f"patient-{n}", split, 3.2, cylinder(n)))
        for n, split in enumerate(("train", "test"))
    ]


@pytest.fixture(scope="session")
def tiny_recipe() -> str:
    """The TOML of a network named `tiny`, version 7, that trains for four steps."""
    return """
[model]
name = "tiny"
version = "7"
outputs = ["quality_map", "dose_probabilities", "noise_map"]
[network]
class = "compact"
widths = [8, 8, 8]
blocks = [0, 0, 0]
[training]
steps = 4
batch = 2
crop = 64
doses = "continuous"
noise_weight = 0.1
ema = 0.9
"""
