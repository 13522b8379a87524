"""The ceiling: what could be said of a phantom by someone who knows its anatomy, dose and law of noise.

A phantom is scanned with quantum noise only. With mu the noise-free anatomy, FD = mu + n0 its full-dose
slice, LD = FD + n1 the low-dose one, Cov(n0) = S and Cov(n1) = (1 - D)/D S, both n0 and LD - mu are Gaussian
and

    E[n0 | LD]   = S (S/D)^-1 (LD - mu) = D (LD - mu),
    Cov[n0 | LD] = S - S (S/D)^-1 S     = (1 - D) S,

because Cov(LD - mu) = S + (1 - D)/D S = S/D. So, given LD, the full-dose slice is

    mu + D (LD - mu) + sqrt(1 - D) e,   e a fresh noise image of covariance S,

and the map of least mean squared error is the mean of SSIM(LD, that) over e. Noise images and their negatives
are both used, which removes the sampling error that is linear in e.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from n2q_edge.arrays import FloatArray
from n2q_edge.evaluation import paper
from n2q_edge.evaluation.cases import Case, FullDose, make_cases
from n2q_edge.evaluation.predictions import Answer, Prediction
from n2q_edge.evaluation.ssim import ssim_map
from n2q_edge.files import make_folder
from n2q_edge.network.preprocess import Window
from n2q_edge.simulation.noise import dose_factors, noise_images
from n2q_edge.simulation.patches import solid_tissue
from n2q_edge.simulation.phantom import Z_RANGE_MM, Phantom
from n2q_edge.simulation.series import FIELD_OF_VIEW_MM, KERNEL_CUTOFF, SIZE
from n2q_edge.spec import ModelSpec

DRAWS = 8  # noise images of the oracle; with their negatives 16 draws
PHANTOM_NOISE_HU = (7.0, 10.5, 16.0)  # of the full dose in soft tissue, one phantom each
VERSION = 2


@dataclass(frozen=True)
class PhantomCase(Case):
    """A case whose anatomy is known.

    Attributes:
        anatomy: float32 [H,W], the noise-free slice in HU.
        draws: float32 [K,H,W], images of full-dose noise in HU that neither the slice nor its twin holds.
    """

    anatomy: FloatArray
    draws: FloatArray


@dataclass(frozen=True)
class PhantomSlice:
    """One slice of a synthetic patient.

    Attributes:
        seed: which patient; also of the noise.
        noise_hu: standard deviation of its full-dose noise in soft tissue.
        size: rows and columns.
    """

    seed: int
    noise_hu: float
    size: int = SIZE

    @property
    def key(self) -> str:
        """Its name, which holds all it is made from."""
        return f"phantom-{VERSION}-{self.seed}-{self.noise_hu:g}-{self.size}"

    @property
    def pixel_mm(self) -> float:
        """Pixel spacing."""
        return FIELD_OF_VIEW_MM / self.size

    def cases(self, spec: ModelSpec, folder: Path) -> Iterator[PhantomCase]:
        """The slice at every dose level; its noise images are kept in a folder.

        Raises:
            OutputError: they cannot be written.
        """
        anatomy, noise = self._simulated(folder, len(spec.dose_levels))
        full = FullDose(self.key, f"phantom-{self.seed}", self.pixel_mm, anatomy + noise[0])
        inserted = (
            np.float32(dose_factors(dose)[0]) * noise[1 + level]
            for level, dose in enumerate(spec.dose_levels)
        )
        for case in make_cases(full, inserted, spec):
            yield PhantomCase(**vars(case), anatomy=anatomy, draws=noise[-DRAWS:])

    def _simulated(self, folder: Path, levels: int) -> tuple[FloatArray, FloatArray]:
        """Anatomy [H,W], and independent full-dose noise images [1 + levels + DRAWS,H,W]; HU."""
        path = folder / f"{self.key}-{levels}-{DRAWS}.npz"
        if not path.exists():
            make_folder(folder)
            anatomy, noise = self._simulate(1 + levels + DRAWS)
            part = path.with_suffix(".part.npz")
            np.savez(part, anatomy=anatomy, noise=noise.astype(np.float16))
            part.replace(path)
        with np.load(path) as stored:
            return stored["anatomy"], stored["noise"].astype(np.float32)

    def _simulate(self, images: int) -> tuple[FloatArray, FloatArray]:
        rng = np.random.default_rng((self.seed, 1))
        height = float(rng.uniform(Z_RANGE_MM[0] + 10.0, Z_RANGE_MM[1] - 10.0))
        anatomy = Phantom(self.seed).slice_hu(height, self.size, self.pixel_mm)
        noise, _ = noise_images(anatomy, self.pixel_mm, KERNEL_CUTOFF, rng, quantum=images, electronic=1)
        strength = float(noise[:, solid_tissue(anatomy)].std())
        return anatomy, noise * np.float32(self.noise_hu / strength)


def phantom_slices() -> list[PhantomSlice]:
    """The synthetic patients of the comparison."""
    return [PhantomSlice(seed, noise) for seed, noise in enumerate(PHANTOM_NOISE_HU, start=101)]


def full_dose_given_low(
    low: FloatArray, anatomy: FloatArray, dose: float, draws: FloatArray
) -> Iterator[FloatArray]:
    """Realisations [H,W] of the full-dose slice, given the low-dose slice and fresh noise [K,H,W]; HU."""
    mean = anatomy + np.float32(dose) * (low - anatomy)
    spread = np.float32((1.0 - dose) ** 0.5)
    for draw in draws:
        yield mean + spread * draw
        yield mean - spread * draw


def oracle(case: Case, spec: ModelSpec) -> Answer:
    """The map of least mean squared error, at both sizes. It is told the dose, so it says nothing of it.

    Raises:
        TypeError: the case is not of a phantom.
    """
    if not isinstance(case, PhantomCase):
        raise TypeError("only of a phantom is the anatomy known")
    low = case.scan.hu
    window = Window(spec.window_center, spec.window_width)
    image = window(torch.from_numpy(low)[None, None])
    native = torch.zeros_like(image)
    reduced = np.zeros((paper.SIZE, paper.SIZE))
    for full in full_dose_given_low(low, case.anatomy, case.dose, case.draws):
        native += ssim_map(image, window(torch.from_numpy(full)[None, None]), spec.ssim)
        reduced += (paper.reference_map(low, full, spec) + 1.0) / 2.0
    count = 2 * len(case.draws)
    return Answer(Prediction((native[0, 0] / count).numpy()), (reduced / count).astype(np.float32))
