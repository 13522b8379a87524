"""Random training pairs from the cache: a low-dose crop and what a perfect network would say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from n2q_edge.arrays import FloatArray
from n2q_edge.dataset.cache import STD_BLOCK, CachedSlice
from n2q_edge.evaluation.ssim import gaussian_blur, ssim_map
from n2q_edge.model.recipe import TrainingSettings
from n2q_edge.network.noise_level import NoiseLevel, noise_hu
from n2q_edge.network.preprocess import Window
from n2q_edge.simulation.noise import dose_factors
from n2q_edge.spec import ModelSpec
from n2q_edge.training.kernel import other_kernel, whitening

MARGIN = 8  # pixels around a crop: 5 so that its SSIM map is that of the whole slice, 3 for another kernel
LOWEST_DOSE = 0.03
LOWEST_WHITE_DOSE = 0.1  # of sharp kernels, whose noise would drown everything below
AIR_HU = -950.0
MIN_BODY_SHARE = 0.3
CROP_TRIES = 6
KERNEL_CHANGE = (-0.8, 1.5)  # k of another kernel: high frequencies times 0.2 to 2.5
WHITE = (0.05, 0.2)  # neighbor correlation of the noise of sharp kernels
LOWEST_TOTAL_DOSE = 0.02  # of a low-dose slice whose twin has less dose itself, in doses of the slice
MEASURED = 0.5  # `Noise.amount` from which a twin's noise counts as measured
LEAST_OWN_DOSE = 0.4  # of a twin that is noisier than its scanner's
CONTRAST_CHANGE = (0.8, 1.25)
SOFT_TISSUE_HU = 40.0


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
        reference_noise_hu: what the network is told of the twin's noise [N], HU; 0 where it is told nothing.
    """

    hu: Tensor
    quality: Tensor
    weight: Tensor
    log_dose: Tensor
    level: Tensor
    log_noise: Tensor
    reference_noise_hu: Tensor


@dataclass(frozen=True)
class _Pair:
    """A slice and its low-dose version, with their margin, the dose, the noise level on the 8-pixel grid, and
    the factor by which the reference is told wrong (0: it is not told)."""

    full: FloatArray
    low: FloatArray
    dose: float
    noise_std: FloatArray
    told: float


class Sampler:
    """Draws batches without end.

    Patients weigh with the square root of their slices, or all alike, so that one long series does not drown
    the others.

    Changes make more scanners of those in the data; each is a linear operation on slice and noise
    alike, so that the pair stays a true pair:

    - `reduced`: half the resolution, as another field of view or the authors' resizing has it;
    - `kernel_change`: another reconstruction kernel. Kernels of one scan differ by a linear filter; here
      x + k (x - Gaussian(x)), smoother for k < 0 and sharper for k > 0;
    - `whiter`: a kernel as sharp as makes neighboring pixels' noise nearly independent;
    - `noisier_twin`, `declared_twin`: a full-dose twin that has itself less dose than its scanner gave;
    - `contrast_change`: HU further from those of soft tissue or closer to them, and noise with them, as other
      tube voltages and patient sizes have it.

    The reference noise is measured on the twin as the network measures the slice, after all changes: nothing
    needs to be corrected for them.
    """

    def __init__(self, slices: Sequence[CachedSlice], spec: ModelSpec, settings: TrainingSettings) -> None:
        self.slices = list(slices)
        self.spec = spec
        self.settings = settings
        counts = Counter(item.patient for item in self.slices)
        power = -1.0 if settings.equal_patients else -0.5
        weights = np.array([counts[item.patient] ** power for item in self.slices])
        self.weights = weights / weights.sum()
        self.window = Window(spec.window_center, spec.window_width)
        self.noise_level = NoiseLevel()

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
        cells = slice(MARGIN // STD_BLOCK, -(MARGIN // STD_BLOCK)) if self.settings.crop else slice(None)
        return Batch(
            hu=low[..., inner, inner],
            quality=quality[..., inner, inner],
            weight=self._off_the_edge(weight[..., inner, inner]),
            log_dose=dose.log(),
            level=(dose[:, None].log() - levels.log()).abs().argmin(dim=1),
            log_noise=_stack([pair.noise_std for pair in pairs], device)[..., cells, cells].log(),
            reference_noise_hu=self._reference(full[..., inner, inner], [pair.told for pair in pairs]),
        )

    def _reference(self, full: Tensor, told: Sequence[float]) -> Tensor:
        """What a network is told of twins [N,1,H,W], [N] in HU."""
        factor = torch.tensor(told, dtype=torch.float32, device=full.device)
        if not factor.any():
            return factor
        measured, amount = noise_hu(self.noise_level.to(full.device), full)
        return measured * factor * (amount > MEASURED)

    def _off_the_edge(self, weight: Tensor) -> Tensor:
        """No weight where a crop does not show a network what the SSIM depends on."""
        if not self.settings.crop or not self.settings.ignore_edge:
            return weight
        reach = self.spec.ssim.window // 2
        return F.pad(weight[..., reach:-reach, reach:-reach], (reach,) * 4)

    def _pair(self, rng: np.random.Generator) -> _Pair:
        item = self.slices[rng.choice(len(self.slices), p=self.weights)]
        reduce = rng.random() < self.settings.reduced
        place = self._place(item, 2 if reduce else 1, rng)
        told, whiter = self._told(rng), bool(rng.random() < self.settings.whiter)
        lowest = LOWEST_WHITE_DOSE if whiter else LOWEST_DOSE
        full, noise, std, dose = self._draw(item, place, rng, declared=told > 0, lowest=lowest)
        if reduce:
            full, noise, std = self._halved(full, noise, std)
        if rng.random() < self.settings.kernel_change:
            full, noise, std = other_kernel(full, noise, std, float(rng.uniform(*KERNEL_CHANGE)))
        if whiter:
            full, noise, std = other_kernel(full, noise, std, whitening(noise, float(rng.uniform(*WHITE))))
        if rng.random() < self.settings.contrast_change:
            contrast = float(np.exp(rng.uniform(*np.log(CONTRAST_CHANGE))))
            full, noise, std = _other_contrast(full, noise, std, contrast)
        full = full + np.float32(rng.uniform(-1.0, 1.0) * self.settings.hu_offset)
        turn = (slice(None, None, rng.choice((1, -1))), slice(None, None, rng.choice((1, -1))))
        images = (image[turn] for image in (full, full + noise, std))
        if rng.random() < 0.5:
            images = (image.T for image in images)
        full, low, std = images
        return _Pair(full, low, dose, std, told)

    def _told(self, rng: np.random.Generator) -> float:
        """0 for an unknown reference, else the factor it is wrong by: most are nearly right."""
        if not self.settings.reference or rng.random() >= self.settings.reference:
            return 0.0
        error = rng.uniform(-1.0, 1.0) * rng.uniform(0.0, 1.0)
        return float((1.0 + self.settings.reference_error) ** error)

    def _draw(
        self,
        item: CachedSlice,
        place: tuple[slice, slice],
        rng: np.random.Generator,
        *,
        declared: bool,
        lowest: float,
    ) -> tuple[FloatArray, FloatArray, FloatArray, float]:
        """Full-dose pixels, fresh noise of some dose, the noise level on the 8-pixel grid, the dose."""
        rows, columns = place
        full = torch.from_numpy(item.hu()[rows, columns].astype(np.float32))
        # PyTorch turns half into single precision several times faster than numpy does.
        images = torch.from_numpy(item.noise()[:, rows, columns].copy()).float()
        mixtures = _mixtures(item, images, rng)
        own = 1.0  # dose of the twin, in doses of the slice
        share = self.settings.declared_twin if declared else self.settings.noisier_twin
        # A measured pair has one noise image: a noisier twin would share it.
        if item.quantum_images > 1 and rng.random() < share:
            own = float(rng.uniform(self.settings.least_twin_dose if declared else LEAST_OWN_DOSE, 1.0))
            full = full + _mixed(mixtures[1], *dose_factors(own))
        dose = self._dose(rng, max(lowest, LOWEST_TOTAL_DOSE / own))
        # Variances of the doses own and own * dose differ by these: 1/D - 1 and 1/D^2 - 1 are additive.
        quantum, electronic = dose_factors(dose)
        noise = _mixed(mixtures[0], quantum / own**0.5, electronic / own)
        std = self._noise_std(item, place, *dose_factors(own * dose))
        return full.numpy(), noise.numpy(), std, dose

    def _place(self, item: CachedSlice, scale: int, rng: np.random.Generator) -> tuple[slice, slice]:
        """A crop with its margin, on the 8-pixel grid, with some body in it; or the whole slice."""
        hu = item.hu()
        if not self.settings.crop:
            return slice(0, hu.shape[0]), slice(0, hu.shape[1])
        sides = [min(scale * (self.settings.crop + 2 * MARGIN), side) for side in hu.shape]
        place = (slice(0, 0), slice(0, 0))
        for _ in range(CROP_TRIES):
            corner = (
                STD_BLOCK * int(rng.integers(0, (whole - side) // STD_BLOCK + 1))
                for whole, side in zip(hu.shape, sides, strict=True)
            )
            row, column = corner
            place = (slice(row, row + sides[0]), slice(column, column + sides[1]))
            if (hu[place][::8, ::8] > AIR_HU).mean() >= MIN_BODY_SHARE:
                break
        return place

    def _halved(self, full: FloatArray, noise: FloatArray, std: FloatArray) -> tuple[FloatArray, ...]:
        """Means of 2x2; a slice smaller than the crop goes on by reflection, as in the SSIM."""
        small_full, small_noise = _means_of_four(full), _means_of_four(noise)
        level = _means_of_four(std) * (small_noise.std() / max(float(noise.std()), 1e-6))
        beyond = (self.settings.crop + 2 * MARGIN - small_full.shape[0]) // 2
        if beyond <= 0:
            return small_full, small_noise, level
        small_full, small_noise = (
            np.pad(image, beyond, mode="reflect") for image in (small_full, small_noise)
        )
        return small_full, small_noise, np.pad(level, beyond // STD_BLOCK, mode="edge")

    def _dose(self, rng: np.random.Generator, lowest: float) -> float:
        """A dose in doses of the twin."""
        if self.settings.doses == "levels":
            return float(rng.choice(self.spec.dose_levels))
        return float(np.exp(rng.uniform(np.log(lowest), 0.0)))

    def _noise_std(
        self, item: CachedSlice, place: tuple[slice, slice], quantum: float, electronic: float
    ) -> FloatArray:
        """Standard deviation of the slice's own and the inserted noise on the crop's 8-pixel grid, HU."""
        grid = tuple(slice(axis.start // STD_BLOCK, axis.stop // STD_BLOCK) for axis in place)
        own, circuit = (np.asarray(std)[grid].astype(np.float32) for std in item.noise_std())
        variance = own**2 * (1.0 + quantum**2) + circuit**2 * electronic**2
        return np.sqrt(np.maximum(variance, 1.0)).astype(np.float32)


def _mixtures(item: CachedSlice, images: Tensor, rng: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
    """Two uncorrelated realisations (one of a measured pair) of a slice's quantum and electronic noise.

    A random unit combination of noise images of one covariance has that covariance, and combinations at right
    angles are independent; see `simulation.noise.inserted_noise`.
    """
    kinds = images[: item.quantum_images], images[item.quantum_images :]
    mixed = [torch.tensordot(_directions(rng, len(kind)), kind, dims=1) for kind in kinds]
    count = min(len(kind) for kind in mixed if len(kind))
    empty = images.new_zeros(())
    return [(mixed[0][index], mixed[1][index] if len(mixed[1]) else empty) for index in range(count)]


def _directions(rng: np.random.Generator, count: int) -> Tensor:
    """Orthonormal rows: two, or as many as there are dimensions."""
    rows = np.linalg.qr(rng.standard_normal((count, min(2, count))))[0].T
    signs = rng.choice((-1.0, 1.0), size=(len(rows), 1))
    return torch.from_numpy((rows * signs).astype(np.float32))


def _mixed(mixture: tuple[Tensor, Tensor], quantum: float, electronic: float) -> Tensor:
    return quantum * mixture[0] + electronic * mixture[1]


def _means_of_four(image: FloatArray) -> FloatArray:
    """Means of 2x2 samples, [H,W] to [H/2,W/2]."""
    rows = image[::2] + image[1::2]
    return np.asarray((rows[:, ::2] + rows[:, 1::2]) / 4, dtype=np.float32)


def _other_contrast(
    full: FloatArray, noise: FloatArray, std: FloatArray, contrast: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """HU `contrast` times as far from soft tissue's, and noise and noise level with them."""
    tissue, factor = np.float32(SOFT_TISSUE_HU), np.float32(contrast)
    return tissue + factor * (full - tissue), factor * noise, factor * std


def _stack(images: list[FloatArray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(images)[:, None])).to(device)
