"""What is removed, and when: images some hours after their result is delivered, results some days later."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from n2q_edge.service import outbox
from n2q_edge.service.revisions import Results
from n2q_edge.service.settings import Settings
from n2q_edge.service.spool import Spool


def tidy(settings: Settings, results: Results, spool: Spool, busy: set[str]) -> Iterator[str]:
    """Remove what is old.

    Args:
        settings: the times.
        results: of this node.
        spool: of this node.
        busy: keys of series that have slices without a result; they stay.

    Yields:
        Keys of series whose results are removed.
    """
    now = time.time()
    undelivered = outbox.series_with_deliveries(settings.data) | busy
    for folder in list(results.root.iterdir()):
        key, revision = folder.name, results.newest(folder.name)
        if key in undelivered or not revision:
            continue
        age = now - (results.folder(key, revision) / "manifest.json").stat().st_mtime
        if age > settings.spool.keep_images_h * 3600:
            shutil.rmtree(spool.root / "series" / key, ignore_errors=True)
        if age > settings.spool.keep_results_d * 86400:
            shutil.rmtree(folder, ignore_errors=True)
            yield key
    for name in ("doses", "conflicts"):
        _remove_older(spool.root / name, now - settings.spool.keep_results_d * 86400)


def _remove_older(folder: Path, time_s: float) -> None:
    for path in folder.iterdir():
        if path.stat().st_mtime < time_s:
            path.unlink(missing_ok=True)
