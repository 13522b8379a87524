"""Parametric Map Storage (PS3.3 A.75): a map of every slice as float32 frames, where the source slices are.

highdicom makes the object; only its pixels are written here, frame by frame, because its constructor wants
all of them in memory, twice. What dcmqi (3D Slicer's converter) needs beyond the standard: a shared Frame
Anatomy Sequence, frames in ascending position, no Laterality.

Over 350 lines: grouping, header and pixels of one object share its geometry.
"""

from __future__ import annotations

import itertools
import os
import statistics
import struct
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from n2q_edge.dicom.order import SAME_POSITION_MM
from n2q_edge.dicom_out import codes
from n2q_edge.dicom_out.source_header import (
    NotWrittenError,
    SourceContext,
    SourceSlice,
    checking_source,
    equipment,
    finish,
    image_references,
    private_scheme,
    silent,
)
from n2q_edge.errors import OutputError, require

UNEVEN = 0.02  # of the distance: what positions may be off an even grid
MAX_PIXEL_BYTES = 2**32 - 2  # PS3.5 7.1.1; the largest even length that is not "undefined"
FLOAT_PIXEL_DATA = struct.pack("<HH2sH", 0x7FE0, 0x0008, b"OF", 0)  # explicit VR, PS3.5 7.1.2


@dataclass(frozen=True)
class MapKind:
    """What a map shows.

    Attributes:
        label: Content Label and LUT Label, at most 16 characters.
        description: Content Description, LUT Explanation and Series Description.
        quantity: what a value is.
        unit: its unit.
        value_range: of real-world values.
        shown: the values a viewer shows as black and white at first.
    """

    label: str
    description: str
    quantity: Code
    unit: Code
    value_range: tuple[float, float]
    shown: tuple[float, float]


QUALITY = MapKind(
    "N2Q_QUALITY", "N2Q predicted SSIM", codes.PREDICTED_SSIM, codes.NO_UNITS, (0.0, 1.0), (0.0, 1.0)
)
NOISE = MapKind(
    "N2Q_NOISE", "N2Q predicted noise HU", codes.MODEL_NOISE, codes.HOUNSFIELD, (0.0, 4095.0), (0.0, 100.0)
)


def volumes(slices: Sequence[SourceSlice]) -> list[list[SourceSlice]]:
    """Split slices into maps that any viewer can stack.

    A map has one frame of reference, one slice thickness, and positions that ascend in equal steps. So slices
    at one position (time points, phases, copies), acquisitions interleaved in one series, and what lies on
    both sides of a gap or of a change of the slice distance come to lie in different maps. dcmqi, and most
    viewers with it, expect evenly spaced frames and would show them at wrong places otherwise.

    Args:
        slices: of one orientation, matrix and pixel spacing.

    Raises:
        NotWrittenError: `no_geometry`, `no_frame_of_reference`.
    """
    placed = [item for item in slices if _has_geometry(item)]
    if not placed:
        raise NotWrittenError(
            "no_geometry", "no slice has Image Position, Image Orientation and Pixel Spacing"
        )
    framed = [item for item in placed if item.frame_of_reference_uid]
    if not framed:
        raise NotWrittenError("no_frame_of_reference", "the source has no Frame of Reference UID")
    groups = _grouped(framed, lambda item: (item.frame_of_reference_uid, item.ref.slice_thickness_mm))
    return [volume for group in groups for volume in _stacks(sorted(group, key=_position))]


def _grouped(slices: Sequence[SourceSlice], key: Callable[[SourceSlice], object]) -> list[list[SourceSlice]]:
    groups: dict[object, list[SourceSlice]] = {}
    for item in slices:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _stacks(ascending: Sequence[SourceSlice]) -> list[list[SourceSlice]]:
    """Evenly spaced maps; by acquisition where that gives fewer (some scanners count every rotation)."""
    whole = _even_runs(ascending)
    if len(whole) == 1:
        return whole
    acquisitions = _grouped(ascending, lambda item: item.acquisition_number)
    return min(whole, [run for part in acquisitions for run in _even_runs(part)], key=len)


def _even_runs(ascending: Sequence[SourceSlice]) -> list[list[SourceSlice]]:
    return [run for part in _without_duplicates(ascending) for run in _evenly_spaced(part)]


def _evenly_spaced(ascending: Sequence[SourceSlice]) -> list[list[SourceSlice]]:
    runs = [[ascending[0]]]
    step = None
    for before, item in itertools.pairwise(ascending):
        distance = _position(item) - _position(before)
        if step is None:
            step = distance
        if _close(distance, step):
            runs[-1].append(item)
        else:
            runs.append([item])
            step = None
    return runs


def _close(distance: float, expected: float) -> bool:
    return abs(distance - expected) < max(SAME_POSITION_MM, UNEVEN * expected)


def _has_geometry(item: SourceSlice) -> bool:
    ref = item.ref
    return None not in (ref.position_mm, ref.image_position, ref.image_orientation, ref.pixel_spacing_mm)


def _position(item: SourceSlice) -> float:
    assert item.ref.position_mm is not None
    return item.ref.position_mm


def _without_duplicates(ascending: Sequence[SourceSlice]) -> list[list[SourceSlice]]:
    result: list[list[SourceSlice]] = []
    for item in ascending:
        for volume in result:
            if _position(item) - _position(volume[-1]) > SAME_POSITION_MM:
                volume.append(item)
                break
        else:
            result.append([item])
    return result


@silent()
def parametric_map(
    context: SourceContext,
    volume: Sequence[SourceSlice],
    kind: MapKind,
    *,
    series_instance_uid: str,
    sop_instance_uid: str,
    series_number: int,
    instance_number: int,
    algorithm: str,
) -> Dataset:
    """A Parametric Map with everything but its pixels.

    Args:
        context: of the source series.
        volume: the source slice of every frame, from `volumes`.
        kind: what the map shows.
        series_instance_uid: of the map's series.
        sop_instance_uid: of the map.
        series_number: of the map's series.
        instance_number: in the map's series.
        algorithm: name and version of the model, for Derivation Description.

    Raises:
        MissingDependencyError: highdicom is not installed.
        NotWrittenError: `no_slice_thickness`, `too_large`, `invalid_source`.
    """
    hd = require("highdicom", "dicom")
    layout = volume[0].ref.layout
    if len(volume) * layout.rows * layout.columns * 4 > MAX_PIXEL_BYTES:
        raise NotWrittenError(
            "too_large", f"{len(volume)} frames of {layout.rows} x {layout.columns} float32"
        )
    with checking_source():
        measures = _measures(volume)
        orientation = hd.PlaneOrientationSequence(
            coordinate_system="PATIENT", image_orientation=volume[0].ref.image_orientation
        )
        positions = [
            hd.PlanePositionSequence(coordinate_system="PATIENT", image_position=item.ref.image_position)
            for item in volume
        ]
        black, white = kind.shown
        mapping = hd.pm.RealWorldValueMapping(
            lut_label=kind.label,
            lut_explanation=kind.description,
            unit=kind.unit,
            value_range=kind.value_range,
            slope=1,
            intercept=0,
            quantity_definition=kind.quantity,
        )
        dataset: Dataset = hd.pm.ParametricMap(
            source_images=[_template(context, volume[0])],
            pixel_array=np.broadcast_to(np.float32(0), (len(volume), 1, 1)),  # the pixels come later
            series_instance_uid=series_instance_uid,
            series_number=series_number,
            sop_instance_uid=sop_instance_uid,
            instance_number=instance_number,
            contains_recognizable_visual_features=True,  # the outline of a head is in its map
            real_world_value_mappings=[mapping],
            voi_lut_transformations=[
                hd.VOILUTTransformation(window_center=(black + white) / 2, window_width=white - black)
            ],
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label=kind.label,
            content_description=kind.description,
            content_creator_name="",
            pixel_measures=measures,
            plane_orientation=orientation,
            plane_positions=positions,
            series_description=kind.description,
            coding_schemes=[private_scheme()],
            specific_character_set=None,
            **equipment(),
        )
    del dataset.FloatPixelData
    dataset.Rows, dataset.Columns = layout.rows, layout.columns
    # highdicom's frames may descend; it gave none pixels yet, so position and source decide what a frame is.
    for groups, position in zip(dataset.PerFrameFunctionalGroupsSequence, positions, strict=True):
        groups.PlanePositionSequence = position
    _refer_to_sources(dataset, context, volume)
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [coded(codes.anatomic_region(context.header.get("BodyPartExamined")))]
    anatomy.FrameLaterality = "U"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.FrameAnatomySequence = [anatomy]
    shared.PixelMeasuresSequence = measures  # highdicom puts the source's in their place
    dataset.DerivationDescription = f"{kind.description} by {algorithm}"
    finish(dataset, context)
    return dataset


def _measures(volume: Sequence[SourceSlice]) -> Any:
    """Pixel Measures: spacing and thickness of the source, and the distance of neighbouring slices.

    Slice Thickness has to have a value here, and may be empty in the source: then it is the distance of the
    slices.
    """
    import highdicom as hd

    distances = [_position(b) - _position(a) for a, b in itertools.pairwise(volume)]
    distance = statistics.fmean(distances) if distances else None
    thickness = volume[0].ref.slice_thickness_mm or distance
    if not thickness:
        raise NotWrittenError("no_slice_thickness", "neither Slice Thickness nor a slice distance is known")
    return hd.PixelMeasuresSequence(
        pixel_spacing=volume[0].ref.pixel_spacing_mm or (),
        slice_thickness=thickness,
        spacing_between_slices=distance,
    )


def _template(context: SourceContext, item: SourceSlice) -> Dataset:
    """What highdicom takes patient, study, frame of reference and geometry from."""
    template = deepcopy(context.header)
    template.FrameOfReferenceUID = item.frame_of_reference_uid
    template.SOPInstanceUID = item.ref.sop_instance_uid
    template.Rows, template.Columns = item.ref.layout.rows, item.ref.layout.columns
    template.ImagePositionPatient = decimals(item.ref.image_position or ())
    template.ImageOrientationPatient = decimals(item.ref.image_orientation or ())
    template.PixelSpacing = decimals(item.ref.pixel_spacing_mm or ())
    template.SliceThickness = 1  # asked for, but not taken over
    return template


def _refer_to_sources(dataset: Dataset, context: SourceContext, volume: Sequence[SourceSlice]) -> None:
    """Name the source image of every frame (PS3.3 C.7.6.16.2.6), and all of them in the common modules."""
    references = image_references(volume)
    dataset.SourceImageSequence = references
    series = Dataset()
    series.SeriesInstanceUID = context.series_instance_uid
    series.ReferencedInstanceSequence = references
    dataset.ReferencedSeriesSequence = [series]
    for item, groups in zip(volume, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        source = Dataset()
        source.ReferencedSOPClassUID = item.sop_class_uid
        source.ReferencedSOPInstanceUID = item.ref.sop_instance_uid
        if item.ref.frame is not None:
            source.ReferencedFrameNumber = item.ref.frame
        source.PurposeOfReferenceCodeSequence = [coded(codes.SOURCE_IMAGE)]
        source.SpatialLocationsPreserved = "YES"
        derivation = Dataset()
        derivation.DerivationCodeSequence = [coded(codes.IMAGE_ANALYSIS)]
        derivation.SourceImageSequence = [source]
        groups.DerivationImageSequence = [derivation]


def decimals(values: Iterable[float]) -> list[DSfloat]:
    """Numbers as decimal strings of at most 16 characters (PS3.5 6.2)."""
    return [DSfloat(value, auto_format=True) for value in values]


def coded(code: Code) -> Dataset:
    """A code as an item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def write_parametric_map(path: Path, dataset: Dataset, frames: Iterable[bytes]) -> None:
    """Write a map, its pixels frame by frame.

    Args:
        path: a new file; the caller sees to it that a partial one is never taken for whole.
        dataset: from `parametric_map`.
        frames: float32 little-endian pixels of every frame, row by row.

    Raises:
        OutputError: disk full, no permission, ...
        NotWrittenError: `invalid_source`; there is no file then.
        ValueError: not as many pixels as the data set says.
    """
    length = int(dataset.NumberOfFrames) * dataset.Rows * dataset.Columns * 4
    header = BytesIO()
    with checking_source():
        dataset.save_as(header, enforce_file_format=True)
    try:
        with path.open("wb") as file:
            file.write(header.getbuffer())
            file.write(
                FLOAT_PIXEL_DATA + struct.pack("<I", length)
            )  # the last element: no tag in it is higher
            start = file.tell()
            for frame in frames:
                file.write(frame)
            if file.tell() - start != length:
                raise ValueError(f"{file.tell() - start} bytes of pixels where {length} are due")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror}; free some space or choose another folder"
        ) from None
