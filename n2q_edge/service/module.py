"""A processing step of somebody else's platform: the DICOM files of a folder in, results into a folder out.

    python -m n2q_edge.service.module [IN OUT]

Without arguments the folders are those of mercure (MERCURE_IN_DIR, MERCURE_OUT_DIR), MONAI Deploy
(MONAI_INPUTPATH, MONAI_OUTPUTPATH) or Holoscan (HOLOSCAN_INPUT_PATH, HOLOSCAN_OUTPUT_PATH). The DICOM results
lie in OUT itself, which is where these platforms look for what they send on; OUT/result.json has the numbers,
OUT/KEY/report.html is for people. mercure takes DICOM files and result.json only: it gets no folders.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import n2q_edge
from n2q_edge.errors import ExitCode, N2QError, UsageError
from n2q_edge.files import make_folder, write_text
from n2q_edge.service.assessor import ModelAssessor, open_assessor
from n2q_edge.service.configuration import load
from n2q_edge.service.identify import identify
from n2q_edge.service.spool import series_key

MERCURE = ("MERCURE_IN_DIR", "MERCURE_OUT_DIR")
PLATFORMS = (
    MERCURE,
    ("MONAI_INPUTPATH", "MONAI_OUTPUTPATH"),
    ("HOLOSCAN_INPUT_PATH", "HOLOSCAN_OUTPUT_PATH"),
)


def folders(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Path, Path, bool]:
    """Where to read and write, and whether OUT may hold folders.

    Raises:
        UsageError: nobody says where.
    """
    if len(arguments) == 2:
        return Path(arguments[0]), Path(arguments[1]), True
    for names in PLATFORMS:
        if all(environment.get(name) for name in names):
            return Path(environment[names[0]]), Path(environment[names[1]]), names != MERCURE
    known = ", ".join("/".join(names) for names in PLATFORMS)
    raise UsageError(f"give two folders IN and OUT, or set one of {known}")


def run(source: Path, out: Path, *, with_folders: bool) -> list[dict[str, Any]]:
    """Assess every CT series in `source`.

    Returns:
        What result.json says of each series.

    Raises:
        N2QError: a folder or the model cannot be used.
    """
    if not source.is_dir():
        raise UsageError(f"{source} is no folder")
    make_folder(out)
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(each for each in source.rglob("*") if each.is_file()):
        identity = identify(path)
        if identity and identity.kind == "ct" and not identity.ours:
            groups[identity.series_uid].append(path)
    with open_assessor(load(None)) as assessor:
        series = [_series(assessor, uid, paths, out, with_folders) for uid, paths in groups.items()]
    content = {"n2q_edge_version": n2q_edge.__version__, "series": series}
    write_text(out / "result.json", json.dumps(content, indent=1))
    return series


def _series(
    assessor: ModelAssessor, uid: str, paths: Sequence[Path], out: Path, with_folders: bool
) -> dict[str, Any]:
    key = series_key(uid)
    folder = out / f".{key}"
    folder.mkdir()
    outcomes = [work.result() for work in [assessor.submit(path) for path in paths]]
    written = assessor.write(folder, outcomes, 1, None)
    for each in written.objects:
        (folder / each.file).rename(out / f"{key}_{Path(each.file).name}")
    shutil.rmtree(folder / "dicom", ignore_errors=True)
    if with_folders:
        folder.rename(out / key)
    else:
        shutil.rmtree(folder)
    return {"series_instance_uid": uid, "files": len(paths), **written.summary}


def main() -> int:
    """The exit code."""
    try:
        source, out, with_folders = folders(sys.argv[1:], os.environ)
        series = run(source, out, with_folders=with_folders)
    except N2QError as error:
        print(f"n2q-edge: {error}", file=sys.stderr)
        return int(error.exit_code)
    assessed = sum(bool(each.get("slices")) for each in series)
    return ExitCode.OK if assessed else ExitCode.NOTHING_ASSESSED


if __name__ == "__main__":
    sys.exit(main())
