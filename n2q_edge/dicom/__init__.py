"""DICOM CT in: find series, order their slices, decode them to HU. DICOM out is `n2q_edge.dicom_out`."""

from n2q_edge.dicom.reader import SliceReader, iter_slices
from n2q_edge.dicom.reasons import Reason, Rejected, Skipped
from n2q_edge.dicom.records import (
    SERIES_FLAGS,
    SLICE_FLAGS,
    UNLIKE_AXIAL_HU,
    Exposure,
    Inventory,
    LoadedSlice,
    Series,
    SliceRef,
    Source,
)
from n2q_edge.dicom.scan import scan

__all__ = [
    "SERIES_FLAGS",
    "SLICE_FLAGS",
    "UNLIKE_AXIAL_HU",
    "Exposure",
    "Inventory",
    "LoadedSlice",
    "Reason",
    "Rejected",
    "Series",
    "Skipped",
    "SliceReader",
    "SliceRef",
    "Source",
    "iter_slices",
    "scan",
]
