"""Modality Performed Procedure Step (PS3.4 F): a step that is completed closes the series it names.

Steps live in memory: one that is lost with its process only means that a series waits for its quiet time.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Any

from pydicom.dataset import Dataset

from n2q_edge.service.spool import Spool

log = logging.getLogger("n2q_edge.receiver")

SUCCESS, NO_SUCH_INSTANCE, DUPLICATE, MISSING = 0x0000, 0x0112, 0x0111, 0x0120
MOST = 1000


class Steps:
    """The handlers of N-CREATE and N-SET."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._steps: OrderedDict[str, Dataset] = OrderedDict()
        self._lock = threading.Lock()

    def create(self, event: Any) -> tuple[int, Dataset | None]:
        """Begin a step."""
        uid = event.request.AffectedSOPInstanceUID
        if uid is None:
            return MISSING, None
        with self._lock:
            if str(uid) in self._steps:
                return DUPLICATE, None
            self._steps[str(uid)] = step = event.attribute_list
            while len(self._steps) > MOST:
                self._steps.popitem(last=False)
        return SUCCESS, step

    def set(self, event: Any) -> tuple[int, Dataset | None]:
        """Change a step."""
        with self._lock:
            step = self._steps.get(str(event.request.RequestedSOPInstanceUID))
        if step is None:
            return NO_SUCH_INSTANCE, None
        step.update(event.modification_list)
        if str(step.get("PerformedProcedureStepStatus", "")).strip() == "COMPLETED":
            self._close(step)
        return SUCCESS, step

    def _close(self, step: Dataset) -> None:
        series = [
            str(each.get("SeriesInstanceUID", "")) for each in step.get("PerformedSeriesSequence") or []
        ]
        for uid in filter(None, series):
            self._spool.ask_to_close(uid)
        log.info("procedure step completed", extra={"series": len(series)})
