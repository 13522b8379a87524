"""One shard of an archive: which series are its own, and their assessment, resumable."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass

from n2q_edge.assessment.results import Rejection, SliceResult
from n2q_edge.assessment.run import begin
from n2q_edge.dicom import Inventory, Series
from n2q_edge.errors import UsageError
from n2q_edge.files import write_text
from n2q_edge.fleet.folder import ArchiveFolder
from n2q_edge.fleet.rows import Row, Rows
from n2q_edge.runtimes.base import Runtime


@dataclass(frozen=True)
class Shard:
    """Number `index` of `count`, from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `i/n`.

        Raises:
            UsageError: it is not of that form, or i is not in 1...n.
        """
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard {text!r} is not i/n with i from 1 to n, such as 1/4")
        return cls(int(match[1]), int(match[2]))

    def has(self, series_uid: str) -> bool:
        """Whether a series is of this shard: the same on every machine, each series in one shard."""
        digest = hashlib.sha256(series_uid.encode("utf-8")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1


@dataclass
class Done:
    """What a shard did.

    Attributes:
        series: Series Instance UIDs of the shard.
        known: those committed before.
        slices: rows written now.
        rejected: rows of them without a result.
        files_rejected: files of the whole input that could not be read.
    """

    series: int = 0
    known: int = 0
    slices: int = 0
    rejected: int = 0
    files_rejected: int = 0


def assess_shard(
    inventory: Inventory,
    runtime: Runtime,
    folder: ArchiveFolder,
    shard: Shard,
    *,
    with_phi: bool = False,
    batch: int = 1,
    on_outcome: Callable[[SliceResult | Rejection], None] | None = None,
    interruptible: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Done:
    """Assess the series of a shard that are not committed yet, and commit each when its last slice is done.

    Args:
        inventory: all of the input; every shard gets the same.
        runtime: an open model.
        folder: where the parts go.
        shard: which series.
        with_phi: keep the names of protocols.
        batch: slices per inference.
        on_outcome: called after every slice.
        interruptible: as of `assessment.run.assess`. A `KeyboardInterrupt` is passed on; the series at work
            is assessed again next time.

    Raises:
        OutputError: a part cannot be written, or a committed one is damaged.
    """
    rows = Rows(folder.identify, with_phi)
    done = Done(files_rejected=len(inventory.rejected))
    finished = folder.shard_file(shard.index, shard.count)
    finished.unlink(missing_ok=True)
    for uid, group in _by_uid(inventory.series).items():
        if not shard.has(uid):
            continue
        content = _content(group)
        done.series += 1
        if folder.is_done(uid, content):
            done.known += 1
            continue
        found = _assess(uid, group, runtime, rows, batch, on_outcome, interruptible)
        folder.commit(uid, content, found)
        done.slices += len(found)
        done.rejected += sum(row["rejected"] is not None for row in found)
    write_text(finished, json.dumps(asdict(done)) + "\n")
    return done


def pending(inventory: Inventory, folder: ArchiveFolder, shard: Shard) -> int:
    """How many slices a shard has still to do."""
    groups = _by_uid(inventory.series).items()
    return sum(
        sum(len(one.slices) for one in group)
        for uid, group in groups
        if shard.has(uid) and not folder.is_done(uid, _content(group))
    )


def _by_uid(series: Sequence[Series]) -> dict[str, list[Series]]:
    groups: dict[str, list[Series]] = {}
    for one in series:
        groups.setdefault(one.series_instance_uid, []).append(one)
    return groups


def _content(group: Sequence[Series]) -> str:
    """A digest of which slices a series has: one that has got more is assessed again."""
    slices = sorted(f"{ref.sop_instance_uid} {ref.frame}" for one in group for ref in one.slices)
    return hashlib.sha256("\n".join(slices).encode("utf-8")).hexdigest()


def _assess(
    uid: str,
    group: Sequence[Series],
    runtime: Runtime,
    rows: Rows,
    batch: int,
    on_outcome: Callable[[SliceResult | Rejection], None] | None,
    interruptible: Callable[[], AbstractContextManager[None]],
) -> list[Row]:
    """The rows of all slices of one Series Instance UID."""
    found: list[Row] = []
    assessment, outcomes = begin(
        Inventory(tuple(group), (), (), 0), runtime, batch=batch, worst=0, interruptible=interruptible
    )
    with closing(outcomes):
        for outcome in outcomes:
            if isinstance(outcome, SliceResult):
                found.append(rows.assessed(assessment.series[-1], outcome))
            else:
                found.append(rows.rejected(uid, outcome))
            if on_outcome:
                on_outcome(outcome)
    return found
