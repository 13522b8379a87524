"""Slices that do not come from a DICOM file: what `SliceRef` says of them."""

from __future__ import annotations

from pathlib import Path

from n2q_edge.dicom.records import Exposure, PixelLayout, SliceRef, Source


def plain_ref(
    path: Path | str,
    number: int,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float] | None,
    *,
    thickness_mm: float | None = None,
    position_mm: float | None = None,
    stamp: tuple[int, int] = (0, 0),
    uid: str = "",
) -> SliceRef:
    """The identity of a slice of HU that no DICOM header describes.

    Args:
        path: of its file; any name for an array.
        number: of the slice in its stack, from 1.
        shape: height and width.
        spacing_mm: row and column spacing.
        thickness_mm: slice thickness.
        position_mm: along the stack.
        stamp: size and modification time of the file.
        uid: stands for a SOP Instance UID.
    """
    file = Path(path)
    layout = PixelLayout("", shape[0], shape[1], 1, 32, 32, True, None)
    return SliceRef(
        path=file,
        frame=number,
        sop_class_uid="",
        sop_instance_uid=uid,
        frame_of_reference_uid="",
        position_mm=position_mm,
        flags=(),
        image_position=None,
        image_orientation=None,
        pixel_spacing_mm=spacing_mm,
        slice_thickness_mm=thickness_mm,
        instance_number=number,
        acquisition_number=None,
        exposure=Exposure(None, None, None),
        patient_key="",
        slope=1.0,
        intercept=0.0,
        layout=layout,
        source=Source(file, file),
        offset=0,
        length=None,
        stamp=stamp,
    )
