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

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.dicom import LoadedSlice, iter_slices, scan
from n2q_edge.machine import describe_machine
from n2q_edge.quality import scores
from n2q_edge.simulation.calibration import FloatArray, NoiseCalibrationError, solid_tissue
from n2q_edge.simulation.noise import inserted_noise, noise_basis, normals

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "self_consistency.json"
DOSES = (0.5, 0.25, 0.1)
SERIES_TOLERANCE, GROUP_TOLERANCE, CORRELATION_TOLERANCE = 0.15, 0.08, 0.05
PATCH = 12  # pixels a side
COARSE = 3.0  # pixels: standard deviation of the Gaussian that takes anatomy away
FLATTEST = 0.25  # of the patches


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
    """One slice: rises over the law by dose and measure, and neighbour correlations along x and y."""

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


def fine(image: FloatArray) -> NDArray[np.float64]:
    """The image without what is coarser than some pixels."""
    exact = image.astype(np.float64)
    return np.asarray(exact - ndimage.gaussian_filter(exact, COARSE))


def flat_patches(hu: FloatArray) -> list[tuple[slice, slice]]:
    """Patches of soft tissue with the least coarse structure."""
    soft = solid_tissue(hu)
    coarse = ndimage.gaussian_filter(hu.astype(np.float64), COARSE)
    found = []
    for row in range(0, hu.shape[0] - PATCH + 1, PATCH // 2):
        for column in range(0, hu.shape[1] - PATCH + 1, PATCH // 2):
            place = (slice(row, row + PATCH), slice(column, column + PATCH))
            if soft[place].all():
                found.append((float(coarse[place].std()), row, column))
    found.sort()
    keep = max(8, round(FLATTEST * len(found)))
    return [(slice(r, r + PATCH), slice(c, c + PATCH)) for _, r, c in found[:keep]]


def correlation(image: FloatArray, patches: list[tuple[slice, slice]]) -> tuple[float, float]:
    """Correlation with the next pixel along x and along y, median over patches."""
    residual = fine(image)
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
    body = scores.body_mask(hu, spacing)
    own = scores.global_noise_level(hu, body, spacing)
    if not own:
        return "no model-free noise"
    try:
        basis = noise_basis(hu, spacing[0], normals(rng), quantum=2, electronic=1)
    except NoiseCalibrationError as error:
        return str(error)
    soft = solid_tissue(hu)
    patches = flat_patches(hu)
    if not patches:
        return "no flat patch"
    level, differences = {}, {}
    own_differences = noise_by_differences(hu, soft)
    for dose in DOSES:
        low = hu + inserted_noise(basis, dose, rng)
        level[f"{dose:g}"] = (scores.global_noise_level(low, body, spacing) or 0.0) / own * dose**0.5
        differences[f"{dose:g}"] = noise_by_differences(low, soft) / own_differences * dose**0.5
    inserted = np.mean([correlation(image, patches) for image in basis.quantum], axis=0)
    return Found(own, level, differences, correlation(hu, patches), (float(inserted[0]), float(inserted[1])))


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


def medians(found: list[Found]) -> dict[str, object]:
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


def line(name: str, numbers: dict[str, object]) -> str:
    """One line for a terminal."""
    level, differences = numbers["level"], numbers["differences"]
    assert isinstance(level, dict)
    assert isinstance(differences, dict)
    parts = [" ".join(f"{value:5.2f}" for value in part.values()) for part in (level, differences)]
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
            groups[one.group].append(found[len(found) // 2])
            print(line(f"{one.group} {one.patient}", numbers), flush=True)
    by_group = {}
    for group, found in sorted(groups.items()):
        by_group[group] = medians(found)
        print(line(f"== {group}", by_group[group]), flush=True)
    result = {"machine": describe_machine(), "groups": by_group, "series": series, "left_out": left_out}
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
