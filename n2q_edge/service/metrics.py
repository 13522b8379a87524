"""Everything that is counted, in Prometheus' terms. No label ever holds what a peer says freely.

The processes of a node share their counters through files (PROMETHEUS_MULTIPROC_DIR, set by the supervisor
before this module is imported), so a count survives the process that counted.
"""

from __future__ import annotations

from prometheus_client import Counter, Histogram

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10)
RESULT_SECONDS = (1, 2, 5, 8, 10, 11, 12, 15, 20, 30, 60, 120, 300, 600)

RECEIVED = Counter("n2q_edge_objects_received", "Objects acknowledged, by what became of them", ["kind"])
RECEIVED_BYTES = Counter("n2q_edge_bytes_received", "Bytes of images and dose reports written to the spool")
REFUSED = Counter("n2q_edge_refused", "Objects and associations refused: each may be lost", ["reason"])
ASSOCIATIONS = Counter("n2q_edge_associations", "Associations accepted")
RESPONSE = Histogram(
    "n2q_edge_response_seconds", "From an object's last byte to its response, fsync included", buckets=SECONDS
)
ASSESSED = Counter("n2q_edge_slices_assessed", "Slices that went through the model", ["outcome"])
SERIES = Counter("n2q_edge_series", "Series closed, every revision", ["verdict"])
RESULT = Histogram(
    "n2q_edge_result_seconds", "From the last slice of a series to its result", buckets=RESULT_SECONDS
)
DUPLICATES = Counter("n2q_edge_duplicates", "Objects that were here before", ["kind"])
LOOPS = Counter("n2q_edge_own_results_dropped", "Our own results, sent back to us")
DOSES = Counter("n2q_edge_dose_reports", "Dose reports", ["outcome"])
DELIVERIES = Counter("n2q_edge_deliveries", "Attempts to deliver a result", ["destination", "outcome"])
RESTARTS = Counter("n2q_edge_restarts", "Processes that died and were started again", ["process"])
WATCHED = Counter("n2q_edge_watched_files", "Files of the watch folder", ["outcome"])
