"""Codes the result objects use: standard ones where DICOM has them, and nine of our own.

The private codes belong to the coding scheme `99N2QEDGE` (PS3.3 8.2: designators that begin with 99 are
private); every object that uses them says so in its Coding Scheme Identification Sequence.
docs/reference/dicom-conformance.md lists them.
"""

from __future__ import annotations

from pydicom.sr.coding import Code

PRIVATE_SCHEME = "99N2QEDGE"
PRIVATE_SCHEME_NAME = "n2q-edge private codes"

# What is measured, where DICOM has no code for it.
PREDICTED_SSIM = Code("N2Q-SSIM", PRIVATE_SCHEME, "Predicted structural similarity to full dose")
FRACTION_BELOW = Code("N2Q-LOW", PRIVATE_SCHEME, "Fraction of pixels below SSIM 0.5")
APPARENT_DOSE = Code("N2Q-DOSE", PRIVATE_SCHEME, "Apparent dose level")
GLOBAL_NOISE = Code("N2Q-GNL", PRIVATE_SCHEME, "Global noise level")
MODEL_NOISE = Code("N2Q-NOISE", PRIVATE_SCHEME, "Predicted noise standard deviation")
SLICES_SCORED = Code("N2Q-SLICES", PRIVATE_SCHEME, "Slices scored")
NOISE_FREQUENCY = Code("N2Q-NPSF", PRIVATE_SCHEME, "Mean frequency of the noise power spectrum")
REFERENCE_NOISE = Code("N2Q-REF", PRIVATE_SCHEME, "Noise of the full-dose reference")
EQUIVALENT_DOSE = Code("N2Q-EQDOSE", PRIVATE_SCHEME, "Equivalent dose relative to the reference")
PRIVATE_CODES = (
    PREDICTED_SSIM,
    FRACTION_BELOW,
    APPARENT_DOSE,
    GLOBAL_NOISE,
    MODEL_NOISE,
    SLICES_SCORED,
    NOISE_FREQUENCY,
    REFERENCE_NOISE,
    EQUIVALENT_DOSE,
)

# PS3.16 annex D.
WATER_EQUIVALENT_DIAMETER = Code("113980", "DCM", "Water Equivalent Diameter")
SIZE_SPECIFIC_DOSE = Code("113930", "DCM", "Size Specific Dose Estimate")
IMAGE_QUALITY = Code("111101", "DCM", "Image Quality")
QUALITY_ASSESSMENT = Code("111050", "DCM", "Quality Assessment")

SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
IMAGE_ANALYSIS = Code("133887000", "SCT", "Computer assisted image analysis for image quality")

# Derivation of a measurement (PS3.16 TID 300): CID 7464 and, for the percentile, CID 7465.
MEAN = Code("373098007", "SCT", "Mean")
MEDIAN = Code("373099004", "SCT", "Median")
MINIMUM = Code("255605001", "SCT", "Minimum")
MODE = Code("373100007", "SCT", "Mode")
FIFTH_PERCENTILE = Code("371888009", "SCT", "5th Percentile Value of population")

# Units, UCUM.
NO_UNITS = Code("1", "UCUM", "no units")
PERCENT = Code("%", "UCUM", "Percent")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
MILLIMETERS = Code("mm", "UCUM", "mm")
PER_MILLIMETER = Code("/mm", "UCUM", "per mm")
MILLIGRAY = Code("mGy", "UCUM", "mGy")
SLICES = Code("{slices}", "UCUM", "slices")

REPORT_TITLE = Code("126000", "DCM", "Imaging Measurement Report")  # CID 7021
CT_PROCEDURE = Code("25045-6", "LN", "CT unspecified body region")  # CID 100

# Finding sites of the tissue classes, by the names in `n2q_edge.quality.regions`.
TISSUES = {
    "lung": Code("39607008", "SCT", "Lung"),
    "fat": Code("55603005", "SCT", "Fat"),
    "soft tissue": Code("87784001", "SCT", "Soft tissue"),
    "bone": Code("272673000", "SCT", "Bone"),
}

# Body Part Examined (0018,0015) as an anatomic region: PS3.16 table L-1, CID 4031.
UNKNOWN_REGION = Code("123037004", "SCT", "Body structure")
REGIONS = {
    "ABDOMEN": Code("818981001", "SCT", "Abdomen"),
    "ABDOMENPELVIS": Code("818982008", "SCT", "Abdomen and Pelvis"),
    "CHEST": Code("816094009", "SCT", "Chest"),
    "CHESTABDOMEN": Code("416550000", "SCT", "Chest and Abdomen"),
    "CHESTABDPELVIS": Code("416775004", "SCT", "Chest, Abdomen and Pelvis"),
    "CSPINE": Code("122494005", "SCT", "Cervical spine"),
    "HEAD": Code("69536005", "SCT", "Head"),
    "HEADNECK": Code("774007", "SCT", "Head and Neck"),
    "HEART": Code("80891009", "SCT", "Heart"),
    "KIDNEY": Code("64033007", "SCT", "Kidney"),
    "LIVER": Code("10200004", "SCT", "Liver"),
    "LSPINE": Code("122496007", "SCT", "Lumbar spine"),
    "LUNG": Code("39607008", "SCT", "Lung"),
    "NECK": Code("45048000", "SCT", "Neck"),
    "PELVIS": Code("816092008", "SCT", "Pelvis"),
    "SPINE": Code("421060004", "SCT", "Spine"),
    "THORAX": Code("816094009", "SCT", "Chest"),
    "TSPINE": Code("122495006", "SCT", "Thoracic spine"),
    "WHOLEBODY": Code("38266002", "SCT", "Entire body"),
}


def anatomic_region(body_part: str | None) -> Code:
    """The region a Body Part Examined names; "Body structure" where it names none that is known."""
    key = "".join(char for char in (body_part or "").upper() if char.isalpha())
    return REGIONS.get(key, UNKNOWN_REGION)
