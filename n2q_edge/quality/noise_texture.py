"""How coarse the noise of a slice is: the mean frequency of its noise power spectrum.

The noise power spectrum (NPS) of the flattest tiles of fat and soft tissue, averaged over rings of equal
spatial frequency; its mean frequency is the integral of f * NPS(f) over that of NPS(f), up to the Nyquist
frequency (f_av of AAPM TG-233). On noise of known spectra it reads 0 to 8 % high: 24 pixels resolve no
lower frequencies. Clinical images of smooth kernels (B20f to B31f, STANDARD) have 0.1 to 0.2 per mm, sharp
ones (B60f, BONE) 0.28 to 0.46.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE = 24  # pixels a side: wide enough for the low frequencies, narrow enough for a liver
STRIDE = 8  # pixels from tile to tile
BLOCK = 4  # pixels a side of the means that say what a tile is made of
FLAT_HU = (-150.0, 150.0)  # fat and soft tissue
FLAT_SHARE = 0.25  # of the tiles, the flattest: edges and vessels are in the others
MOST_TILES = 96
FEWEST_TILES = 12
MIN_NOISE_HU = 0.1


def mean_frequency(
    hu: NDArray[np.float32], mask: NDArray[np.bool_], pixel_spacing_mm: tuple[float, float] | None
) -> float | None:
    """Mean frequency of the noise power spectrum, 1/mm.

    Args:
        hu: [H,W], Hounsfield units.
        mask: body mask [H,W].
        pixel_spacing_mm: row and column spacing.

    Returns:
        None with too few flat tiles, without noise, without a spacing, or where pixels are not square.
    """
    if pixel_spacing_mm is None or abs(pixel_spacing_mm[0] / pixel_spacing_mm[1] - 1) > 0.01:
        return None
    tiles = _flat_tiles(hu, mask)
    if len(tiles) < FEWEST_TILES:
        return None
    tiles = tiles - (tiles @ _plane()) @ _plane().T
    power = np.einsum("np,np->n", tiles, tiles)
    kept = max(FEWEST_TILES, int(FLAT_SHARE * len(tiles)))
    flattest = np.argpartition(power, kept - 1)[:kept]
    if power[flattest].mean() < (MIN_NOISE_HU * TILE) ** 2:
        return None
    # Every tile counts alike: a tile of strong noise, or with a vessel, does not decide the texture.
    share = tiles[flattest] / np.sqrt(np.maximum(power[flattest], 1e-6))[:, None]
    nps, frequency = _ring_means(np.abs(np.fft.fft2(share.reshape(-1, TILE, TILE))) ** 2)
    nps /= _detrended_white()
    nps[-1] /= 2  # the trapezoidal rule from 0, where reconstructed noise has no power, to Nyquist
    return float((frequency * nps).sum() / nps.sum() / pixel_spacing_mm[0])


def _ring_means(spectrum: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean power and mean frequency (cycles per pixel) of the rings of width 1/TILE, up to Nyquist.

    Args:
        spectrum: [N, TILE, TILE].
    """
    line = np.fft.fftfreq(TILE)
    radius = np.hypot(line[:, None], line[None, :]).ravel()
    rings = np.rint(radius * TILE).astype(np.intp)
    counts = np.bincount(rings)
    power = np.bincount(rings, spectrum.mean(axis=0).ravel()) / counts
    frequency = np.bincount(rings, radius) / counts
    return power[1 : TILE // 2 + 1], frequency[1 : TILE // 2 + 1]


@lru_cache(maxsize=1)
def _detrended_white() -> NDArray[np.float64]:
    """What taking out a plane leaves of white noise in every ring, relative to all of it."""
    kept = np.eye(TILE * TILE) - _plane().astype(np.float64) @ _plane().astype(np.float64).T
    spectra = np.fft.fft2(kept.reshape(-1, TILE, TILE)) / TILE
    return _ring_means((np.abs(spectra) ** 2).sum(axis=0, keepdims=True))[0]


def _flat_tiles(hu: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Up to `MOST_TILES` tiles [N, TILE * TILE] in the body, without gas or bone in them."""
    rows, columns = hu.shape[0] // BLOCK, hu.shape[1] // BLOCK
    whole = np.s_[: rows * BLOCK, : columns * BLOCK]
    means = hu[whole].reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3))
    flat = (means >= FLAT_HU[0]) & (means < FLAT_HU[1]) & mask[whole][1::BLOCK, 1::BLOCK]
    if min(flat.shape) < TILE // BLOCK:
        return np.empty((0, TILE * TILE), dtype=np.float32)
    every = STRIDE // BLOCK
    row, column = np.nonzero(_windows(flat, TILE // BLOCK)[::every, ::every].all(axis=(2, 3)))
    step = -(-row.size // MOST_TILES) or 1
    tiles = _windows(hu, TILE)[row[::step] * STRIDE, column[::step] * STRIDE]
    return tiles.reshape(-1, TILE * TILE).astype(np.float32)


def _windows(image: NDArray[Any], side: int) -> NDArray[Any]:
    """All squares [H-side+1, W-side+1, side, side] of an image, without a copy."""
    return np.lib.stride_tricks.sliding_window_view(image, (side, side))


@lru_cache(maxsize=1)
def _plane() -> NDArray[np.float32]:
    """Orthonormal basis [TILE * TILE, 3] of the planes over a tile."""
    ramp = np.arange(TILE) - (TILE - 1) / 2
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    basis = np.stack([np.ones((TILE, TILE)), rows, columns], axis=-1).reshape(-1, 3)
    return np.asarray(basis / np.linalg.norm(basis, axis=0), dtype=np.float32)
