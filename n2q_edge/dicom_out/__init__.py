"""DICOM out: parametric maps, structured report, colour overlays, copies of CT images."""
