"""From DICOM folders to cached training slices, split by patient."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pydicom

from n2q_edge.dicom import Rejected, SliceReader, SliceRef, scan
from n2q_edge.errors import UsageError
from n2q_edge.simulation.noise import NoiseCalibrationError
from n2q_edge.training import cache
from n2q_edge.training.cache import CachedSlice, SourceSlice

INDEX = "index.csv"  # columns `path`, `patient`, `split`: an explicit split that comes with the data
HELD_OUT_SHARE = 0.2
TRAIN, TEST = "train", "test"

OnSlice = Callable[[int, int, str | None], None]


def collect(data: Sequence[Path], folder: Path, on_slice: OnSlice | None = None) -> list[CachedSlice]:
    """Find every CT slice under `data` and see that the cache holds it.

    A folder with an `index.csv` names its own splits; elsewhere a fifth of the patients is held out for
    testing, chosen by a hash of the patient ID, so that the choice never changes. Never by slice.

    Args:
        data: DICOM files or folders.
        folder: the noise cache.
        on_slice: called with slices done, slices in all, and why the slice is left out (None if it is not).

    Raises:
        UsageError: a path does not exist, no slice was usable, or one patient is in two splits.
    """
    named = _named_splits(data)
    series = scan(data).series
    total = sum(len(one.slices) for one in series)
    slices: list[CachedSlice] = []
    done = 0
    for one in series:
        with SliceReader() as reader:
            for ref in one.slices:
                done += 1
                cached, reason = _cached(ref, reader, named, folder)
                if cached:
                    slices.append(cached)
                if on_slice:
                    on_slice(done, total, reason)
    _check_split(slices)
    return slices


def kernels(data: Sequence[Path]) -> dict[str, str]:
    """Reconstruction kernel of every slice whose header names one, by the slice's key in the cache."""
    return {
        cache.slice_key(_identity(ref)): str(one.protocol["kernel"])
        for one in scan(data).series
        if one.protocol.get("kernel")
        for ref in one.slices
    }


def _identity(ref: SliceRef) -> str:
    return ref.sop_instance_uid if ref.frame is None else f"{ref.sop_instance_uid}#{ref.frame}"


def _cached(
    ref: SliceRef, reader: SliceReader, named: dict[Path, tuple[str, str]], folder: Path
) -> tuple[CachedSlice | None, str | None]:
    """The slice from the cache, made only if it is not there; or None and why it is left out."""
    identity = _identity(ref)
    found = cache.load(folder, cache.slice_key(identity))
    if found:
        return found, None
    loaded = reader.load(ref)
    if isinstance(loaded, Rejected):
        return None, f"{loaded.path}: {loaded.reason.value}"
    rows, columns = loaded.hu.shape
    if rows != columns or rows % cache.STD_BLOCK:
        return None, f"{ref.path}: {rows}x{columns} is not a square multiple of {cache.STD_BLOCK}"
    if loaded.pixel_spacing_mm is None:
        return None, f"{ref.path}: no PixelSpacing"
    patient, split = named.get(Path(ref.path).resolve()) or _hashed_split(Path(ref.path))
    source = SourceSlice(identity, patient, split, loaded.pixel_spacing_mm[0], loaded.hu)
    try:
        return cache.store(folder, source), None
    except NoiseCalibrationError as error:
        return None, f"{ref.path}: {error}"


def _named_splits(data: Sequence[Path]) -> dict[Path, tuple[str, str]]:
    """Patient and split of each file that an `index.csv` names."""
    named: dict[Path, tuple[str, str]] = {}
    for folder in data:
        index = folder / INDEX
        if not index.is_file():
            continue
        with index.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                try:
                    named[(folder / row["path"]).resolve()] = (_digest(row["patient"]), row["split"])
                except KeyError as error:
                    raise UsageError(f"{index}: column {error} is missing") from None
    return named


def _hashed_split(path: Path) -> tuple[str, str]:
    header = pydicom.dcmread(path, specific_tags=["PatientID"], stop_before_pixels=True, force=True)
    patient = _digest(str(header.get("PatientID", "")) or str(path.parent))
    return patient, TEST if int(patient[:8], 16) / 0xFFFFFFFF < HELD_OUT_SHARE else TRAIN


def _digest(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def _check_split(slices: Sequence[CachedSlice]) -> None:
    splits: dict[str, str] = {}
    for item in slices:
        if splits.setdefault(item.patient, item.split) != item.split:
            raise UsageError("one patient is in two splits: split by patient")
    if not any(item.split == TRAIN for item in slices):
        raise UsageError("no usable training slice: give folders with square CT slices of the body")


def of_split(slices: Sequence[CachedSlice], split: str) -> Iterator[CachedSlice]:
    """The slices of one split."""
    return (item for item in slices if item.split == split)
