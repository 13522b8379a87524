"""Storage commitment (PS3.4 J) as SCU: ask the archive whether it keeps our results for good.

The answer may come on another association, so the receiver writes it down and the outbox reads it. We never
offer commitment as an SCP: a scanner might delete images on our word.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from n2q_edge.errors import N2QError
from n2q_edge.files import write_text

log = logging.getLogger("n2q_edge.receiver")

SUCCESS, FAILED = 0x0000, 0x0110
REQUEST, ALL_STORED = 1, 1  # Action Type ID, Event Type ID


def answer_file(data: Path, transaction_uid: str) -> Path:
    """Where the answer to a request is written."""
    return data / "commitments" / f"{hashlib.sha256(transaction_uid.encode()).hexdigest()[:24]}.json"


def receiver(data: Path) -> Callable[[Any], tuple[int, Dataset | None]]:
    """The handler of N-EVENT-REPORT."""

    def on_report(event: Any) -> tuple[int, Dataset | None]:
        return record(data, event.event_information, event.event_type), None

    return on_report


def record(data: Path, information: Dataset, event_type: int) -> int:
    """Write an answer down, if it is one to a request of ours."""
    file = answer_file(data, str(information.get("TransactionUID", "")))
    if not file.exists():
        return FAILED  # nobody asked
    failed = [str(each.ReferencedSOPInstanceUID) for each in information.get("FailedSOPSequence") or []]
    try:
        write_text(
            file, json.dumps({"committed": event_type == ALL_STORED and not failed, "failed": len(failed)})
        )
    except N2QError as error:
        log.error("cannot keep a storage commitment", extra={"error": str(error)})
        return FAILED
    return SUCCESS


def expect(data: Path, transaction_uid: str) -> None:
    """Let `record` know that a request is under way."""
    file = answer_file(data, transaction_uid)
    file.parent.mkdir(exist_ok=True)
    write_text(file, "{}")


def answer(data: Path, transaction_uid: str) -> bool | None:
    """Whether everything is kept; None if there is no answer yet."""
    try:
        content = json.loads(answer_file(data, transaction_uid).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    committed = content.get("committed")
    return bool(committed) if committed is not None else None


def forget(data: Path, transaction_uid: str) -> None:
    """The request is settled."""
    answer_file(data, transaction_uid).unlink(missing_ok=True)


def request(transaction_uid: str, instances: list[tuple[str, str]]) -> Dataset:
    """The action information of a request; instances are (SOP class, SOP instance)."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    for sop_class, instance in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        information.ReferencedSOPSequence.append(item)
    return information
