"""Random training pairs from the cache: a low-dose crop and what a perfect network would say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from n2q_edge.network.preprocess import Window
from n2q_edge.simulation.noise import dose_factors
from n2q_edge.spec import ModelSpec
from n2q_edge.training.cache import STD_BLOCK, CachedSlice
from n2q_edge.training.recipe import TrainingSettings
from n2q_edge.training.ssim import gaussian_blur, ssim_map

MARGIN = 8  # pixels of context around a crop, so that its SSIM map is that of the whole slice
LOWEST_DOSE = 0.03
AIR_HU = -950.0
MIN_BODY_SHARE = 0.3
CROP_TRIES = 6


@dataclass(frozen=True)
class Batch:
    """What one optimiser step sees.

    Attributes:
        hu: low-dose HU [N,1,H,W].
        quality: reference SSIM map [N,1,H,W].
        weight: weight of each pixel in the map loss [N,1,H,W].
        log_dose: log of the dose fraction [N].
        level: index of the nearest dose level [N].
        log_noise: log of the noise standard deviation in HU [N,1,H/8,W/8].
    """

    hu: Tensor
    quality: Tensor
    weight: Tensor
    log_dose: Tensor
    level: Tensor
    log_noise: Tensor


@dataclass(frozen=True)
class _Pair:
    full: NDArray[np.float32]
    low: NDArray[np.float32]
    dose: float
    noise_std: NDArray[np.float32]


class Sampler:
    """Draws batches without end.

    Patients weigh with the square root of their slices, so that one long series does not drown the others.
    """

    def __init__(self, slices: Sequence[CachedSlice], spec: ModelSpec, settings: TrainingSettings) -> None:
        self.slices = list(slices)
        self.spec = spec
        self.settings = settings
        counts = Counter(item.patient for item in self.slices)
        weights = np.array([counts[item.patient] ** -0.5 for item in self.slices])
        self.weights = weights / weights.sum()
        self.window = Window(spec.window_center, spec.window_width)

    def batch(self, rng: np.random.Generator, device: torch.device) -> Batch:
        """Draw a batch; the same generator state gives the same batch."""
        pairs = [self._pair(rng) for _ in range(self.settings.batch)]
        dose = torch.tensor([pair.dose for pair in pairs], dtype=torch.float32, device=device)
        full = _stack([pair.full for pair in pairs], device)
        low = _stack([pair.low for pair in pairs], device)
        quality = ssim_map(self.window(low), self.window(full), self.spec.ssim)
        air = gaussian_blur(full, 11, 2.5) < AIR_HU
        weight = torch.where(air, self.settings.air_weight, 1.0)
        levels = torch.tensor(self.spec.dose_levels, device=device)
        inner = slice(MARGIN, -MARGIN) if self.settings.crop else slice(None)
        return Batch(
            hu=low[..., inner, inner],
            quality=quality[..., inner, inner],
            weight=weight[..., inner, inner],
            log_dose=dose.log(),
            level=(dose[:, None].log() - levels.log()).abs().argmin(dim=1),
            log_noise=_stack([pair.noise_std for pair in pairs], device).log(),
        )

    def _pair(self, rng: np.random.Generator) -> _Pair:
        item = self.slices[rng.choice(len(self.slices), p=self.weights)]
        rows, columns = self._place(item, rng)
        dose = self._dose(rng)
        quantum_factor, electronic_factor = dose_factors(dose)
        weights = np.concatenate(
            [
                quantum_factor * _unit(rng, item.quantum_images),
                electronic_factor * _unit(rng, item.noise().shape[0] - item.quantum_images),
            ]
        ).astype(np.float32)
        full = item.hu()[rows, columns].astype(np.float32)
        # PyTorch turns half into single precision several times faster than numpy does.
        images = torch.from_numpy(item.noise()[:, rows, columns].copy()).float()
        noise = torch.tensordot(torch.from_numpy(weights), images, dims=1).numpy()
        std = self._noise_std(item, rows, columns, quantum_factor, electronic_factor)
        full = full + rng.uniform(-1.0, 1.0) * self.settings.hu_offset
        flip = (slice(None, None, rng.choice((1, -1))), slice(None, None, rng.choice((1, -1))))
        return _Pair(full[flip], (full + noise)[flip], dose, std[flip])

    def _place(self, item: CachedSlice, rng: np.random.Generator) -> tuple[slice, slice]:
        """A crop with its margin, on the 8-pixel grid, with some body in it; or the whole slice."""
        hu = item.hu()
        crop = self.settings.crop
        if not crop:
            return slice(0, hu.shape[0]), slice(0, hu.shape[1])
        place = (slice(0, 0), slice(0, 0))
        for _ in range(CROP_TRIES):
            row, column = (
                STD_BLOCK * int(rng.integers(1, (side - crop) // STD_BLOCK)) - MARGIN for side in hu.shape
            )
            place = (slice(row, row + crop + 2 * MARGIN), slice(column, column + crop + 2 * MARGIN))
            if (hu[place][::8, ::8] > AIR_HU).mean() >= MIN_BODY_SHARE:
                break
        return place

    def _dose(self, rng: np.random.Generator) -> float:
        if self.settings.doses == "levels":
            return float(rng.choice(self.spec.dose_levels))
        return float(np.exp(rng.uniform(np.log(LOWEST_DOSE), 0.0)))

    def _noise_std(
        self, item: CachedSlice, rows: slice, columns: slice, quantum: float, electronic: float
    ) -> NDArray[np.float32]:
        """Standard deviation of the slice's own and the inserted noise on the crop's 8-pixel grid, HU."""
        margin = MARGIN if self.settings.crop else 0
        grid = tuple(
            slice((place.start + margin) // STD_BLOCK, (place.stop - margin) // STD_BLOCK)
            for place in (rows, columns)
        )
        own, circuit = (np.asarray(std)[grid].astype(np.float32) for std in item.noise_std())
        variance = own**2 * (1.0 + quantum**2) + circuit**2 * electronic**2
        return np.sqrt(np.maximum(variance, 1.0)).astype(np.float32)


def _unit(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    weights = rng.standard_normal(count)
    return np.asarray(weights / np.linalg.norm(weights))


def _stack(images: list[NDArray[np.float32]], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(images)[:, None])).to(device)
