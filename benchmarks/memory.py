"""Peak memory of `n2q-edge assess -o` against the number of slices, or of series: it must not grow.

Each size runs in a fresh process on a series of that many slices (one phantom slice, copied with new UIDs and
positions). Peak is the process's high-water mark as the kernel counted it. 5,000 slices take 2.6 GB of the
temporary folder for a while.

    python -m benchmarks.memory --slices 50 --slices 500 --json benchmarks/results/memory-NAME.json
    python -m benchmarks.memory --series 50 --series 1000   # of one slice each
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pydicom
from pydicom.uid import UID

from n2q_edge.machine import describe_machine

UID_ROOT = "1.2.826.0.1.3680043.8.498."


def make_slices(source: Path, folder: Path, count: int, *, of_one_series: bool) -> None:
    """Copy one slice `count` times, a millimeter apart, as one series or as one each.

    Only the bytes that differ are written anew.
    """
    folder.mkdir()
    template = pydicom.dcmread(source)
    place, mark = "-7777.777", f"{UID_ROOT}{'9' * 20}"
    template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = UID(mark)
    series_mark = f"{UID_ROOT}{'8' * 20}"
    template.SeriesInstanceUID = UID(series_mark)
    template.ImagePositionPatient = [*template.ImagePositionPatient[:2], place]
    written = io.BytesIO()
    template.save_as(written)
    whole = written.getvalue()
    start = max(whole.rindex(text.encode()) + len(text) for text in (place, series_mark))
    header, rest = whole[:start], whole[start:]
    for number in range(count):
        uid = f"{UID_ROOT}{number:020d}"
        series = f"{UID_ROOT}{(0 if of_one_series else number) + 10**19:020d}"
        changed = header.replace(mark.encode(), uid.encode()).replace(place.encode(), b"%09.3f" % number)
        changed = changed.replace(series_mark.encode(), series.encode())
        (folder / f"{number:05d}.dcm").write_bytes(changed + rest)


def peak_mib(series: Path, out: Path, options: list[str]) -> float:
    """Assess the series in a fresh process; its peak resident memory in MiB."""
    command = [sys.executable, "-m", "n2q_edge", "assess", str(series), "-o", str(out), "--quiet", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, action="append", help="a series length; repeatable")
    parser.add_argument("--series", type=int, action="append", help="a number of series; repeatable")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--dicom", action="store_true", help="write the DICOM objects, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = options.series or options.slices or [50, 500, 5000]
    what = "series" if options.series else "slices"
    extra = ["--runtime", options.runtime, *(["--dicom"] if options.dicom else [])]
    peaks: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        phantom = [sys.executable, "-m", "n2q_edge", "phantom", str(root / "phantom"), "--slices", "1"]
        subprocess.run(phantom, check=True, stdout=subprocess.DEVNULL)
        source = next((root / "phantom").rglob("*.dcm"))
        for size in sizes:
            series = root / str(size)
            make_slices(source, series, size, of_one_series=not options.series)
            peaks[size] = peak_mib(series, root / f"out{size}", extra)
            shutil.rmtree(series)
            print(f"{size:6d} {what}  {peaks[size]:8.1f} MiB", flush=True)
    ratio = peaks[max(sizes)] / peaks[min(sizes)]
    print(f"ratio {max(sizes)} : {min(sizes)} {what} = {ratio:.3f}")
    if options.json:
        result = {
            "machine": describe_machine(),
            "runtime": options.runtime,
            "dicom": options.dicom,
            "of": what,
            "peak_mib": peaks,
            "ratio": ratio,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
