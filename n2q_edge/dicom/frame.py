"""What may differ from frame to frame: rescale, geometry, exposure; validated where it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from n2q_edge.dicom import plausible, tags
from n2q_edge.dicom.classify import CT_IMAGE
from n2q_edge.dicom.products import check_image_type, check_rescale_type, is_axial
from n2q_edge.dicom.reasons import Reason, Refusal
from n2q_edge.dicom.records import Exposure, PixelLayout, Triple
from n2q_edge.dicom.values import Elements, parse_numbers


@dataclass(frozen=True)
class Frame:
    """One frame. See `SliceRef` for what the values are."""

    slope: float
    intercept: float
    position: Triple | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, float] | None
    thickness: float | None
    exposure: Exposure
    flags: tuple[str, ...]


def read_frame(elements: Elements, layout: PixelLayout, has_own_position: bool) -> Frame:
    """Read one frame.

    Args:
        elements: what holds for the frame.
        layout: how its values are written.
        has_own_position: its position is not only that of the whole image.

    Raises:
        Refusal: the frame is not in HU or not a slice.
    """
    image = check_image_type(elements.text(tags.FRAME_TYPE) or elements.text(tags.IMAGE_TYPE))
    rescale_type = elements.text(tags.RESCALE_TYPE).upper()
    check_rescale_type(rescale_type)
    if rescale_type == "US" and image.derived and elements.text(tags.SOP_CLASS_UID) != CT_IMAGE:
        raise Refusal(Reason.NOT_HU)  # PS3.3 C.8.15.3.10: enhanced CT in HU says HU
    slope = _rescale("Rescale Slope", elements.text(tags.RESCALE_SLOPE))
    intercept = _rescale("Rescale Intercept", elements.text(tags.RESCALE_INTERCEPT))
    plausible.check_rescale(slope, intercept, layout)
    geometry = _Geometry(elements)
    exposure, doubtful = read_exposure(elements)
    conditions = {
        "derived": image.derived,
        "rescale_type_unspecified": rescale_type == "US",
        "non_axial": not is_axial(geometry.orientation, image),
        "spectral_product": image.spectral,
        "implausible_geometry": geometry.implausible,
        "doubtful_exposure": doubtful,
    }
    return Frame(
        slope=slope,
        intercept=intercept,
        position=geometry.position if has_own_position or layout.frames == 1 else None,
        orientation=geometry.orientation,
        spacing=geometry.spacing,
        thickness=geometry.thickness,
        exposure=exposure,
        flags=tuple(flag for flag, holds in conditions.items() if holds),
    )


def read_exposure(elements: Elements) -> tuple[Exposure, bool]:
    """Tube current, mAs and CTDIvol of a frame, and whether they are doubtful.

    Doubtful: a value is impossible (it is None then), or mAs do not go with tube current and exposure time.
    """
    current = _first(elements.double(tags.TUBE_CURRENT_MA), elements.number(tags.TUBE_CURRENT))
    mas = _first(elements.double(tags.EXPOSURE_MAS), elements.number(tags.EXPOSURE))
    time = _first(elements.double(tags.EXPOSURE_TIME_MS), elements.number(tags.EXPOSURE_TIME))
    dose = elements.double(tags.CTDI_VOL)
    kept = [
        value if plausible.within(value, limits) else None
        for value, limits in (
            (current, plausible.TUBE_CURRENT_MA),
            (mas, plausible.EXPOSURE_MAS),
            (dose, plausible.CTDIVOL_MGY),
        )
    ]
    doubtful = kept != [current, mas, dose]
    current, mas, dose = kept
    if current is not None and mas is not None and time is not None:
        doubtful = doubtful or not plausible.agrees(mas, current, time)
    return Exposure(current, mas, dose), doubtful


class _Geometry:
    """Where a frame is and how large its pixels are; what cannot be is None, and `implausible` is set."""

    def __init__(self, elements: Elements) -> None:
        self.implausible = False
        position = self._read(elements, tags.IMAGE_POSITION)
        spacing = self._read(elements, tags.PIXEL_SPACING)
        thickness = self._read(elements, tags.SLICE_THICKNESS)
        self.position = (position[0], position[1], position[2]) if position else None
        self.orientation = self._read(elements, tags.IMAGE_ORIENTATION)
        self.spacing = (spacing[0], spacing[1]) if spacing else None
        self.thickness = thickness[0] if thickness else None

    def _read(self, elements: Elements, tag: int) -> tuple[float, ...] | None:
        text = elements.text(tag)
        if not text:
            return None
        values = _plausible_numbers(tag, text)
        self.implausible = self.implausible or values is None
        return values


@lru_cache(maxsize=256)  # slices of a series share most of them, and then one object
def _plausible_numbers(tag: int, text: str) -> tuple[float, ...] | None:
    count, is_plausible = _GEOMETRY[tag]
    values = parse_numbers(text)
    return values if values is not None and len(values) == count and is_plausible(values) else None


def _all_within(limits: plausible.Range) -> Callable[[Sequence[float]], bool]:
    return lambda values: all(plausible.within(value, limits) for value in values)


_GEOMETRY: dict[int, tuple[int, Callable[[Sequence[float]], bool]]] = {
    tags.IMAGE_POSITION: (3, plausible.is_position),
    tags.IMAGE_ORIENTATION: (6, plausible.are_axes),
    tags.PIXEL_SPACING: (2, _all_within(plausible.SPACING_MM)),
    tags.SLICE_THICKNESS: (1, _all_within(plausible.THICKNESS_MM)),
}


def _rescale(name: str, text: str) -> float:
    if not text:
        raise Refusal(Reason.MISSING_RESCALE, f"{name} is absent or empty")
    values = parse_numbers(text)
    if values is None:
        raise Refusal(Reason.MISSING_RESCALE, f"{name} is {text[:16]!r}")
    return values[0]


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
