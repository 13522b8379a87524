"""Organs from a DICOM Segmentation, matched to slices by position.

Frames are looked up by where they are, never by index or by the instance they were drawn on: a segmentation
may have been made on another reconstruction of the same scan. Frames are read one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from n2q_edge.arrays import BoolArray
from n2q_edge.dicom.order import SAME_DIRECTION, plane_normal
from n2q_edge.dicom.records import Inventory, LoadedSlice, SliceRef
from n2q_edge.errors import UsageError, require

NEAR_MM = 0.5  # a frame that is farther from a slice's plane, or than half a slice, is not of this slice


@dataclass(frozen=True)
class SegmentReference:
    """A segment of a Segmentation (PS3.3 A.51).

    Attributes:
        sop_class_uid: of the segmentation.
        sop_instance_uid: of the segmentation.
        series_instance_uid: of the segmentation.
        study_instance_uid: of the segmentation.
        number: Segment Number.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    number: int


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
        name: its label; made unique with its number where a label occurs twice.
        number: Segment Number.
        site: what it is, as coded in the segmentation; None if it is not.
        reference: of the segment, for a report.
    """

    name: str
    number: int
    site: Code | None
    reference: SegmentReference


@dataclass(frozen=True)
class _Plane:
    """A frame's place: `position` on the normal, and pixel (row, column) -> patient coordinates in mm."""

    frame: int
    segment: int | None
    position: float
    origin: NDArray[np.float64]


class Segmentation:
    """A segmentation opened for reading. Masks may be asked for from any thread."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            MissingDependencyError: highdicom is not installed.
            UsageError: it cannot be read, is no segmentation, or its frames are not in a patient.
        """
        hd = require("highdicom", "dicom")
        self.path = path
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        try:
            self._image: Any = hd.seg.segread(path, lazy_frame_retrieval=True)
            self.segments = _segments(self._image)
            self.frame_of_reference_uid = str(self._image.FrameOfReferenceUID)
            self._orientation = _orientation(self._image)
            self._spacing = _spacing(self._image)
            self._normal = plane_normal(self._orientation)
            if self._normal is None:
                raise ValueError("its image orientation is not valid")
            self._planes = _planes(self._image, self._normal)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
        except Exception as error:  # highdicom and pydicom raise many kinds on what is no valid segmentation
            raise UsageError(
                f"{path}: not a usable DICOM Segmentation: {' '.join(str(error).split())}"
            ) from None

    def covers(self, ref: SliceRef) -> bool:
        """Whether a frame lies on a slice: same frame of reference, orientation and place."""
        return ref.frame_of_reference_uid == self.frame_of_reference_uid and bool(self._matching(ref))

    def masks(self, ref: SliceRef) -> dict[str, BoolArray]:
        """Where every segment is on a slice; without those that are not on it.

        Args:
            ref: the slice.

        Returns:
            Bool [H,W] on the slice's pixels; a segmentation of another matrix or pixel spacing is sampled at
            the nearest of its pixels.
        """
        found: dict[str, BoolArray] = {}
        if not self.covers(ref):
            return found
        for plane in self._matching(ref):
            with self._lock:
                stored = self._image.get_stored_frame(plane.frame)
            for segment in self.segments:
                if plane.segment not in (None, segment.number):
                    continue
                mask = self._on_slice(self._inside(stored, segment.number), plane, ref)
                if mask.any():
                    found[segment.name] = found[segment.name] | mask if segment.name in found else mask
        return found

    def regions(self, loaded: LoadedSlice, body: BoolArray) -> dict[str, BoolArray]:
        """`masks` in the form in which `assess` asks for regions; segments may reach out of the body."""
        with self._one_at_a_time:  # its frames are read from one file
            return self.masks(loaded.ref)

    def _inside(self, stored: NDArray[Any], number: int) -> BoolArray:
        kind = self._image.SegmentationType
        if kind == "LABELMAP":
            return np.asarray(stored == number)
        threshold = self._image.MaximumFractionalValue / 2 if kind == "FRACTIONAL" else 0.5
        return np.asarray(stored >= threshold)

    def _matching(self, ref: SliceRef) -> list[_Plane]:
        if ref.position_mm is None or ref.pixel_spacing_mm is None or ref.image_orientation is None:
            return []
        if (
            max(abs(a - b) for a, b in zip(ref.image_orientation, self._orientation, strict=True))
            > SAME_DIRECTION
        ):
            return []
        reach = min(NEAR_MM, (ref.slice_thickness_mm or 2 * NEAR_MM) / 2)
        near = [plane for plane in self._planes if abs(plane.position - ref.position_mm) <= reach]
        nearest = min((abs(plane.position - ref.position_mm) for plane in near), default=0.0)
        return [plane for plane in near if abs(plane.position - ref.position_mm) <= nearest + 1e-3]

    def _on_slice(self, mask: BoolArray, plane: _Plane, ref: SliceRef) -> BoolArray:
        """A frame's mask on the pixels of a slice in the same plane."""
        assert ref.image_position is not None
        assert ref.pixel_spacing_mm is not None
        shift = np.array(ref.image_position) - plane.origin
        along_row, along_column = np.array(self._orientation[:3]), np.array(self._orientation[3:])
        rows = _nearest(shift @ along_column, ref.pixel_spacing_mm[0], ref.layout.rows, self._spacing[0])
        columns = _nearest(shift @ along_row, ref.pixel_spacing_mm[1], ref.layout.columns, self._spacing[1])
        inside_rows = (rows >= 0) & (rows < mask.shape[0])
        inside_columns = (columns >= 0) & (columns < mask.shape[1])
        result = np.zeros((ref.layout.rows, ref.layout.columns), dtype=bool)
        result[np.ix_(inside_rows, inside_columns)] = mask[np.ix_(rows[inside_rows], columns[inside_columns])]
        return result


def open_for(path: Path, inventory: Inventory) -> Segmentation:
    """Open a segmentation that is to be of some slice of an inventory.

    Raises:
        MissingDependencyError: highdicom is not installed.
        UsageError: it cannot be read, or lies on none of the slices.
    """
    segmentation = Segmentation(path)
    if not any(segmentation.covers(ref) for ref in inventory.slices()):
        raise UsageError(
            f"{path}: no frame of this segmentation lies on a slice found: another frame of reference, "
            "orientation or place"
        )
    return segmentation


def _nearest(start_mm: float, step_mm: float, count: int, other_step_mm: float) -> NDArray[np.intp]:
    """Indices, on a grid of step `other_step_mm` from 0, nearest to `count` points from `start_mm`."""
    places = (start_mm + step_mm * np.arange(count)) / other_step_mm
    return np.asarray(np.floor(places + 0.5 + 1e-6), dtype=np.intp)


def _segments(image: Any) -> list[Segment]:
    names: dict[str, int] = {}
    segments = []
    for item in image.SegmentSequence:
        number = int(item.SegmentNumber)
        if number == 0:  # the background of a label map
            continue
        label = str(item.get("SegmentLabel") or f"segment {number}").strip()
        name = f"{label} ({number})" if label in names else label
        names[name] = number
        segments.append(Segment(name, number, _site(item), _reference(image, number)))
    return segments


def _site(item: Dataset) -> Code | None:
    for keyword in ("SegmentedPropertyTypeCodeSequence", "AnatomicRegionSequence"):
        for code in item.get(keyword) or []:
            if code.get("CodeValue"):
                return Code(code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning)
    return None


def _reference(image: Any, number: int) -> SegmentReference:
    return SegmentReference(
        str(image.SOPClassUID),
        str(image.SOPInstanceUID),
        str(image.SeriesInstanceUID),
        str(image.StudyInstanceUID),
        number,
    )


def _shared(image: Any, macro: str, keyword: str) -> tuple[float, ...]:
    """An attribute that all frames have in common, wherever it is written."""
    groups = [image.SharedFunctionalGroupsSequence[0], *image.PerFrameFunctionalGroupsSequence]
    values = {tuple(float(v) for v in group[macro][0][keyword].value) for group in groups if macro in group}
    if len(values) != 1:
        raise ValueError(f"its frames have {len(values)} different values of {keyword}")
    return values.pop()


def _orientation(image: Any) -> tuple[float, ...]:
    return _shared(image, "PlaneOrientationSequence", "ImageOrientationPatient")


def _spacing(image: Any) -> tuple[float, ...]:
    return _shared(image, "PixelMeasuresSequence", "PixelSpacing")


def _planes(image: Any, normal: NDArray[np.float64]) -> Sequence[_Plane]:
    shared = image.SharedFunctionalGroupsSequence[0]
    planes = []
    for index, groups in enumerate(image.PerFrameFunctionalGroupsSequence, start=1):
        place = groups if "PlanePositionSequence" in groups else shared
        origin = np.array(place.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
        which = groups if "SegmentIdentificationSequence" in groups else shared
        identified = which.get("SegmentIdentificationSequence")
        segment = int(identified[0].ReferencedSegmentNumber) if identified else None
        planes.append(_Plane(index, segment, float(normal @ origin), origin))
    return planes
