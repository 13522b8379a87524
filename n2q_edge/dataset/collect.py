"""From DICOM folders to cached training slices, split by patient."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from n2q_edge.dataset import cache
from n2q_edge.dataset.cache import CachedSlice, SourceSlice
from n2q_edge.dataset.pairs import MeasuredPairs, Pair, match, same_anatomy
from n2q_edge.dicom import Rejected, SliceReader, SliceRef, scan
from n2q_edge.errors import UsageError
from n2q_edge.simulation.patches import NoiseCalibrationError

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
        UsageError: a path does not exist.
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
                    slices.append(replace(cached, thickness_mm=ref.slice_thickness_mm))
                if on_slice:
                    on_slice(done, total, reason)
    return slices


def collect_pairs(pairs: MeasuredPairs, folder: Path, on_slice: OnSlice | None = None) -> list[CachedSlice]:
    """Find every full-dose slice with a low-dose twin and see that the cache holds both.

    Splits are as in `collect`, by the full-dose folder.

    Args:
        pairs: where they are.
        folder: the noise cache.
        on_slice: called with slices done, slices in all, and why the slice is left out (None if it is not).

    Raises:
        UsageError: a path does not exist.
    """
    named = _named_splits([pairs.full])
    matches = match(scan([pairs.full]).series, scan([pairs.low]).series)
    total = len(matches.left_out) + len(matches.pairs)
    slices: list[CachedSlice] = []
    for done, (ref, reason) in enumerate(matches.left_out, start=1):
        if on_slice:
            on_slice(done, total, f"{ref.path}: {reason}")
    with SliceReader() as reader:
        for done, pair in enumerate(matches.pairs, start=len(matches.left_out) + 1):
            cached, left_out = _cached_pair(pair, pairs.dose, reader, named, folder)
            if cached:
                slices.append(cached)
            if on_slice:
                on_slice(done, total, left_out)
    return slices


def kernels(data: Sequence[Path]) -> dict[str, str]:
    """Reconstruction kernel of every slice whose header names one, by the slice's key in the cache."""
    return {
        cache.slice_key(_identity(ref)): str(one.protocol["kernel"])
        for one in scan(data).series
        if one.protocol.get("kernel")
        for ref in one.slices
    }


def _cached(
    ref: SliceRef, reader: SliceReader, named: dict[Path, tuple[str, str]], folder: Path
) -> tuple[CachedSlice | None, str | None]:
    """The slice from the cache, made only if it is not there; or None and why it is left out."""
    identity = _identity(ref)
    found = cache.load(folder, cache.slice_key(identity))
    if found:
        return found, None
    source = _source(ref, identity, reader, named)
    if isinstance(source, str):
        return None, source
    try:
        return cache.store(folder, source), None
    except NoiseCalibrationError as error:
        return None, f"{ref.path}: {error}"


def _cached_pair(
    pair: Pair, dose: float, reader: SliceReader, named: dict[Path, tuple[str, str]], folder: Path
) -> tuple[CachedSlice | None, str | None]:
    """The pair from the cache, made only if it is not there; or None and why it is left out."""
    identity = f"{_identity(pair.full)} {_identity(pair.low)} {dose:g}"
    found = cache.load(folder, cache.slice_key(identity))
    if found:
        return found, None
    source = _source(pair.full, identity, reader, named)
    if isinstance(source, str):
        return None, source
    low = reader.load(pair.low)
    if isinstance(low, Rejected):
        return None, f"{low.path}: {low.reason.value}"
    if not same_anatomy(source.hu, low.hu):
        return None, f"{pair.full.path}: differs by more than noise from {pair.low.path}"
    return cache.store_pair(folder, source, low.hu, dose), None


def _identity(ref: SliceRef) -> str:
    """What tells a slice from all others: its UID, or its path where it has none."""
    uid = ref.sop_instance_uid or str(Path(ref.path).resolve())
    return uid if ref.frame is None else f"{uid}#{ref.frame}"


def _source(
    ref: SliceRef, identity: str, reader: SliceReader, named: dict[Path, tuple[str, str]]
) -> SourceSlice | str:
    """The decoded slice, or why it is of no use."""
    loaded = reader.load(ref)
    if isinstance(loaded, Rejected):
        return f"{loaded.path}: {loaded.reason.value}"
    rows, columns = loaded.hu.shape
    if rows != columns or rows % cache.STD_BLOCK:
        return f"{ref.path}: {rows}x{columns} is not a square multiple of {cache.STD_BLOCK}"
    if loaded.pixel_spacing_mm is None:
        return f"{ref.path}: no PixelSpacing"
    patient, split = named.get(Path(ref.path).resolve()) or _hashed_split(ref)
    return SourceSlice(identity, patient, split, loaded.pixel_spacing_mm[0], loaded.hu)


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


def _hashed_split(ref: SliceRef) -> tuple[str, str]:
    patient = ref.patient_key or _digest(str(ref.path.parent))
    return patient, TEST if int(patient[:8], 16) / 0xFFFFFFFF < HELD_OUT_SHARE else TRAIN


def _digest(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def check_split(slices: Sequence[CachedSlice]) -> None:
    """See that there is something to train on, and no patient on both sides.

    Raises:
        UsageError: no slice was usable, or one patient is in two splits.
    """
    splits: dict[str, str] = {}
    for item in slices:
        if splits.setdefault(item.patient, item.split) != item.split:
            raise UsageError("one patient is in two splits: split by patient")
    if not any(item.split == TRAIN for item in slices):
        raise UsageError("no usable training slice: give folders with square CT slices of the body")


def of_split(slices: Sequence[CachedSlice], split: str) -> Iterator[CachedSlice]:
    """The slices of one split."""
    return (item for item in slices if item.split == split)
