"""Does inserted noise do what the dose says? Every series of the data, its own noise as the measure.

After insertion to a dose fraction D the noise of a slice must have risen by 1/sqrt(D). Two measures that know
nothing of the insertion look: the model-free noise level of the reports (a mode of local deviations), and the
median of squared second differences, which anatomy hardly reaches. Neighbour correlation is that of the
slice above 3 pixels, in the flattest patches, and of the inserted noise in the same patches.

    python -m benchmarks.self_consistency --data ../shared/ct ../shared/ct2
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.marks import fill
from n2q_edge.arrays import FloatArray
from n2q_edge.dicom import LoadedSlice, iter_slices, scan
from n2q_edge.machine import describe_machine
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.simulation.noise import inserted_noise, noise_basis, normals
from n2q_edge.simulation.patches import NoiseCalibrationError, solid_tissue

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "self_consistency.json"
DOSES = (0.5, 0.25, 0.1)
PATCH = 12  # pixels a side
COARSE_MM = 1.2  # standard deviation of the Gaussian that takes anatomy away: half of the power at 0.15/mm
FLATTEST = 0.15  # of the patches
PAGE = ROOT / "docs" / "explanation" / "simulation.md"
BEGIN = "<!-- begin: python -m benchmarks.self_consistency -->"


@dataclass(frozen=True)
class Series:
    """Slices of one folder of an index."""

    folder: Path
    patient: str
    group: str
    split: str
    files: list[Path]


@dataclass(frozen=True)
class Found:
    """One slice: rises over the law by dose and measure, and neighbor correlations along x and y."""

    own_hu: float
    level: dict[str, float]
    differences: dict[str, float]
    own_correlation: tuple[float, float]
    inserted_correlation: tuple[float, float]


def read_index(data: Path) -> Iterator[Series]:
    """The series of an index; slices that were compressed with loss are left out."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with (data / "index.csv").open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if "lossy" not in row["reconstruction"]:
                rows[row["path"].rpartition("/")[0]].append(row)
    for folder, items in rows.items():
        first = items[0]
        maker = first["manufacturer"].split(" ")[0] or "unnamed"
        group = f"{maker} {first['kernel'] or 'unnamed'}"
        yield Series(
            data / folder, first["patient"], group, first["split"], [data / item["path"] for item in items]
        )


def noise_by_differences(image: FloatArray, mask: NDArray[np.bool_]) -> float:
    """Median absolute second difference in both directions (Immerkaer 1996) inside a mask; arbitrary unit."""
    second = np.array([1.0, -2.0, 1.0])
    both = ndimage.convolve1d(ndimage.convolve1d(image.astype(np.float64), second, axis=0), second, axis=1)
    return float(np.median(np.abs(both[mask])))


def coarse(image: FloatArray, pixel_mm: float) -> NDArray[np.float64]:
    """What anatomy may be."""
    return np.asarray(ndimage.gaussian_filter(image.astype(np.float64), COARSE_MM / pixel_mm))


def flat_patches(hu: FloatArray, pixel_mm: float) -> list[tuple[slice, slice]]:
    """Patches of soft tissue with the least coarse structure."""
    soft = solid_tissue(hu)
    structure = ndimage.gaussian_filter(coarse(hu, pixel_mm), COARSE_MM / pixel_mm)
    found = []
    for row in range(0, hu.shape[0] - PATCH + 1, PATCH // 2):
        for column in range(0, hu.shape[1] - PATCH + 1, PATCH // 2):
            place = (slice(row, row + PATCH), slice(column, column + PATCH))
            if soft[place].all():
                found.append((float(structure[place].std()), row, column))
    found.sort()
    keep = max(8, round(FLATTEST * len(found)))
    return [(slice(r, r + PATCH), slice(c, c + PATCH)) for _, r, c in found[:keep]]


def correlation(
    image: FloatArray, patches: list[tuple[slice, slice]], pixel_mm: float
) -> tuple[float, float]:
    """Correlation with the next pixel along x and along y, median over patches."""
    residual = image - coarse(image, pixel_mm)
    found = []
    for rows, columns in patches:
        one = residual[rows, columns]
        variance = (one**2).mean()
        found.append(((one[:, 1:] * one[:, :-1]).mean() / variance, (one[1:] * one[:-1]).mean() / variance))
    across, down = np.median(found, axis=0)
    return float(across), float(down)


def measure(loaded: LoadedSlice, rng: np.random.Generator) -> Found | str:
    """What insertion did to one slice, or why it was not done."""
    hu, spacing = loaded.hu, loaded.pixel_spacing_mm
    if spacing is None:
        return "no spacing"
    body = body_mask(hu, spacing)
    own = global_noise_level(hu, body, spacing)
    if not own:
        return "no model-free noise"
    try:
        basis = noise_basis(hu, spacing[0], normals(rng), quantum=2, electronic=1)
    except NoiseCalibrationError as error:
        return str(error)
    soft = solid_tissue(hu)
    patches = flat_patches(hu, spacing[0])
    if not patches:
        return "no flat patch"
    level, differences = {}, {}
    own_differences = noise_by_differences(hu, soft)
    for dose in DOSES:
        low = hu + inserted_noise(basis, dose, rng)
        level[f"{dose:g}"] = (global_noise_level(low, body, spacing) or 0.0) / own * dose**0.5
        differences[f"{dose:g}"] = noise_by_differences(low, soft) / own_differences * dose**0.5
    inserted = np.mean([correlation(image, patches, spacing[0]) for image in basis.quantum], axis=0)
    return Found(
        own,
        level,
        differences,
        correlation(hu, patches, spacing[0]),
        (float(inserted[0]), float(inserted[1])),
    )


def spread(files: list[Path], count: int) -> list[Path]:
    """`count` of the files, evenly over the series, its ends left out where it is long."""
    if len(files) <= count:
        return files
    places = np.linspace(0, len(files) - 1, count + 2)[1:-1]
    return [files[round(place)] for place in places]


def measure_series(one: Series, slices: int) -> tuple[list[Found], list[str]]:
    """Some slices of a series, and why others were left out."""
    found: list[Found] = []
    reasons: list[str] = []
    for series in scan(spread(one.files, slices)).series:
        for loaded in iter_slices(series):
            if isinstance(loaded, LoadedSlice):
                result = measure(loaded, np.random.default_rng(len(found)))
                if isinstance(result, str):
                    reasons.append(result)
                else:
                    found.append(result)
    return found, reasons


def median_slice(found: list[Found]) -> Found:
    """The medians of a series' slices as one slice."""

    def middle(name: str) -> dict[str, float]:
        return {f"{d:g}": float(np.median([getattr(one, name)[f"{d:g}"] for one in found])) for d in DOSES}

    own, inserted = (
        np.median([getattr(one, name) for one in found], axis=0)
        for name in ("own_correlation", "inserted_correlation")
    )
    return Found(
        float(np.median([one.own_hu for one in found])),
        middle("level"),
        middle("differences"),
        (float(own[0]), float(own[1])),
        (float(inserted[0]), float(inserted[1])),
    )


def table(groups: dict[str, dict[str, Any]]) -> str:
    """The Markdown table of the kernel groups."""
    doses = " / ".join(f"{100 * dose:g}" for dose in DOSES)
    lines = [
        f"| kernel | series | noise level, {doses} % | second differences | correlation: own | inserted |",
        "|---|---:|---|---|---|---|",
    ]
    for name, numbers in groups.items():
        cells = [
            " / ".join(f"{value:.2f}" for value in numbers[key].values()) for key in ("level", "differences")
        ]
        cells += [
            " / ".join(f"{value:.2f}" for value in numbers[key])
            for key in ("own_correlation", "inserted_correlation")
        ]
        lines.append(f"| {name} | {numbers['slices']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def medians(found: list[Found]) -> dict[str, Any]:
    """Medians over slices."""
    return {
        "slices": len(found),
        "own_hu": round(float(np.median([one.own_hu for one in found])), 2),
        **{
            name: {
                f"{dose:g}": round(float(np.median([getattr(one, name)[f"{dose:g}"] for one in found])), 3)
                for dose in DOSES
            }
            for name in ("level", "differences")
        },
        **{
            name: [round(float(v), 3) for v in np.median([getattr(one, name) for one in found], axis=0)]
            for name in ("own_correlation", "inserted_correlation")
        },
    }


def line(name: str, numbers: dict[str, Any]) -> str:
    """One line for a terminal."""
    parts = [" ".join(f"{value:5.2f}" for value in numbers[key].values()) for key in ("level", "differences")]
    return (
        f"{name:44.44s} {numbers['own_hu']:6} | {' | '.join(parts)} |"
        f" {numbers['own_correlation']} {numbers['inserted_correlation']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--slices", type=int, default=2, help="of each series")
    parser.add_argument("--only", default="", help="regular expression for the group")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    groups: dict[str, list[Found]] = defaultdict(list)
    series, left_out = [], []
    for data in options.data:
        for one in read_index(data):
            if not re.search(options.only, one.group):
                continue
            found, reasons = measure_series(one, options.slices)
            left_out += [{"series": one.folder.name, "patient": one.patient, "why": why} for why in reasons]
            if not found:
                print(f"{one.group} {one.patient}: {reasons}", flush=True)
                continue
            numbers = medians(found)
            series.append(
                {
                    "group": one.group,
                    "patient": one.patient,
                    "split": one.split,
                    **numbers,
                    "each": [asdict(item) for item in found],
                }
            )
            groups[one.group].append(median_slice(found))
            print(line(f"{one.group} {one.patient}", numbers), flush=True)
    by_group = {}
    for group, found in sorted(groups.items()):
        by_group[group] = medians(found)
        print(line(f"== {group}", by_group[group]), flush=True)
    result = {"machine": describe_machine(), "groups": by_group, "series": series, "left_out": left_out}
    fill(PAGE, BEGIN, table(by_group))
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
