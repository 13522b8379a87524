"""What the model is fed: a slice of a series, or a made-up one. Its content does not change the time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.errors import UsageError
from n2q_edge.spec import HU_MAX, HU_MIN

SIDE = 512
NOISE_HU = 20.0


def made_up_slice(height: int = SIDE, width: int = SIDE) -> FloatArray:
    """An elliptic body of 40 HU with noise, in air: float32 [1,1,H,W], always the same."""
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    body = (x / 0.85) ** 2 + (y / 0.65) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, NOISE_HU, (height, width))
    hu = np.where(body, 40.0, -1000.0) + noise
    return np.clip(hu, HU_MIN, HU_MAX).astype(np.float32)[None, None]


def middle_slice(series: Path) -> FloatArray:
    """The slice in the middle of a series: float32 [1,1,H,W], clipped to the range a model takes.

    Raises:
        UsageError: `series` holds no CT slice, or the middle one cannot be read.
    """
    from n2q_edge.dicom import LoadedSlice, SliceReader, scan

    slices = [ref for found in scan([series]).series for ref in found.slices]
    if not slices:
        raise UsageError(f"{series} holds no CT series: name a folder of CT slices with --series")
    with SliceReader() as reader:
        loaded = reader.load(slices[len(slices) // 2])
    if not isinstance(loaded, LoadedSlice):
        raise UsageError(f"{loaded.path} cannot be read ({loaded.detail}): name another series")
    return np.clip(loaded.hu, HU_MIN, HU_MAX).astype(np.float32)[None, None]


def padded(hu: FloatArray, multiple: int, batch: int = 1) -> FloatArray:
    """`hu` [1,1,H,W] repeated `batch` times, filled up with air to multiples of `multiple`."""
    height, width = hu.shape[2:]
    margins = ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple))
    return np.repeat(np.pad(hu, margins, constant_values=HU_MIN), batch, axis=0)
