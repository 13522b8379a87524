"""Run some inputs of the fuzzer in this process, which a decoder may take down with it."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import signal
import sqlite3
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from n2q_edge.dicom import Inventory, LoadedSlice, Rejected, SliceReader, scan
from n2q_edge.dicom.reasons import UNEXPECTED
from tests.fuzz.mutators import damaged_groups, mutate
from tests.fuzz.seeds import seeds

HANG_SECONDS = 20  # of processor time
MOST_SLICES = 20  # decoded of one input
IN_A_FOLDER = 60  # of the inputs of a chunk, those that the command line assesses together
SOUND = "sound.dcm"
EXPECTED_EXITS = (0, 3, 10)


def main(seed: int, first: int, last: int, state: Path, keep: Path) -> None:
    """Run inputs `first` to `last`; `state` tells how far it came."""
    warnings.simplefilter("error")
    counts: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    sound = seeds()

    def write(number: int) -> None:
        state.write_text(json.dumps({"next": number, "counts": counts, "findings": findings}))

    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        together = folder / "together"
        together.mkdir()
        for number in range(first, last):
            name, how, data = one_input(sound, seed, number)
            path = folder / name
            path.write_bytes(data)
            _limit(HANG_SECONDS)
            write(number)
            try:
                problem = check(path, counts)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            _limit(0)
            if problem:
                keep.mkdir(exist_ok=True)
                (keep / f"{seed}-{number}-{name}").write_bytes(data)
                kind = "crash" if UNEXPECTED in problem or "Error" in problem else "wrong"
                findings.append(
                    {"kind": kind, "input": number, "how": f"{name} {how}", "detail": problem[:300]}
                )
            if number - first < IN_A_FOLDER:
                (together / f"{number}-{name}").write_bytes(data)
            path.unlink()
        write(last)
        (together / SOUND).write_bytes(sound["explicit.dcm"])
        _limit(10 * HANG_SECONDS)
        if problem := assess(together, counts):
            findings.append(
                {"kind": "exit", "input": f"{first}-{first + IN_A_FOLDER}", "detail": problem[:300]}
            )
        counts["assessed_runs"] += 1
        write(last)


def _limit(seconds: int) -> None:
    """End this process when it has used so much processor time; 0 takes the limit back.

    Not by the clock: on a busy machine a sound input may have to wait for its turn.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends it, whatever a decoder is doing


def one_input(sound: dict[str, bytes], seed: int, number: int) -> tuple[str, str, bytes]:
    """File name, mutators and bytes of an input."""
    rng = random.Random(f"{seed}-{number}")
    if number % 3 == 0:
        name = rng.choice([name for name in sorted(sound) if name.startswith("enhanced")])
        return name, damaged_groups.__name__, damaged_groups(sound[name], rng)
    name = rng.choice(sorted(sound))
    how, data = mutate(sound[name], rng)
    if data.startswith(b"PK") and not name.endswith(".zip"):
        name += ".zip"
    return name, how, data


def check(path: Path, counts: Counter[str]) -> str | None:
    """Scan and decode one file; what is wrong with what came of it."""
    inventory = scan([path])
    outcomes: list[LoadedSlice | Rejected] = []
    with SliceReader() as reader:
        for _, ref in zip(range(MOST_SLICES), inventory.slices(), strict=False):
            outcomes.append(reader.load(ref))
    for outcome in (*inventory.rejected, *outcomes):
        if isinstance(outcome, Rejected):
            counts[outcome.reason.value] += 1
            if outcome.detail.startswith(UNEXPECTED):
                return outcome.detail
            if "\n" in outcome.detail or not outcome.detail:
                return f"the detail is not one line: {outcome.detail!r}"
        else:
            counts["assessed"] += 1
            if problem := _implausible(outcome):
                return problem
    counts.update(each.reason.value for each in inventory.skipped)
    return _unaccounted(inventory)


def _implausible(loaded: LoadedSlice) -> str | None:
    ref = loaded.ref
    numbers = [*(ref.image_position or ()), *(ref.image_orientation or ()), *(ref.pixel_spacing_mm or ())]
    numbers += [value for value in (ref.position_mm, ref.slice_thickness_mm) if value is not None]
    if not all(math.isfinite(value) and abs(value) < 1e6 for value in numbers):
        return f"an implausible number in {ref}"
    if not np.isfinite(loaded.hu).all() or loaded.hu.min() < -1024 or loaded.hu.max() > 3071:
        return "HU out of range"
    return None


def _unaccounted(inventory: Inventory) -> str | None:
    with_slice = {ref.path for ref in inventory.slices()}
    rejected = {each.path for each in inventory.rejected} - with_slice
    skipped = [each for each in inventory.skipped if each.frame is None]
    found = len(with_slice) + len(rejected) + len(skipped)
    return None if found == inventory.files_seen else f"{found} of {inventory.files_seen} files accounted for"


def assess(folder: Path, counts: Counter[str]) -> str | None:
    """Assess a folder with the command line, with report and database; what is wrong with how it ended."""
    from n2q_edge.cli import main as command

    out = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as kept,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        db, report = Path(kept) / "t.sqlite", Path(kept) / "report"
        code = command(["assess", str(folder), "--json", "--db", str(db), "-o", str(report), "--worst", "1"])
        if code not in EXPECTED_EXITS:
            return f"exit code {code}"
        with contextlib.closing(sqlite3.connect(db)) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM slice").fetchone()
        if not (report / "report.html").is_file():
            return "there is no report.html"
    series = json.loads(out.getvalue())["series"]
    known = {
        (each["sop_instance_uid"], each["frame"])
        for one in series
        for each in one["slices"]
        if one["series_instance_uid"] and each["sop_instance_uid"]
    }
    counts["database_rows"] += rows
    if rows != len(known):
        return f"{rows} database rows of {len(known)} slices with UIDs"
    found = any(Path(each["path"]).name == SOUND for one in series for each in one["slices"])
    return None if found else "the sound slice has no result"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
