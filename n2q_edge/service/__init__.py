"""The DICOM node at the scanner: receive, spool, assess while a series arrives, send the results on."""
