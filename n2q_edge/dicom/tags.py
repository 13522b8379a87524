"""The DICOM elements the scan reads, by their keywords (PS3.6)."""

from __future__ import annotations

SPECIFIC_CHARACTER_SET = 0x00080005
IMAGE_TYPE = 0x00080008
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
MODALITY = 0x00080060
MANUFACTURER = 0x00080070
STATION_NAME = 0x00081010
SERIES_DESCRIPTION = 0x0008103E
MODEL_NAME = 0x00081090
PATIENT_ID = 0x00100020
BODY_PART = 0x00180015
SLICE_THICKNESS = 0x00180050
KVP = 0x00180060
PROTOCOL_NAME = 0x00181030
GANTRY_TILT = 0x00181120
EXPOSURE_TIME = 0x00181150
TUBE_CURRENT = 0x00181151
EXPOSURE = 0x00181152
CONVOLUTION_KERNEL = 0x00181210
SPIRAL_PITCH_FACTOR = 0x00189311
CTDI_VOL = 0x00189345
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
ACQUISITION_NUMBER = 0x00200012
INSTANCE_NUMBER = 0x00200013
IMAGE_POSITION = 0x00200032
IMAGE_ORIENTATION = 0x00200037
FRAME_OF_REFERENCE_UID = 0x00200052
SAMPLES_PER_PIXEL = 0x00280002
PHOTOMETRIC_INTERPRETATION = 0x00280004
NUMBER_OF_FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
PIXEL_SPACING = 0x00280030
BITS_ALLOCATED = 0x00280100
BITS_STORED = 0x00280101
HIGH_BIT = 0x00280102
PIXEL_REPRESENTATION = 0x00280103
PIXEL_PADDING_VALUE = 0x00280120
PIXEL_PADDING_LIMIT = 0x00280121
RESCALE_INTERCEPT = 0x00281052
RESCALE_SLOPE = 0x00281053
RESCALE_TYPE = 0x00281054
LOSSY_COMPRESSION = 0x00282110

MEDIA_SOP_CLASS_UID = 0x00020002
MEDIA_SOP_INSTANCE_UID = 0x00020003
TRANSFER_SYNTAX_UID = 0x00020010

# Elements of functional groups only (PS3.3 C.7.6.16, C.8.15.3).
FRAME_TYPE = 0x00089007
TUBE_CURRENT_MA = 0x00189330
EXPOSURE_MAS = 0x00189332
EXPOSURE_TIME_MS = 0x00189328

SHARED_GROUPS = 0x52009229
FRAME_GROUPS = 0x52009230
DIRECTORY_RECORDS = 0x00041220
REFERENCED_FILE_ID = 0x00041500
DEIDENTIFICATION_CODES = 0x00120064

CLASSIC_PROTOCOL = frozenset({KVP, TUBE_CURRENT, EXPOSURE, EXPOSURE_TIME, CTDI_VOL, CONVOLUTION_KERNEL})
MACROS = {
    0x00289145: frozenset({RESCALE_SLOPE, RESCALE_INTERCEPT, RESCALE_TYPE}),  # Pixel Value Transformation
    0x00209113: frozenset({IMAGE_POSITION}),  # Plane Position
    0x00209116: frozenset({IMAGE_ORIENTATION}),  # Plane Orientation
    0x00289110: frozenset({PIXEL_SPACING, SLICE_THICKNESS}),  # Pixel Measures
    0x00189329: frozenset({FRAME_TYPE}),  # CT Image Frame Type
    0x00189325: frozenset({KVP}),  # CT X-Ray Details
    0x00189321: frozenset({TUBE_CURRENT_MA, EXPOSURE_MAS, EXPOSURE_TIME_MS, CTDI_VOL}),  # CT Exposure
    0x00189314: frozenset({CONVOLUTION_KERNEL}),  # CT Reconstruction
    0x00189308: frozenset({SPIRAL_PITCH_FACTOR}),  # CT Table Dynamics
    0x00189304: frozenset({GANTRY_TILT}),  # CT Acquisition Details
    0x00209170: CLASSIC_PROTOCOL,  # Unassigned Shared Converted Attributes, of legacy converted images
    0x00209171: CLASSIC_PROTOCOL,  # Unassigned Per-Frame Converted Attributes
}
"""Functional group macros that are read, and what of them."""

SOURCE = frozenset(
    {
        0x00080005,  # Specific Character Set
        0x0008001C,  # Synthetic Data
        0x00080020,  # Study Date
        0x00080030,  # Study Time
        0x00080050,  # Accession Number
        0x00080070,  # Manufacturer
        0x00080090,  # Referring Physician's Name
        0x00081030,  # Study Description
        0x00081090,  # Manufacturer's Model Name
        0x00100010,  # Patient's Name
        0x00100020,  # Patient ID
        0x00100021,  # Issuer of Patient ID
        0x00100030,  # Patient's Birth Date
        0x00100040,  # Patient's Sex
        0x00101010,  # Patient's Age
        0x00101020,  # Patient's Size
        0x00101030,  # Patient's Weight
        0x00120062,  # Patient Identity Removed
        0x00120063,  # De-identification Method
        0x00180015,  # Body Part Examined
        0x00181000,  # Device Serial Number
        0x00181020,  # Software Versions
        0x00200010,  # Study ID
        0x00201040,  # Position Reference Indicator
        0x00282112,  # Lossy Image Compression Ratio
        0x00282114,  # Lossy Image Compression Method
    }
)
"""What result objects copy from their source: patient, study and equipment."""

VALUES = SOURCE | frozenset(
    tag
    for name, tag in list(globals().items())
    if name.isupper()
    and isinstance(tag, int)
    and tag not in (SHARED_GROUPS, FRAME_GROUPS, DIRECTORY_RECORDS, DEIDENTIFICATION_CODES)
)
SEQUENCES = frozenset({SHARED_GROUPS, FRAME_GROUPS, DEIDENTIFICATION_CODES})
