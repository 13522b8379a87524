"""Slices to series: group by UID and geometry, order along the normal, flag what is irregular."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from n2q_edge.dicom.image import Image
from n2q_edge.dicom.records import Series, SliceRef

SAME_DIRECTION = 1e-3  # direction cosines are written with few digits
SAME_POSITION_MM = 0.01
GAP = 1.5  # times the usual distance
VARIABLE = 0.1  # of the usual distance
TILT_DEGREES = 0.1
SHEAR_DEGREES = 0.5


def make_series(images: Sequence[Image]) -> tuple[Series, ...]:
    """Group slices into series, in the order they were found in."""
    by_uid: dict[tuple[str, str], list[Image]] = {}
    for image in images:
        by_uid.setdefault((image.study_instance_uid, image.series_instance_uid), []).append(image)
    return tuple(series for group in by_uid.values() for series in _series_of_one_uid(group))


def _series_of_one_uid(images: list[Image]) -> list[Series]:
    repeated = _repeated_uids(images)
    stacks: list[list[tuple[SliceRef, Image]]] = []
    for image in images:
        for ref in image.slices:
            if (ref.sop_instance_uid, ref.frame) in repeated:
                ref = _flagged(ref, "duplicate_sop_instance_uid")
            stack = next((stack for stack in stacks if _same_geometry(stack[0][0], ref)), None)
            if stack is None:
                stacks.append([(ref, image)])
            else:
                stack.append((ref, image))
    mixed = ("mixed_geometry",) if len(stacks) > 1 else ()
    return [_series(stack, number, mixed) for number, stack in enumerate(stacks, start=1)]


def _repeated_uids(images: list[Image]) -> set[tuple[str, int | None]]:
    counts = Counter((ref.sop_instance_uid, ref.frame) for image in images for ref in image.slices)
    return {key for key, count in counts.items() if count > 1 and key[0]}


def _same_geometry(one: SliceRef, other: SliceRef) -> bool:
    return (
        (one.layout.rows, one.layout.columns) == (other.layout.rows, other.layout.columns)
        and _close(one.image_orientation, other.image_orientation)
        and _close(one.pixel_spacing_mm, other.pixel_spacing_mm)
    )


def _close(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    if one is None or other is None or one == other:
        return one == other
    return all(abs(a - b) < SAME_DIRECTION for a, b in zip(one, other, strict=True))


def _series(stack: list[tuple[SliceRef, Image]], number: int, flags: tuple[str, ...]) -> Series:
    first, image = stack[0]
    normal = plane_normal(first.image_orientation)
    refs = [_positioned(ref, normal) for ref, _ in stack]
    # Slices at one position (phases, copies) keep the order of Instance Number, frame and name.
    refs.sort(key=_order)
    refs = _flag_positions(refs)
    tilted = any(abs(each.tilt) > TILT_DEGREES for _, each in stack) or _is_sheared(refs, normal)
    return Series(
        study_instance_uid=image.study_instance_uid,
        series_instance_uid=image.series_instance_uid,
        slices=tuple(refs),
        flags=(("tilted",) if tilted else ()) + _series_flags(refs) + flags,
        protocol=_protocol(first, image),
        stack=number,
        header=image.header,
    )


def _protocol(first: SliceRef, image: Image) -> dict[str, Any]:
    return {
        **image.protocol,
        "rows": first.layout.rows,
        "columns": first.layout.columns,
        "pixel_spacing_mm": list(first.pixel_spacing_mm) if first.pixel_spacing_mm else None,
        "transfer_syntax": first.layout.transfer_syntax,
    }


def plane_normal(orientation: tuple[float, ...] | None) -> np.ndarray[Any, Any] | None:
    """Unit normal of the image plane: row direction x column direction (PS3.3 C.7.6.2.1.1).

    None if the orientation is absent or its directions are not perpendicular unit vectors (to 1 %).
    """
    if orientation is None:
        return None
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    if abs(row @ row - 1) > 0.02 or abs(column @ column - 1) > 0.02 or abs(row @ column) > 0.01:
        return None
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal))


def _positioned(ref: SliceRef, normal: np.ndarray[Any, Any] | None) -> SliceRef:
    if normal is None or ref.image_position is None:
        return _flagged(ref, "no_position")
    return replace(ref, position_mm=round(float(normal @ np.array(ref.image_position)), 4))


def _order(ref: SliceRef) -> tuple[bool, float, int, int, str]:
    position = ref.position_mm
    number = ref.instance_number if ref.instance_number is not None else 1 << 31
    return position is None, position or 0.0, number, ref.frame or 0, str(ref.path)


def _flagged(ref: SliceRef, flag: str) -> SliceRef:
    return replace(ref, flags=(*ref.flags, flag))


def _flag_positions(refs: list[SliceRef]) -> list[SliceRef]:
    """Add `duplicate_position` and `gap_before`; `refs` are in order."""
    usual = _usual_distance(refs)
    flagged = list(refs)
    for index in range(1, len(refs)):
        distance = _distance(refs[index - 1], refs[index])
        if distance is None:
            break
        if distance < SAME_POSITION_MM:
            for twin in (index - 1, index):
                if "duplicate_position" not in flagged[twin].flags:
                    flagged[twin] = _flagged(flagged[twin], "duplicate_position")
        elif usual is not None and distance > GAP * max(usual, refs[index].slice_thickness_mm or 0.0):
            flagged[index] = _flagged(flagged[index], "gap_before")
    return flagged


def _distance(one: SliceRef, other: SliceRef) -> float | None:
    if one.position_mm is None or other.position_mm is None:
        return None
    return other.position_mm - one.position_mm


def _distances(refs: list[SliceRef]) -> list[float]:
    positions = [ref.position_mm for ref in refs if ref.position_mm is not None]
    steps = [after - before for before, after in pairwise(positions)]
    return [step for step in steps if step >= SAME_POSITION_MM]


def _usual_distance(refs: list[SliceRef]) -> float | None:
    distances = _distances(refs)
    return median(distances) if distances else None


def _series_flags(refs: list[SliceRef]) -> tuple[str, ...]:
    have = {flag for ref in refs for flag in ref.flags}
    flags = []
    if "gap_before" in have:
        flags.append("gaps")
    if "duplicate_position" in have:
        flags.append("duplicate_positions")
    if _is_variable(refs):
        flags.append("variable_spacing")
    if "duplicate_sop_instance_uid" in have:
        flags.append("duplicate_sop_instance_uid")
    if "no_position" in have:
        flags.append("no_positions")
    return tuple(flags)


def _is_variable(refs: list[SliceRef]) -> bool:
    """Whether the spacing varies, gaps left out."""
    usual = _usual_distance(refs)
    for before, after in pairwise(refs):
        distance = _distance(before, after)
        if usual is None or distance is None:
            return False
        gap = "gap_before" in after.flags
        if not gap and distance >= SAME_POSITION_MM and abs(distance - usual) > VARIABLE * usual:
            return True
    return False


def _is_sheared(refs: list[SliceRef], normal: np.ndarray[Any, Any] | None) -> bool:
    """Whether the corner of the slices moves along another direction than the normal."""
    corners = [ref.image_position for ref in refs if ref.position_mm is not None]
    if normal is None or len(corners) < 2:
        return False
    along = np.array(corners[-1]) - np.array(corners[0])
    length = float(np.linalg.norm(along))
    if length < SAME_POSITION_MM:
        return False
    return bool(abs(along @ normal) / length < np.cos(np.radians(SHEAR_DEGREES)))
