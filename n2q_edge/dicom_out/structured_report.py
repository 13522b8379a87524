"""Comprehensive SR (PS3.3 A.35.3), template TID 1500: scores of a series, its worst slices and its regions.

One measurement group (TID 1501) each. No image library: building one takes 30 s for 300 slices, and the
evidence sequences name every source image anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from n2q_edge import __version__
from n2q_edge.dicom.segmentation import SegmentReference
from n2q_edge.dicom_out import codes
from n2q_edge.dicom_out.ct_image import stable_uid
from n2q_edge.dicom_out.source_header import (
    MANUFACTURER,
    MODEL_NAME,
    SERIAL_NUMBER,
    SourceContext,
    SourceSlice,
    checking_source,
    equipment,
    finish,
    private_scheme,
    silent,
)
from n2q_edge.errors import require


@dataclass(frozen=True)
class Value:
    """One measurement (TID 300).

    Attributes:
        name: what is measured.
        value: in `unit`.
        unit: its unit.
        derivation: how it sums up many values, if it does: mean, minimum, ...
    """

    name: Code
    value: float
    unit: Code
    derivation: Code | None = None


@dataclass(frozen=True)
class Group:
    """One measurement group.

    Attributes:
        label: Tracking Identifier.
        finding: what the group is about.
        values: its measurements; at least one.
        slices: the images it is measured on; all of the series where none is named.
        site: Finding Site.
        segment: the segment it is measured in.
    """

    label: str
    finding: Code
    values: Sequence[Value]
    slices: Sequence[SourceSlice] = ()
    site: Code | None = None
    segment: SegmentReference | None = None


@dataclass(frozen=True)
class Algorithm:
    """TID 4019.

    Attributes:
        name: of the model.
        version: of the model.
        parameters: what else decides the result; one text, since dcmqi reads only one.
    """

    name: str
    version: str
    parameters: str


@silent()
def structured_report(
    context: SourceContext,
    groups: Sequence[Group],
    algorithm: Algorithm,
    *,
    series_instance_uid: str,
    sop_instance_uid: str,
    series_number: int,
    evidence: Sequence[Dataset] = (),
    verdict: Code | None = None,
    predecessor: Dataset | None = None,
) -> Dataset:
    """The report of a series.

    Args:
        context: of the source series.
        groups: the measurement groups, the series' own first.
        algorithm: what made the numbers.
        series_instance_uid: of the report's series.
        sop_instance_uid: of the report.
        series_number: of the report's series.
        evidence: other objects that belong to the result, such as the maps.
        verdict: one of the standard quality assessments (CID 7022), for the first group.
        predecessor: the report that this one replaces: its Study, Series, SOP Class and Instance UID.

    Raises:
        MissingDependencyError: highdicom is not installed.
        NotWrittenError: `invalid_source`.
    """
    hd = require("highdicom", "dicom")
    sr = hd.sr
    observer = sr.ObserverContext(
        observer_type=Code("121007", "DCM", "Device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=stable_uid("device observer", __version__),
            name=MODEL_NAME,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=SERIAL_NUMBER,
        ),
    )
    content = [
        _group(sr, group, algorithm, context, verdict if index == 0 else None)
        for index, group in enumerate(groups)
    ]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.CT_PROCEDURE,
        imaging_measurements=content,
        title=codes.REPORT_TITLE,
    )
    with checking_source():
        dataset: Dataset = sr.ComprehensiveSR(
            evidence=[*_evidence(context, groups), *evidence],
            content=report[0],
            series_instance_uid=series_instance_uid,
            series_number=series_number,
            sop_instance_uid=sop_instance_uid,
            previous_versions=None if predecessor is None else [predecessor],
            instance_number=1,
            is_complete=True,
            is_final=False,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            series_description="N2Q quality report",
            coding_schemes=[private_scheme()],
            specific_character_set=None,
            **equipment(),
        )
    finish(dataset, context)
    return dataset


def _group(sr: Any, group: Group, algorithm: Algorithm, context: SourceContext, verdict: Code | None) -> Any:
    arguments: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(
            uid=stable_uid("group", context.series_instance_uid, group.label), identifier=group.label
        ),
        "finding_type": group.finding,
        "algorithm_id": sr.AlgorithmIdentification(
            name=algorithm.name,
            version=algorithm.version,
            parameters=[algorithm.parameters],
        ),
        "finding_sites": [sr.FindingSite(group.site)] if group.site else None,
        "measurements": [
            sr.Measurement(name=each.name, value=each.value, unit=each.unit, derivation=each.derivation)
            for each in group.values
        ],
        "qualitative_evaluations": (
            [sr.QualitativeEvaluation(name=codes.QUALITY_ASSESSMENT, value=verdict)] if verdict else None
        ),
    }
    if group.segment is None:
        return sr.MeasurementsAndQualitativeEvaluations(
            **arguments, source_images=[_source_image(sr, item) for item in group.slices] or None
        )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        **arguments,
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=group.segment.sop_class_uid,
            sop_instance_uid=group.segment.sop_instance_uid,
            segment_number=group.segment.number,
            source_series=sr.SourceSeriesForSegmentation(context.series_instance_uid),
        ),
    )


def _source_image(sr: Any, item: SourceSlice) -> Any:
    return sr.SourceImageForMeasurementGroup(
        item.sop_class_uid, item.ref.sop_instance_uid, None if item.ref.frame is None else [item.ref.frame]
    )


def _evidence(context: SourceContext, groups: Sequence[Group]) -> list[Dataset]:
    """The source images, with what a report copies from them, and the segmentations measured in."""
    unique = {item.ref.sop_instance_uid: item for item in context.slices}
    instances = [
        _instance(context, item.sop_class_uid, uid, context.study_instance_uid, context.series_instance_uid)
        for uid, item in unique.items()
    ]
    segmentations = {group.segment.sop_instance_uid: group.segment for group in groups if group.segment}
    return instances + [
        _instance(
            context,
            each.sop_class_uid,
            each.sop_instance_uid,
            each.study_instance_uid,
            each.series_instance_uid,
        )
        for each in segmentations.values()
    ]


def _instance(context: SourceContext, sop_class: str, instance: str, study: str, series: str) -> Dataset:
    dataset = deepcopy(context.header)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, instance
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    return dataset
