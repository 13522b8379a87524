"""From DICOM folders to training slices with their noise, split by patient (extra `sim`)."""
