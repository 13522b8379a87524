"""Full-dose series in, what a reference is learned from out: noise and body size of every slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from n2q_edge.dicom import Inventory, LoadedSlice, Series, SliceReader, scan
from n2q_edge.errors import NothingAssessedError, UsageError
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.body_size import body_size
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.quality.reference import Acquisition, DeclaredNoise, Observation, Reference, SiteReference
from n2q_edge.quality.site_reference import FEWEST_OF_ONE, Learned, learn, load


def observe(inventory: Inventory, on_slice: Callable[[object], None] | None = None) -> Iterator[Observation]:
    """Noise and body size of every slice that has both, of every series whose header says enough.

    Args:
        inventory: what `dicom.scan` found.
        on_slice: called after every slice, for a progress bar.
    """
    reader = SliceReader()
    try:
        for series in inventory.series:
            yield from _of_series(series, reader, on_slice)
    finally:
        reader.close()


def _of_series(
    series: Series, reader: SliceReader, on_slice: Callable[[object], None] | None
) -> Iterator[Observation]:
    acquisition = Acquisition.of(series.protocol)
    if acquisition is None:
        return
    for ref in series.slices:
        loaded = reader.load(ref)
        if on_slice:
            on_slice(loaded)
        if not isinstance(loaded, LoadedSlice):
            continue
        mask = body_mask(loaded.hu, loaded.pixel_spacing_mm)
        size = body_size(loaded.hu, mask, loaded.pixel_spacing_mm)
        noise = global_noise_level(loaded.hu, mask, loaded.pixel_spacing_mm)
        if size and noise:
            yield Observation(
                acquisition, series.series_instance_uid, size.water_equivalent_diameter_mm, noise
            )


def open_reference(path: Path | None, noise_hu: float | None, diameter_mm: float | None) -> Reference | None:
    """What the user named as the reference: a file, a full-dose series, a noise level, or nothing.

    Raises:
        UsageError: both are named, a diameter without a noise, or what is named is no reference.
        NothingAssessedError: a series without enough slices.
    """
    if path is not None and noise_hu is not None:
        raise UsageError("a reference is a file or series, or a noise level: name one of the two")
    if diameter_mm is not None and noise_hu is None:
        raise UsageError("the diameter belongs to a reference noise: name that, too")
    if noise_hu is not None:
        return DeclaredNoise(noise_hu, diameter_mm)
    if path is None:
        return None
    if path.suffix == ".json":
        return load(path)
    return reference_of_series(scan([path]), path.name)


def reference_of_series(
    inventory: Inventory, name: str, on_slice: Callable[[object], None] | None = None
) -> SiteReference:
    """A full-dose series, or a few, as the reference itself: `assess --reference SERIES`.

    Raises:
        NothingAssessedError: no protocol has enough slices.
    """
    learned = learn(observe(inventory, on_slice), fewest_series=1, fewest_slices=FEWEST_OF_ONE)
    return SiteReference(name, something(learned, name).entries)


def something(learned: Learned, name: str) -> Learned:
    """What was learned, if it is anything.

    Raises:
        NothingAssessedError: it is nothing; the message says why.
    """
    if not learned.entries:
        why = learned.refused[0] if learned.refused else "no CT slice with a body and a complete header"
        raise NothingAssessedError(f"{name} cannot serve as a reference: {why}")
    return learned
