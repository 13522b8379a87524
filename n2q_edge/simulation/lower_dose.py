"""`n2q-edge simulate`: a real CT series as it would look at a lower dose, as DICOM."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from n2q_edge.errors import NothingAssessedError, UsageError
from n2q_edge.files import is_new_or_empty, make_folder

if TYPE_CHECKING:
    from pydicom import Dataset

    from n2q_edge.arrays import FloatArray
    from n2q_edge.dicom import LoadedSlice, Series

OnSlice = Callable[[int], None]
RHO_PAIRS = 7  # of neighbors, from which a series' correlation along z is measured


@dataclass
class LowerDose:
    """What became of the slices of a run.

    Attributes:
        files: the low-dose slices written.
        left_out: input and why it has no low-dose version.
    """

    files: list[Path] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def simulate_lower_dose(
    paths: Sequence[Path],
    out: Path,
    *,
    dose_percent: float,
    seed: int = 0,
    on_slice: OnSlice | None = None,
) -> LowerDose:
    """Write the low-dose version of every CT slice under `paths`, one folder a series.

    The noise is inserted in the projection domain, calibrated on each slice's own noise (see
    `simulation.noise`); neighboring slices share as much of it as the series' own noise does (see
    `simulation.along_z`). It is the same for the same series and seed.

    Args:
        paths: DICOM files and folders.
        out: folder to write to; new or empty.
        dose_percent: percent of the dose of the input, above 0 and below 100.
        seed: of the noise.
        on_slice: called with the number of slices done.

    Raises:
        UsageError: the dose is out of range, or `out` has files in it.
        NothingAssessedError: no slice could be simulated.
        OutputError: a file could not be written.
    """
    from n2q_edge.dicom import Rejected, iter_slices, scan

    if not 0 < dose_percent < 100:
        raise UsageError(f"--dose {dose_percent:g}: give percent of the input's dose, above 0 and below 100")
    if not is_new_or_empty(out):
        raise UsageError(f"{out} is not a new or empty folder: choose another, nothing is overwritten")
    inventory = scan(paths)
    result = LowerDose()
    result.left_out += [(str(item.path), item.reason.value) for item in inventory.rejected]
    for number, series in enumerate(inventory.series, start=1):
        noise = _SeriesNoise(series, dose_percent / 100, seed)
        folder = out / f"series{number:03d}"
        for loaded in iter_slices(series):
            if isinstance(loaded, Rejected):
                result.left_out.append((str(loaded.path), loaded.reason.value))
            else:
                _simulate(loaded, noise, series, folder, dose_percent, seed, result)
            if on_slice:
                on_slice(len(result.files) + len(result.left_out))
    if not result.files:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in result.left_out[:3])
        raise NothingAssessedError(f"no slice could be simulated ({reasons or 'no CT slice found'})")
    return result


def _simulate(
    loaded: LoadedSlice,
    noise: _SeriesNoise,
    series: Series,
    folder: Path,
    dose_percent: float,
    seed: int,
    result: LowerDose,
) -> None:
    from n2q_edge.dicom_out.ct_image import write_dataset
    from n2q_edge.simulation.patches import NoiseCalibrationError

    try:
        source = _header(loaded)
        hu = noise.add_to(loaded)
    except (NoiseCalibrationError, ValueError) as error:
        result.left_out.append((str(loaded.ref.path), str(error)))
        return
    path = folder / f"{len(result.files) + 1:05d}.dcm"
    make_folder(folder)
    try:
        write_dataset(path, _dataset(source, hu, series, dose_percent, seed))
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        # Attributes of the source that DICOM does not allow, and pydicom does not write.
        reason = " ".join(str(error).split())[:200]
        result.left_out.append((str(loaded.ref.path), f"its attributes cannot be written again: {reason}"))
        return
    result.files.append(path)


class _SeriesNoise:
    """The noise to insert into the slices of a series, which come in their order along z."""

    def __init__(self, series: Series, dose: float, seed: int) -> None:
        from n2q_edge.simulation.along_z import AlongZ

        self._dose = dose
        self._seed = seed
        self._step = _close_step(series)
        self._along_z = AlongZ(_rho(series, self._step))
        self._last_mm: float | None = None

    def add_to(self, loaded: LoadedSlice) -> FloatArray:
        """The slice [H,W] in HU at the lower dose.

        Raises:
            ValueError: its pixels are not square or their size is unknown.
            NoiseCalibrationError: too little soft tissue.
        """
        from n2q_edge.simulation.noise import drawn_noise, noise_basis

        spacing = loaded.pixel_spacing_mm
        if spacing is None:
            raise ValueError("no PixelSpacing: the noise cannot be scaled")
        if not np.isclose(spacing[0], spacing[1]):
            raise ValueError(f"pixels of {spacing[0]:g} x {spacing[1]:g} mm are not square")
        identity = int(hashlib.sha256(loaded.ref.sop_instance_uid.encode()).hexdigest()[:16], 16)
        here, before = loaded.ref.position_mm, self._last_mm
        self._last_mm = here
        draw = self._along_z.slice(
            np.random.default_rng((self._seed, identity)), neighbor=_adjacent(before, here, self._step)
        )
        return loaded.hu + drawn_noise(noise_basis(loaded.hu, spacing[0], draw), self._dose)


def _close_step(series: Series) -> float | None:
    """The distance between close neighbors, mm; None if they have no positions. A fifth may be closer."""
    positions = np.array([ref.position_mm for ref in series.slices if ref.position_mm is not None])
    steps = np.diff(positions)
    return float(np.percentile(steps[steps > 0], 20)) if (steps > 0).any() else None


def _adjacent(before: float | None, here: float | None, step: float | None) -> bool:
    """Whether two positions are one step apart, neither a gap nor the same place again."""
    if before is None or here is None or step is None:
        return False
    return 0.5 < (here - before) / step < 1.5


def _rho(series: Series, step: float | None) -> float:
    """Correlation of the noise of neighbors, measured on some of them."""
    from n2q_edge.dicom import LoadedSlice, SliceReader
    from n2q_edge.simulation.along_z import DEFAULT_RHO, measured_rho

    neighbors = [
        pair for pair in pairwise(series.slices) if _adjacent(pair[0].position_mm, pair[1].position_mm, step)
    ]
    spacing = series.slices[0].pixel_spacing_mm
    if not neighbors or spacing is None:
        return DEFAULT_RHO
    chosen = np.linspace(0, len(neighbors) - 1, min(RHO_PAIRS, len(neighbors))).round().astype(int)
    pairs = []
    with SliceReader() as reader:
        for index in chosen:
            first, second = (reader.load(ref) for ref in neighbors[index])
            if isinstance(first, LoadedSlice) and isinstance(second, LoadedSlice):
                pairs.append((first.hu, second.hu))
    return measured_rho(pairs, spacing[0])


def _header(loaded: LoadedSlice) -> Dataset:
    """The attributes the copy keeps: those of a single-frame file."""
    import pydicom

    if loaded.ref.frame is not None:
        raise ValueError("a frame of a multi-frame image: only single-frame CT images can be copied")
    if not Path(loaded.ref.path).is_file():
        raise ValueError("inside an archive: unpack it first")
    header: Dataset = pydicom.dcmread(loaded.ref.path, stop_before_pixels=True, force=True)
    return header


def _dataset(source: Dataset, hu: FloatArray, series: Series, dose_percent: float, seed: int) -> Dataset:
    from n2q_edge.dicom_out.ct_image import derived_copy, stable_uid

    made = ("lower dose", series.series_instance_uid, f"{dose_percent:g}", seed)
    copy = derived_copy(
        source,
        hu,
        series_instance_uid=stable_uid(*made),
        sop_instance_uid=stable_uid(*made, source.SOPInstanceUID),
        description=f"Noise inserted in the projection domain by n2q-edge: {dose_percent:g} % of the dose",
    )
    copy.SeriesDescription = f"{source.get('SeriesDescription', '')} {dose_percent:g} % dose".strip()[:64]
    copy.SeriesNumber = int(source.get("SeriesNumber") or 0) + 9000
    return copy
