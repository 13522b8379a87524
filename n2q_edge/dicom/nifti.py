"""NIfTI volumes (.nii, .nii.gz) as series of axial slices in HU, whatever their orientation in the file.

A NIfTI file says where its voxels are, not what they mean: it is taken as HU if it reaches down to air.
Slices come in DICOM's order: rows towards the patient's left, columns towards the back, slices towards the
head.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from n2q_edge.dicom.hounsfield import to_hu
from n2q_edge.dicom.image import Image
from n2q_edge.dicom.products import is_axial, product
from n2q_edge.dicom.protocol import NAMES
from n2q_edge.dicom.reasons import Reason, Refusal
from n2q_edge.dicom.records import SliceRef, Source, SourceHeader
from n2q_edge.dicom.volume import plain_ref
from n2q_edge.errors import MissingDependencyError, require

SUFFIXES = (".nii", ".nii.gz")
EXTRA = "nifti"
AXES = ("L", "P", "S")  # what an index counts towards: column, row, slice
DIGITS = 6  # the file's own are float32: 0.8 mm is 0.8000000119
MM = {"mm": 1.0, "meter": 1e3, "micron": 1e-3, "unknown": 1.0}
MOST_AIR_HU = -200.0  # a volume without anything below it is no CT, but a mask, a map or MR


def is_nifti(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.name.lower().endswith(SUFFIXES)


@dataclass(frozen=True, eq=False)
class Volume:
    """A file that is open; its voxels are read when they are first asked for.

    Attributes:
        image: nibabel's.
        turn: how its axes become `AXES`.
        to_patient: [4,4], from indices along `AXES` to mm in DICOM's patient coordinates.
        shape: [W,H,Z], along `AXES`.
    """

    image: Any
    turn: NDArray[Any]
    to_patient: NDArray[np.float64]
    shape: tuple[int, ...]

    @cached_property
    def voxels(self) -> NDArray[Any]:
        """Stored values [W,H,Z] along `AXES`."""
        orientations: Any = require("nibabel.orientations", EXTRA)

        stored = self.image.dataobj.get_unscaled().reshape(self.image.shape[:3])
        turned: NDArray[Any] = orientations.apply_orientation(stored, self.turn)
        return turned

    @property
    def scale(self) -> tuple[float, float]:
        """Slope and intercept of the stored values."""
        return float(self.image.dataobj.slope), float(self.image.dataobj.inter)

    @cached_property
    def reaches_air(self) -> bool:
        """Whether the values can be HU of a CT scan."""
        slope, intercept = self.scale
        ends = (end.reduce(self.voxels, axis=None) for end in (np.fmin, np.fmax))  # past any NaN
        return min(slope * float(end) + intercept for end in ends) <= MOST_AIR_HU


_open: WeakValueDictionary[tuple[Path, tuple[int, int]], Volume] = WeakValueDictionary()
_opening, _reading = threading.Lock(), threading.Lock()


def open_volume(path: Path, stamp: tuple[int, int]) -> Volume:
    """The volume of a file; the readers of all threads share one as long as any of them has it.

    Raises:
        Refusal: damaged, not three-dimensional, its values are not numbers, or nibabel is not installed.
    """
    with _opening:
        volume = _open.get((path, stamp))
        if volume is None:
            volume = _open[path, stamp] = _volume(path)
        return volume


def _volume(path: Path) -> Volume:
    try:
        nibabel: Any = require("nibabel", EXTRA)
    except MissingDependencyError as error:  # costs this file, not those beside it
        raise Refusal(Reason.MISSING_PACKAGE, str(error)) from None
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is one, too
            raise Refusal(Reason.CORRUPT_HEADER, "not a NIfTI file")
        shape = image.shape
        if len(shape) < 3 or any(size != 1 for size in shape[3:]) or 0 in shape:
            raise Refusal(Reason.BAD_DIMENSIONS, f"its shape is {list(shape)}, not one volume [X,Y,Z]")
        if image.get_data_dtype().kind not in "iuf":
            raise Refusal(Reason.UNSUPPORTED_PIXEL_FORMAT, f"its values are {image.get_data_dtype()}")
        own = nibabel.orientations.io_orientation(image.affine)
        if np.isnan(own).any():
            raise Refusal(Reason.CORRUPT_HEADER, "its affine says nothing of one of the axes")
        turn = nibabel.orientations.ornt_transform(own, nibabel.orientations.axcodes2ornt(AXES))
        unit = MM.get(image.header.get_xyzt_units()[0], 1.0)
        turned = image.affine @ nibabel.orientations.inv_ornt_aff(turn, shape[:3])
        to_patient = np.diag([-unit, -unit, unit, 1.0]) @ turned  # NIfTI counts to the right and to the front
        sizes = tuple(int(shape[axis]) for axis in np.argsort(turn[:, 0]))
    except (nibabel.filebasedimages.ImageFileError, ValueError, EOFError, zlib.error) as error:
        raise Refusal(Reason.CORRUPT_HEADER, " ".join(str(error).split())[:200]) from None
    return Volume(image, turn, to_patient, sizes)


def read_nifti(source: Source) -> Image:
    """The slices of a file, without its voxels.

    Raises:
        Refusal: see `open_volume`.
        OSError: it cannot be read.
    """
    found = os.stat(source.file)  # noqa: PTH116 - as `Opener` does
    stamp = (found.st_size, found.st_mtime_ns)
    volume = open_volume(source.file, stamp)
    columns, rows, count = volume.shape
    axes = [volume.to_patient[:3, axis] for axis in range(3)]
    steps = [round(float(np.linalg.norm(axis)), DIGITS) for axis in axes]
    orientation = tuple(float(value) for axis in (0, 1) for value in axes[axis] / steps[axis])
    uid = _uid(source.path)
    first = plain_ref(
        source.path, 1, (rows, columns), (steps[1], steps[0]), thickness_mm=steps[2], stamp=stamp
    )
    slope, intercept = volume.scale

    def ref(index: int) -> SliceRef:
        place = np.round(volume.to_patient[:3, 3] + index * axes[2], DIGITS)
        return replace(
            first,
            frame=index + 1,
            instance_number=index + 1,
            sop_instance_uid=uid,
            image_position=(float(place[0]), float(place[1]), float(place[2])),
            image_orientation=orientation,
            slope=slope,
            intercept=intercept,
            source=source,
            flags=() if is_axial(orientation, product("ORIGINAL")) else ("non_axial",),
        )

    return Image(
        study_instance_uid=uid,
        series_instance_uid=uid,
        slices=tuple(ref(index) for index in range(count)),
        others=(),
        tilt=0.0,
        protocol={**dict.fromkeys(NAMES), "slice_thickness_mm": steps[2]},
        header=SourceHeader((), b"", explicit=True, little=True),
    )


def load_slice(volume: Volume, ref: SliceRef) -> NDArray[np.float32]:
    """HU [H,W] of a slice.

    Raises:
        Refusal: the voxels are damaged, or no HU.
    """
    try:
        with _reading:  # or every thread would read all of it
            is_ct = volume.reaches_air
        if not is_ct:
            raise Refusal(Reason.NOT_HU, f"no voxel is below {MOST_AIR_HU:g}: a mask, a map or MR")
        stored = volume.voxels[:, :, (ref.frame or 1) - 1].T
    except (ValueError, EOFError, zlib.error) as error:
        raise Refusal(Reason.CORRUPT_PIXEL_DATA, " ".join(str(error).split())[:200]) from None
    if stored.dtype.kind == "f":
        stored = np.nan_to_num(stored, nan=(MOST_AIR_HU - 824.0 - ref.intercept) / ref.slope)
    return to_hu(stored, ref.layout, ref.slope, ref.intercept)


def _uid(path: Path) -> str:
    """Stands for the UIDs a NIfTI file does not have, always the same for a path (PS3.5 B.2)."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(path))).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"
