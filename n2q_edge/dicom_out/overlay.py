"""Secondary Capture (PS3.3 A.8.1): the quality map in color, for viewers that show no parametric maps.

The slice in the model's window with its quality as color over the body, as in the report; a color bar that
says which end is bad, and the scores. Nothing of it identifies the patient, so Burned In Annotation is NO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
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
from n2q_edge.quality.domain import OUT_OF_DOMAIN
from n2q_edge.quality.overlay import Rgb, draw_bar, draw_text, gray, overlay

if TYPE_CHECKING:
    from n2q_edge.assessment.results import SliceImages, SliceResult

DESCRIPTION = "N2Q quality overlay"
SMALLEST_WITH_TEXT = 128  # pixels a side; below it the picture says enough


def overlay_picture(images: SliceImages, window: tuple[float, float], caption: Sequence[str]) -> Rgb:
    """The picture of a slice: its quality as color, caption and color bar in the upper corners.

    Args:
        images: of the slice, [H,W].
        window: center and width in HU.
        caption: lines, ASCII.

    Returns:
        uint8 [H,W,3], RGB.
    """
    picture = overlay(gray(images.hu, window), images.quality_map, images.mask)
    return _annotated(picture, caption) if min(picture.shape[:2]) >= SMALLEST_WITH_TEXT else picture


def caption(result: SliceResult) -> list[str]:
    """What is burned in: noise first, which needs no model, then the prediction; never a dose class."""
    lines = [f"slice {result.number}"]
    lines += [f"noise {result.noise_hu:.1f} HU"] if result.noise_hu is not None else []
    lines += [f"predicted SSIM {result.quality.mean:.2f}"] if result.quality else ["no body found"]
    lines += ["out of domain"] if OUT_OF_DOMAIN in result.flags else []
    return lines


def _annotated(picture: Rgb, lines: Sequence[str]) -> Rgb:
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = max(10, height // 42)
    for row, line in enumerate(lines):
        draw_text(draw, (size // 2, size // 2 + 1.3 * size * row), line, size)
    right, bar_width = width - size // 2, max(6, width // 40)
    draw_bar(draw, (right - bar_width, size, right, height // 4), size)  # the corner is outside most bodies
    return np.asarray(image)


@silent()
def secondary_capture(
    context: SourceContext,
    item: SourceSlice,
    picture: Rgb,
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
