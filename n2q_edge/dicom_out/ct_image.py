"""CT Image Storage out: pixels from HU, copies derived from another image, whole files.

Pixels are signed 16-bit with slope 1 and intercept -1024, in Explicit VR Little Endian.
"""

from __future__ import annotations

from copy import deepcopy
from io import BytesIO
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from n2q_edge.arrays import FloatArray
from n2q_edge.files import write_file

RESCALE_INTERCEPT = -1024
STORED_MIN, STORED_MAX = -32768, 32767  # signed 16-bit

# Attributes that describe the source's pixel values or their encoding, and would be wrong on the copy's.
STALE_WITH_NEW_PIXELS = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "IconImageSequence",
)


def stable_uid(*parts: object) -> UID:
    """The same UID for the same parts, ever: a name-based UUID under the root 2.25 (PS3.5 B.2)."""
    name = "n2q-edge/" + "/".join(str(part) for part in parts)
    return UID(f"2.25.{uuid5(NAMESPACE_OID, name).int}")


def set_pixels(dataset: Dataset, hu: FloatArray) -> None:
    """Make `hu` the image of a dataset: pixel data, image pixel module and rescale.

    Args:
        dataset: changed in place.
        hu: [rows, columns], HU; rounded to whole HU and clipped to [-33792, 31743], what the pixels can hold.
    """
    stored = np.clip(np.rint(hu) - RESCALE_INTERCEPT, STORED_MIN, STORED_MAX).astype("<i2")
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleIntercept = RESCALE_INTERCEPT
    dataset.RescaleSlope = 1
    dataset.RescaleType = "HU"
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"  # pydicom only guesses it for a data set that it read with pixels


def derived_copy(
    source: Dataset, hu: FloatArray, *, series_instance_uid: str, sop_instance_uid: str, description: str
) -> Dataset:
    """A copy of an image with other pixels, that says what it was made from.

    It stays in the study and in the frame of reference; Image Type becomes DERIVED (PS3.3 C.7.6.1.1.2).

    Args:
        source: the single-frame CT image it derives from; left as it is.
        hu: [rows, columns], HU.
        series_instance_uid: the copy's own series.
        sop_instance_uid: the copy's own instance.
        description: what was done, for Derivation Description.
    """
    copy = deepcopy(source)
    for keyword in STALE_WITH_NEW_PIXELS:
        if keyword in copy:
            delattr(copy, keyword)
    set_pixels(copy, hu)
    source_type = source.get("ImageType") or []
    values = [source_type] if isinstance(source_type, str) else list(source_type)
    copy.ImageType = ["DERIVED", *(values[1:] or ["PRIMARY", "AXIAL"])]
    copy.SeriesInstanceUID = series_instance_uid
    copy.SOPInstanceUID = sop_instance_uid
    copy.DerivationDescription = description
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    copy.SourceImageSequence = [reference]
    return copy


def write_dataset(path: Path, dataset: Dataset) -> None:
    """Write a dataset with native pixels as a DICOM file, whole or not at all.

    Raises:
        OutputError: disk full, no permission, ...
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    write_file(path, buffer.getvalue())
