"""The noise cache: each training slice with its noise images, on disk.

Simulating noise costs about a second a slice, and training draws each slice hundreds of times: so a few
noise images of each slice are stored once, and training mixes fresh realisations from them (see
`simulation.noise`). A measured pair has one noise image, its own; a random unit combination of one image is
that image or its negative.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.simulation.noise import NoiseBasis, dose_factors, noise_basis, normals

QUANTUM_IMAGES = 6
ELECTRONIC_IMAGES = 2
STD_BLOCK = 8  # pixels a side: the grid of the noise-map target
VERSION = 2  # of the way noise is made: entries of another are not used
NOT_STORED = ("folder", "key", "thickness_mm")  # of a `CachedSlice`


@dataclass(frozen=True)
class CachedSlice:
    """One slice in the cache. Arrays are memory-mapped when they are asked for.

    Attributes:
        folder: where its files are.
        key: hash of its identity and of how its noise was made.
        patient: patient ID, hashed: only equality matters.
        split: `train`, `test` or another name from an index.
        pixel_mm: pixel spacing, mm.
        electronic_quanta: Ne; 0 where the noise was measured.
        noise_hu: model-free noise of the full-dose slice (`quality.scores.global_noise_level`); None if it
            cannot be measured.
        quantum_images: how many of its noise images are quantum noise.
        thickness_mm: slice thickness of the header, None if unknown; not stored in the cache.
    """

    folder: Path
    key: str
    patient: str
    split: str
    pixel_mm: float
    electronic_quanta: float
    noise_hu: float | None
    quantum_images: int
    thickness_mm: float | None = None

    def hu(self) -> NDArray[np.int16]:
        """The full-dose slice, int16 [H,W], HU."""
        return self._array("hu")

    def noise(self) -> NDArray[np.float16]:
        """Noise images, float16 [Q+E,H,W], HU, quantum first."""
        return self._array("noise")

    def noise_std(self) -> NDArray[np.float32]:
        """Local standard deviation of the quantum and the electronic noise, float32 [2,H/8,W/8], HU."""
        return self._array("std")

    def basis(self) -> NoiseBasis:
        """The noise images as `simulation.noise` takes them."""
        images = np.asarray(self.noise(), dtype=np.float32)
        quantum, electronic = images[: self.quantum_images], images[self.quantum_images :]
        return NoiseBasis(quantum, electronic, self.electronic_quanta)

    def _array(self, name: str) -> NDArray[Any]:
        return _mapped(self.folder / f"{self.key}.{name}.npy")


@dataclass(frozen=True)
class SourceSlice:
    """A decoded slice on its way into the cache: float32 [H,W] HU and what identifies it."""

    identity: str
    patient: str
    split: str
    pixel_mm: float
    hu: NDArray[np.float32]


@lru_cache(maxsize=4096)
def _mapped(path: Path) -> NDArray[Any]:
    """A file of the cache, mapped once: training opens each thousands of times."""
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def slice_key(identity: str) -> str:
    """Name of a slice's files in the cache."""
    recipe = f"{VERSION}/{QUANTUM_IMAGES}/{ELECTRONIC_IMAGES}/{identity}"
    return hashlib.sha256(recipe.encode()).hexdigest()[:20]


def load(folder: Path, key: str) -> CachedSlice | None:
    """The cached slice, or None when it is not there."""
    description = folder / f"{key}.json"
    if not description.exists():
        return None
    return CachedSlice(folder=folder, key=key, **json.loads(description.read_text()))


def store(folder: Path, source: SourceSlice) -> CachedSlice:
    """Simulate a slice's noise and store it.

    Raises:
        NoiseCalibrationError: too little soft tissue to measure the slice's noise.
        ValueError: the slice is not square.
    """
    key = slice_key(source.identity)
    draw = normals(np.random.default_rng(int(key, 16)))
    basis = noise_basis(
        source.hu, source.pixel_mm, draw, quantum=QUANTUM_IMAGES, electronic=ELECTRONIC_IMAGES
    )
    return _write(folder, key, source, basis)


def store_pair(folder: Path, source: SourceSlice, low: NDArray[np.float32], dose: float) -> CachedSlice:
    """Store a slice with its measured low-dose twin.

    The noise between them is scaled in the image domain, as Haque et al. 2022 do:

        LD(D) = FD + sqrt((1/D - 1) / (1/D0 - 1)) * (QD - FD)

    The stored image is that of `dose_factors` 1, D = 1/2.

    Args:
        folder: the cache.
        source: the full-dose slice.
        low: float32 [H,W], HU, the same slice at the low dose.
        dose: its dose D0 as a fraction of the full dose.
    """
    factor, _ = dose_factors(dose)
    quantum = (low - source.hu)[None] / np.float32(factor)
    basis = NoiseBasis(quantum, quantum[:0], electronic_quanta=0.0)
    return _write(folder, slice_key(source.identity), source, basis)


def _write(folder: Path, key: str, source: SourceSlice, basis: NoiseBasis) -> CachedSlice:
    """Write an entry. The description comes last, so an entry is whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{key}.hu.npy", np.rint(source.hu).astype(np.int16))
    np.save(folder / f"{key}.noise.npy", np.concatenate([basis.quantum, basis.electronic]).astype(np.float16))
    np.save(folder / f"{key}.std.npy", np.stack([_local_std(basis.quantum), _local_std(basis.electronic)]))
    cached = CachedSlice(
        folder,
        key,
        source.patient,
        source.split,
        source.pixel_mm,
        basis.electronic_quanta,
        _noise_hu(source),
        len(basis.quantum),
    )
    description = {name: value for name, value in asdict(cached).items() if name not in NOT_STORED}
    partial = folder / f"{key}.json.part"
    partial.write_text(json.dumps(description))
    partial.replace(folder / f"{key}.json")
    return cached


def _noise_hu(source: SourceSlice) -> float | None:
    spacing = (source.pixel_mm, source.pixel_mm)
    return global_noise_level(source.hu, body_mask(source.hu, spacing), spacing)


def _local_std(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of noise images around each 8x8 block, [H/8,W/8], smoothed over its neighbours."""
    count, height, width = images.shape
    if not count:
        return np.zeros((height // STD_BLOCK, width // STD_BLOCK), dtype=np.float32)
    blocks = images.reshape(-1, height // STD_BLOCK, STD_BLOCK, width // STD_BLOCK, STD_BLOCK)
    return np.asarray(
        np.sqrt(ndimage.gaussian_filter((blocks**2).mean(axis=(0, 2, 4)), 1.5)), dtype=np.float32
    )
