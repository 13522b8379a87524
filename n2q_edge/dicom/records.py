"""What a scan returns: slices in order, series, and an account of every file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from n2q_edge.dicom.reasons import Rejected, Skipped

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a member of a zip archive.

    Attributes:
        path: for people; of a zip member `archive.zip/member/name.dcm`, made unique if a name occurs twice.
        file: the file on disk; of a zip member the archive.
        member: index of the member in the archive's directory, None for a plain file.
    """

    path: Path
    file: Path
    member: int | None = None


@dataclass(frozen=True)
class PixelLayout:
    """How the stored values of a file are written (PS3.3 C.7.6.3). Slices of a series share one object.

    Attributes:
        padding: inclusive range of stored values that are Pixel Padding.
    """

    transfer_syntax: str
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class SourceHeader:
    """What result objects copy from a file: patient, study and equipment, as raw bytes. Slices share one.

    Attributes:
        values: tag and value.
        deidentification_codes: the whole element De-identification Method Code Sequence; empty if absent.
        explicit: it is in explicit VR.
        little: all of it is little endian.
    """

    values: tuple[tuple[int, bytes], ...]
    deidentification_codes: bytes
    explicit: bool
    little: bool


@dataclass(frozen=True, slots=True)
class Exposure:
    """With what dose a slice was scanned; None where the header does not say, or what it says cannot be.

    Attributes:
        tube_current_ma: X-Ray Tube Current, mA.
        exposure_mas: Exposure, mAs. Vendors write different things here: see flag `doubtful_exposure`.
        ctdivol_mgy: CTDIvol, mGy.
    """

    tube_current_ma: float | None
    exposure_mas: float | None
    ctdivol_mgy: float | None


@dataclass(frozen=True, slots=True)
class SliceRef:
    """One slice, found but not yet read.

    Attributes:
        path: the file; for a zip member `archive.zip/member/name.dcm`.
        frame: 1-based DICOM frame number, None in a single-frame file.
        sop_class_uid: "" if the file has none.
        sop_instance_uid: "" if the file has none (flag `missing_uid`).
        frame_of_reference_uid: "" if the file has none.
        position_mm: Image Position (Patient) projected on the plane's normal; None if absent.
        flags: any of `SLICE_FLAGS`.
        image_position: Image Position (Patient), mm.
        image_orientation: Image Orientation (Patient): direction of a row, then of a column.
        pixel_spacing_mm: between rows, then between columns.
        slice_thickness_mm: Slice Thickness.
        instance_number: Instance Number; orders slices that have no position.
        acquisition_number: Acquisition Number; None if absent.
        exposure: tube current, mAs and CTDIvol.
        patient_key: digest of Patient ID, "" if it has none: tells patients apart, names nobody.
        slope: HU = slope * stored value + intercept.
        intercept: see `slope`.
        layout: how its stored values are written.
        source: where its bytes are.
        offset: of the pixel data's value in the file (in the unpacked data set, if deflated).
        length: of the pixel data's value, None if encapsulated.
        stamp: size and modification time of the file when it was scanned.
    """

    path: Path
    frame: int | None
    sop_class_uid: str
    sop_instance_uid: str
    frame_of_reference_uid: str
    position_mm: float | None
    flags: tuple[str, ...]
    image_position: Triple | None
    image_orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, float] | None
    slice_thickness_mm: float | None
    instance_number: int | None
    acquisition_number: int | None
    exposure: Exposure
    patient_key: str = field(repr=False)
    slope: float
    intercept: float
    layout: PixelLayout = field(repr=False)
    source: Source = field(repr=False)
    offset: int = field(repr=False)
    length: int | None = field(repr=False)
    stamp: tuple[int, int] = field(repr=False)


SLICE_FLAGS = {
    "duplicate_position": "another slice of the series is at the same position",
    "gap_before": "the distance to the slice before is more than 1.5 times the usual one: a slice is missing",
    "no_position": "no usable Image Position or Orientation (Patient); ordered by Instance Number",
    "duplicate_sop_instance_uid": "another slice has the same SOP Instance UID (and frame)",
    "missing_uid": "no SOP, Series or Study Instance UID",
    "lossy_compressed": "the pixels went through lossy compression, which changes noise and texture",
    "derived": "Image Type says DERIVED: reformatted, filtered or recompressed after reconstruction",
    "non_axial": "the plane is coronal, sagittal or oblique: models are trained on axial slices",
    "spectral_product": "computed from several energies (monoenergetic, virtual non-contrast): in HU, but "
    "noise and contrast are not those of a scan",
    "implausible_geometry": "spacing, position, orientation or thickness is impossible (not a number, out of "
    "range, not perpendicular) and was left out",
    "doubtful_exposure": "tube current, mAs or CTDIvol is impossible and was left out, or the mAs do not fit "
    "tube current and exposure time",
    "no_transfer_syntax": "no Transfer Syntax UID; read as uncompressed because length and content fit",
    "rescale_type_unspecified": "Rescale Type is US (unspecified), taken as HU",
}

UNLIKE_AXIAL_HU = frozenset({"non_axial", "spectral_product"})
"""Flags of slices that no verdict can be given on: not what any model here was trained on."""

SERIES_FLAGS = {
    "tilted": "the gantry is tilted: slices are sheared against the direction they are stacked in",
    "gaps": "at least one slice is missing",
    "duplicate_positions": "several slices at one position (time points, phases or copies)",
    "variable_spacing": "the distance between slices varies by more than 10 %",
    "duplicate_sop_instance_uid": "several slices have the same SOP Instance UID",
    "no_positions": "at least one slice has no position",
    "mixed_geometry": "the Series Instance UID holds several orientations, matrices or pixel spacings; "
    "each is a Series of its own here",
}


@dataclass(frozen=True)
class Series:
    """Slices of one Series Instance UID with one orientation, matrix and pixel spacing.

    A Series Instance UID whose slices differ in these gives several `Series` (flag `mixed_geometry`),
    numbered by `stack`: slices of different geometry have no common order, and no map of them has one
    matrix.

    Attributes:
        slices: in geometric order: ascending `position_mm`, then those without a position by Instance Number.
        flags: any of `SERIES_FLAGS`.
        protocol: how it was acquired: see `n2q_edge.dicom.protocol`. None where absent. No patient identity.
        stack: 1-based number among the `Series` of this UID.
        header: what result objects copy, of the first slice. It names the patient: it is in no repr.
    """

    study_instance_uid: str
    series_instance_uid: str
    slices: tuple[SliceRef, ...]
    flags: tuple[str, ...]
    protocol: dict[str, Any]
    stack: int = 1
    header: SourceHeader = field(default=SourceHeader((), b"", True, True), repr=False)


@dataclass(frozen=True)
class Inventory:
    """Everything a scan met.

    No file is dropped. A *file* is a file on disk or a member of a zip archive. The archive itself counts
    too, and so does a folder that cannot be read or a link to something seen before. Each is in exactly one
    of three places: it has at least one slice in `series`, or it is in `rejected`, or it is in `skipped`. So

        files with a slice + rejected files + skipped files == files_seen

    where records of single frames (`frame` is set) do not count: their file has other frames in `series`. A
    slice that fails when it is loaded moves its file from the first place to the second, unless another
    frame loads.
    """

    series: tuple[Series, ...]
    rejected: tuple[Rejected, ...]
    skipped: tuple[Skipped, ...]
    files_seen: int

    def slices(self) -> Iterator[SliceRef]:
        """All slices of all series."""
        for series in self.series:
            yield from series.slices


@dataclass(frozen=True)
class LoadedSlice:
    """One slice in HU.

    Attributes:
        ref: which slice.
        hu: float32 [H,W], clipped to [-1024, 3071].
        pixel_spacing_mm: between rows, then between columns.
        read_ms: bytes from disk (and unpacking of a zip or deflated file).
        decode_ms: bytes to HU.
    """

    ref: SliceRef
    hu: NDArray[np.float32]
    pixel_spacing_mm: tuple[float, float] | None
    read_ms: float
    decode_ms: float
