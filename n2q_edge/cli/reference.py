"""`n2q-edge reference`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import note, results
from n2q_edge.errors import ExitCode, UsageError


def reference(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="SERIES", help="Full-dose CT series of your site: folders, files, archives."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The reference file to write, e.g. site.json.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Learn how noisy your site's full-dose scans are, by scanner, protocol and body size.

    Protocols with too few slices or series are refused. The file holds protocols and noise levels, nothing of
    patients. Use it with 'n2q-edge assess --reference site.json'.
    """
    from n2q_edge.assessment.learn_reference import observe, something
    from n2q_edge.cli.progress import ticks
    from n2q_edge.dicom import scan
    from n2q_edge.quality.site_reference import learn, save

    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists: choose another name or add --overwrite")
    with ticks("finding CT slices", None, quiet=quiet) as tick:
        inventory = scan(paths, on_file=tick)
    slices = sum(len(series.slices) for series in inventory.series)
    with ticks("measuring noise", slices, quiet=quiet) as tick:
        learned = learn(observe(inventory, on_slice=tick))
    for refused in () if quiet else learned.refused:
        note(f"refused: {refused}")
    save(out, something(learned, "what was given").entries)
    with results():
        for entry in learned.entries:
            low, high = entry.diameters_mm
            print(
                f"{entry.acquisition.text}: {entry.noise_hu:.1f} HU at {entry.diameter_mm:.0f} mm "
                f"(+-{entry.spread:.0%}), {low:.0f} to {high:.0f} mm, "
                f"{entry.slices} slices of {entry.series} series"
            )
    return int(ExitCode.OK)
