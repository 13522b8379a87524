"""Secondary Capture (PS3.3 A.8.1): the quality map in colour, for viewers that show no parametric maps.

The slice in the model's window, the colours of the quality map laid over the body, a colour bar, and one
line with the scores. Nothing of it identifies the patient, so Burned In Annotation is NO.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from n2q_edge.dicom_out.codes import SOURCE_IMAGE
from n2q_edge.dicom_out.parametric_map import coded, decimals
from n2q_edge.dicom_out.source_header import (
    NotWrittenError,
    SourceContext,
    SourceSlice,
    checking_source,
    equipment,
    finish,
    silent,
)
from n2q_edge.errors import require
from n2q_edge.quality.scores import BoolArray, FloatArray

RgbArray: TypeAlias = NDArray[np.uint8]

COLOURS = "viridis"  # the report's: perceptually uniform, safe for colour-blind readers
OPACITY = 0.45
DESCRIPTION = "N2Q quality overlay"


def overlay(
    hu: FloatArray, quality_map: FloatArray, body: BoolArray, window: tuple[float, float], caption: str
) -> RgbArray:
    """The picture of a slice.

    Args:
        hu: [H,W], Hounsfield units.
        quality_map: [H,W], predicted SSIM; 0 is the darkest colour, 1 the brightest.
        body: [H,W]; colour is laid over these pixels only.
        window: centre and width in HU.
        caption: one line, ASCII.

    Returns:
        uint8 [H,W,3], RGB.
    """
    centre, width = window
    grey = np.clip((hu - (centre - width / 2)) / width, 0, 1) * 255
    picture = np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
    levels = np.clip(np.rint(quality_map[body] * 255), 0, 255).astype(np.uint8)
    tints = np.float32(OPACITY) * _palette()
    picture[body] = np.rint(np.float32(1 - OPACITY) * grey[body][:, None] + tints[levels]).astype(np.uint8)
    return _annotated(picture, caption)


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.uint8]:
    """RGB [256,3] of quality 0 to 1."""
    from matplotlib import colormaps

    palette: NDArray[np.uint8] = (colormaps[COLOURS](np.arange(256), bytes=True))[:, :3]
    return palette


def _annotated(picture: RgbArray, caption: str) -> RgbArray:
    """Add the caption at the top left and the colour bar at the right edge, outside of most bodies."""
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    if min(height, width) < 128:  # no room; the picture says enough
        return picture
    bar_height, bar_width = height // 3, max(6, width // 64)
    top, left = (height - bar_height) // 2, width - 2 * bar_width
    picture[top : top + bar_height, left : left + bar_width] = _palette()[
        np.linspace(255, 0, bar_height).astype(np.uint8)
    ][:, None]
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = max(10, height // 42)
    draw.text((size // 2, size // 2), caption, fill="white", font_size=size)
    draw.text((left + bar_width, top - size // 2), "SSIM 1", fill="white", font_size=size, anchor="rs")
    draw.text(
        (left + bar_width, top + bar_height + size // 4), "0", fill="white", font_size=size, anchor="rt"
    )
    return np.asarray(image)


@silent()
def secondary_capture(
    context: SourceContext,
    item: SourceSlice,
    picture: RgbArray,
    *,
    series_instance_uid: str,
    sop_instance_uid: str,
    series_number: int,
    instance_number: int,
) -> Dataset:
    """The picture of a slice as a Secondary Capture that names its source, and lies where it lies.

    Args:
        context: of the source series.
        item: the source slice.
        picture: uint8 [H,W,3], RGB.
        series_instance_uid: of the overlay's series.
        sop_instance_uid: of the overlay.
        series_number: of the overlay's series.
        instance_number: in the overlay's series.

    Raises:
        MissingDependencyError: highdicom is not installed.
        NotWrittenError: `no_geometry`, `invalid_source`.
    """
    hd = require("highdicom", "dicom")
    ref = item.ref
    if ref.image_orientation is None or ref.position_mm is None:
        raise NotWrittenError(
            "no_geometry", "the slice has no usable Image Orientation and Position (Patient)"
        )
    orientation = [_letters(ref.image_orientation[start : start + 3]) for start in (0, 3)]
    with checking_source():
        dataset: Dataset = hd.sc.SCImage.from_ref_dataset(
            ref_dataset=context.header,
            pixel_array=picture,
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=series_instance_uid,
            series_number=series_number,
            sop_instance_uid=sop_instance_uid,
            instance_number=instance_number,
            patient_orientation=[letters[0] for letters in orientation],  # highdicom knows no oblique ones
            pixel_spacing=ref.pixel_spacing_mm,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_description=DESCRIPTION,
            specific_character_set=None,
            **equipment(),
        )
    dataset.PatientOrientation = orientation
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "NO"
    dataset.DerivationDescription = DESCRIPTION
    dataset.Laterality = ""  # a slice is of both sides; the module wants the attribute
    dataset.LossyImageCompression = context.header.LossyImageCompression
    source = Dataset()
    source.ReferencedSOPClassUID = item.sop_class_uid
    source.ReferencedSOPInstanceUID = ref.sop_instance_uid
    if ref.frame is not None:
        source.ReferencedFrameNumber = ref.frame
    source.PurposeOfReferenceCodeSequence = [coded(SOURCE_IMAGE)]
    dataset.SourceImageSequence = [source]
    if item.frame_of_reference_uid and ref.image_position and ref.pixel_spacing_mm:
        # Standard Extended (PS3.2 3.11.4): viewers then link the overlay with the CT as they scroll.
        dataset.FrameOfReferenceUID = item.frame_of_reference_uid
        dataset.PositionReferenceIndicator = context.header.get("PositionReferenceIndicator", "")
        dataset.ImagePositionPatient = decimals(ref.image_position)
        dataset.ImageOrientationPatient = decimals(ref.image_orientation)
        dataset.SliceThickness = ref.slice_thickness_mm or None
    finish(dataset, context)
    return dataset


def _letters(direction: tuple[float, ...]) -> str:
    """The patient's direction a row or column runs to (PS3.3 C.7.6.1.1.1): `L`, or `LA` if it is oblique."""
    named = [
        (abs(cosine), letters[cosine < 0])
        for cosine, letters in zip(direction, ("LR", "PA", "HF"), strict=True)
        if abs(cosine) > 0.05
    ]
    return "".join(letter for _, letter in sorted(named, reverse=True))
