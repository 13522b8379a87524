"""What is measured of a slice without a model, before the model sees it: body, noise, size, reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from n2q_edge.arrays import BoolArray
from n2q_edge.assessment.timing import now_ms
from n2q_edge.dicom import LoadedSlice
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.body_size import BodySize, body_size, size_specific_dose
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.quality.noise_texture import mean_frequency
from n2q_edge.quality.reference import Reference, ReferenceNoise, Unknown


@dataclass(frozen=True)
class Measured:
    """One slice without a model.

    Attributes:
        mask: body mask [H,W].
        noise_hu: model-free noise level; None with too little soft tissue.
        noise_frequency: mean frequency of the noise power spectrum, 1/mm; None where it cannot be measured.
        size: of the body; None without a body or a pixel spacing.
        ssde_mgy: size-specific dose estimate for the 32 cm phantom; None without CTDIvol.
        reference: the noise its full-dose twin would have; None if nobody asked.
        milliseconds: that all this took.
    """

    mask: BoolArray
    noise_hu: float | None
    noise_frequency: float | None
    size: BodySize | None
    ssde_mgy: float | None
    reference: ReferenceNoise | Unknown | None
    milliseconds: float


def measure(loaded: LoadedSlice, protocol: Mapping[str, Any], reference: Reference | None) -> Measured:
    """Measure one slice.

    Args:
        loaded: the slice.
        protocol: of its series.
        reference: what knows the noise of full dose, if anything does.
    """
    began = now_ms()
    spacing = loaded.pixel_spacing_mm
    mask = body_mask(loaded.hu, spacing)
    size = body_size(loaded.hu, mask, spacing)
    diameter = size.water_equivalent_diameter_mm if size else None
    ctdivol = loaded.ref.exposure.ctdivol_mgy
    return Measured(
        mask=mask,
        noise_hu=global_noise_level(loaded.hu, mask, spacing),
        noise_frequency=mean_frequency(loaded.hu, mask, spacing),
        size=size,
        ssde_mgy=size_specific_dose(ctdivol, diameter) if ctdivol and diameter else None,
        reference=reference.noise(protocol, diameter) if reference else None,
        milliseconds=now_ms() - began,
    )
