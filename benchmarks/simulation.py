"""What simulated low doses are worth: noise insertion against scans that count their quanta.

Two phantoms are scanned by a simulation of its own: Poisson counts, electronic noise, logarithm, filtered
back-projection. The low-dose scan counted that way is the truth; `simulation.noise` is given the full-dose
image alone, as it is given a patient's slice, and has to arrive at the same noise. On patients the truth is
not known: there the inserted noise is held against the noise the slices have.

    python benchmarks/simulation.py --data ../shared/ct --json benchmarks/results/simulation.json
    --plot docs/images/simulation.png
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.arrays import FloatArray
from n2q_edge.dicom import LoadedSlice, iter_slices, scan
from n2q_edge.files import write_file
from n2q_edge.machine import describe_machine
from n2q_edge.quality.body import body_mask
from n2q_edge.simulation.noise import (
    DEFAULT_ELECTRONIC_QUANTA,
    WATER_ATTENUATION,
    inserted_noise,
    noise_basis,
    normals,
    relative_fluence,
)
from n2q_edge.simulation.patches import solid_tissue
from n2q_edge.simulation.projector import Geometry, filtered_back_projection, forward_project
from n2q_edge.simulation.series import QUANTA_PER_MM

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Mask = NDArray[np.bool_]
Curve = NDArray[np.float64]

SIZE, PIXEL_MM = 512, 0.75
TISSUE_HU, BONE_HU = 40.0, 700.0
DOSES = (0.05, 0.1, 0.25, 0.5, 0.75)
NPS_DOSE = 0.25
SHOWN_DOSE = 0.1
SCANS = 4
PATCH_MM = 48.0  # a side: of phantoms, where tissue is uniform
SMALL_PATCH = 32  # pixels a side: of patients
COARSE = 3.0  # pixels: what is coarser is anatomy
FLATTEST = 24  # patches of a slice
SLICES = 3  # of a series
BIN = 0.04  # 1/mm, of the radial noise power spectrum
ANATOMY_PER_MM = 0.15  # below it a patch of a patient shows anatomy more than noise
SERIES = (  # patient and kernel in the index of the sample data, and what to call them; all CC BY 3.0
    ("ACRIN-FLT-Breast_001", "SOFT", "GE SOFT, 5 mm"),
    ("TCGA-BC-A3KF", "STANDARD", "GE STANDARD, 5 mm"),
    ("LIDC-IDRI-0002", "STANDARD", "GE STANDARD, 1.25 mm"),
    ("LungFCP-01-0001", "B31f", "Siemens B31f, 2 mm"),
)
COLOURS = {"own, full dose": "#21518c", "inserted": "#c8591c", "counted": "#7a7a7a"}
STYLES = {"own, full dose": "-", "inserted": "--", "counted": ":"}


# -------------------------------------------------------------------------------------------------- phantoms


@dataclass(frozen=True)
class Phantom:
    """An ellipse of tissue in air, perhaps with two rods of bone at its sides.

    Attributes:
        name: of the phantom.
        half_axes_mm: of the ellipse, across and along the patient's depth.
        cutoff: of the scanner's kernel, which the insertion does not know.
        rods: whether there is bone.
    """

    name: str
    half_axes_mm: tuple[float, float]
    cutoff: float
    rods: bool = False

    @cached_property
    def hu(self) -> FloatArray:
        """The phantom without noise, float32 [H,W]."""
        hu = np.where(self._radius < 1, TISSUE_HU, -1000.0)
        if self.rods:
            y, x = _grid_mm()
            hu[np.hypot(np.abs(x) - 0.62 * self.half_axes_mm[0], y) < 18.0] = BONE_HU
        return hu.astype(np.float32)

    @property
    def centre(self) -> Mask:
        """Uniform tissue in the middle, 45 mm in radius."""
        return np.hypot(*_grid_mm()) < 45.0

    @property
    def edge(self) -> Mask:
        """Uniform tissue close to the skin, above and below the centre."""
        _, x = _grid_mm()
        return (self._radius > 0.82) & (self._radius < 0.93) & (np.abs(x) < 0.3 * self.half_axes_mm[0])

    @property
    def _radius(self) -> Curve:
        y, x = _grid_mm()
        return np.hypot(x / self.half_axes_mm[0], y / self.half_axes_mm[1])

    @cached_property
    def _rays(self) -> FloatArray:
        attenuation = WATER_ATTENUATION * (1.0 + self.hu / 1000.0)
        return forward_project(attenuation.astype(np.float32), Geometry.for_image(SIZE, PIXEL_MM))

    def counted(self, dose: float, rng: np.random.Generator, scans: int = SCANS) -> FloatArray:
        """Independent scans, float32 [scans,H,W] in HU. Fewer than one quantum counts as one."""
        geometry = Geometry.for_image(SIZE, PIXEL_MM)
        incident = dose * QUANTA_PER_MM * PIXEL_MM * relative_fluence(geometry)
        shape = (scans, *self._rays.shape)
        counts = rng.poisson(incident * np.exp(-self._rays.astype(np.float64)), shape).astype(np.float64)
        counts += rng.normal(0.0, DEFAULT_ELECTRONIC_QUANTA**0.5, shape)
        rays = np.log(incident / np.maximum(counts, 1.0)).astype(np.float32)
        images = filtered_back_projection(rays, geometry, self.cutoff)
        return np.asarray(images * np.float32(1000.0 / WATER_ATTENUATION) - 1000.0, dtype=np.float32)


PHANTOMS = (
    Phantom("cylinder of 240 mm", (120.0, 120.0), cutoff=0.65),
    Phantom("ellipse of 340 x 230 mm with bone", (170.0, 115.0), cutoff=1.0, rods=True),
)


def _grid_mm() -> Curve:
    return (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2) * PIXEL_MM


def measure_phantom(phantom: Phantom, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the insertion makes of full-dose scans of a phantom; the numbers, and what the figure shows."""
    full = phantom.counted(1.0, rng)
    bases = [noise_basis(image, PIXEL_MM, normals(rng), quantum=2, electronic=1) for image in full]
    rows, shown = [], {}
    for dose in DOSES:
        truth = phantom.counted(dose, rng)
        noise = np.stack([inserted_noise(basis, dose, rng) for basis in bases])
        rows.append(_compare(phantom, dose, full, noise, truth))
        if dose == SHOWN_DOSE:
            shown = {"full": full[0], "inserted": full[0] + noise[0], "counted": truth[0]}
        if dose == NPS_DOSE:
            spectra = {
                name: spectrum(images, phantom)
                for name, images in (("own, full dose", full), ("inserted", noise), ("counted", truth))
            }
    numbers = {
        "kernel_cutoff": phantom.cutoff,
        "full_dose_noise_hu": round(_std(full, phantom.centre), 2),
        "doses": rows,
        "nps": {name: describe(*curve) for name, curve in spectra.items()},
    }
    return numbers, {"name": phantom.name, "spectra": spectra, "rows": rows, **shown}


def _compare(
    phantom: Phantom, dose: float, full: FloatArray, noise: FloatArray, truth: FloatArray
) -> dict[str, Any]:
    """Insertion against counting at one dose; noise in HU, means with their standard error over the scans."""
    centre, edge = phantom.centre, phantom.edge
    low = full + noise
    means = noise[:, centre].mean(axis=1)
    return {
        "dose": dose,
        "law_hu": round(_std(full, centre) / dose**0.5, 2),
        "inserted_hu": round(_std(low, centre), 2),
        "counted_hu": round(_std(truth, centre), 2),
        "inserted_over_counted": round(_std(low, centre) / _std(truth, centre), 3),
        "centre_over_edge": {
            "inserted": round(_std(low, centre) / _std(low, edge), 3),
            "counted": round(_std(truth, centre) / _std(truth, edge), 3),
        },
        "inserted_mean_hu": round(float(means.mean()), 3),
        "inserted_mean_error_hu": round(float(means.std(ddof=1) / len(means) ** 0.5), 3),
        "counted_bias_hu": round(float(truth[:, centre].mean() - full[:, centre].mean()), 2),
    }


def _std(images: FloatArray, mask: Mask) -> float:
    """Standard deviation inside a mask, images pooled by variance."""
    return float(np.sqrt(np.mean([image[mask].var(dtype=np.float64) for image in images])))


# --------------------------------------------------------------------------------------- noise power spectra


def spectrum(images: FloatArray, phantom: Phantom) -> tuple[Curve, Curve]:
    """Radial noise power spectrum of the patches that fit into the centre."""
    side = round(PATCH_MM / PIXEL_MM)
    start = SIZE // 2 - side // 2
    inside = slice(start, start + side)
    return radial([image[inside, inside] for image in images], PIXEL_MM)


def radial(patches: list[FloatArray], pixel_mm: float) -> tuple[Curve, Curve]:
    """Noise power spectrum of square patches, averaged over directions.

    Returns:
        Frequencies in 1/mm, and the power at each in HU^2 mm^2: |FFT|^2 times pixel area over pixels (ICRU
        report 87), of patches without their quadratic trend.
    """
    side = patches[0].shape[0]
    power = np.mean([np.abs(np.fft.fft2(_without_trend(patch))) ** 2 for patch in patches], axis=0)
    power *= pixel_mm**2 / side**2
    axis = np.fft.fftfreq(side, pixel_mm)
    frequency = np.hypot(axis[:, None], axis)
    place = (frequency / BIN).astype(int)
    keep = (frequency < 0.5 / pixel_mm) & (place > 0)  # the trend has taken the lowest frequencies
    counts = np.bincount(place[keep])
    filled = counts > 0
    total = np.bincount(place[keep], power[keep])[filled]
    where = np.bincount(place[keep], frequency[keep])[filled]
    return where / counts[filled], total / counts[filled]


def _without_trend(patch: FloatArray) -> Curve:
    side = patch.shape[0]
    y, x = np.mgrid[:side, :side] / side - 0.5
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    values = patch.astype(np.float64).ravel()
    trend = terms @ np.linalg.lstsq(terms, values, rcond=None)[0]
    return (values - trend).reshape(side, side)


def describe(frequency: Curve, power: Curve, lowest: float = 0.0) -> dict[str, float]:
    """Where a spectrum has its peak and its mean, 1/mm, from a lowest frequency on."""
    frequency, power = frequency[frequency >= lowest], power[frequency >= lowest]
    weight = power * frequency  # a ring at f holds power in proportion to f
    return {
        "peak_per_mm": round(float(frequency[power.argmax()]), 3),
        "mean_per_mm": round(float((weight * frequency).sum() / weight.sum()), 3),
    }


# -------------------------------------------------------------------------------------------------- patients


def measure_series(
    name: str, slices: list[LoadedSlice], rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inserted noise against the own noise of slices of one series."""
    own: list[FloatArray] = []
    inserted: list[FloatArray] = []
    means = []
    pixel_mm = 1.0
    for loaded in slices:
        hu = loaded.hu
        spacing = loaded.pixel_spacing_mm
        assert spacing is not None
        pixel_mm = spacing[0]
        basis = noise_basis(hu, pixel_mm, normals(rng), quantum=2, electronic=1)
        body = body_mask(hu, spacing)
        for dose in DOSES:
            noise = inserted_noise(basis, dose, rng)
            means.append(float(noise[body].mean() / noise[body].std()))
        places = flattest(hu)
        own += [hu[place] for place in places]
        inserted += [image[place] for image in basis.quantum for place in places]
    spectra = {"own, full dose": radial(own, pixel_mm), "inserted": radial(inserted, pixel_mm)}
    numbers = {
        "slices": len(slices),
        "largest_mean_over_std": round(max(map(abs, means)), 4),
        "nps_above_anatomy": {key: describe(*curve, ANATOMY_PER_MM) for key, curve in spectra.items()},
    }
    return numbers, {"name": name, "spectra": spectra}


def flattest(hu: FloatArray) -> list[tuple[slice, slice]]:
    """The patches of soft tissue with the least structure, which do not overlap by more than half."""
    soft = solid_tissue(hu)
    calm = ndimage.gaussian_filter(hu.astype(np.float64), COARSE)
    half = SMALL_PATCH // 2
    found = []
    for row in range(0, hu.shape[0] - SMALL_PATCH, half):
        for column in range(0, hu.shape[1] - SMALL_PATCH, half):
            place = (slice(row, row + SMALL_PATCH), slice(column, column + SMALL_PATCH))
            if soft[place].all():
                found.append((float(calm[place].std()), row, place))
    return [place for _, _, place in sorted(found, key=lambda item: item[:2])[:FLATTEST]]


def read_series(data: Path, patient: str, kernel: str) -> list[LoadedSlice]:
    """The slices of one patient of the sample data's index with the most soft tissue."""
    with (data / "index.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if (row["patient"], row["kernel"]) == (patient, kernel)]
    series = max(scan([data / row["path"] for row in rows]).series, key=lambda one: len(one.slices))
    loaded = [item for item in iter_slices(series) if isinstance(item, LoadedSlice)]
    return sorted(loaded, key=lambda item: -int(solid_tissue(item.hu).sum()))[:SLICES]


# ---------------------------------------------------------------------------------------------------- figure


def draw(phantoms: list[dict[str, Any]], series: list[dict[str, Any]]) -> bytes:
    """PNG: a phantom in three versions; noise over dose; noise power spectra of phantoms and patients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 10.5), layout="constrained")
    parts: Any = figure.subfigures(3, 1, height_ratios=(1.05, 1, 1))
    pictures, curves, patients = parts
    _draw_pictures(pictures.subplots(1, 3), phantoms[-1])
    left, *middle = curves.subplots(1, 1 + len(phantoms))
    _draw_noise(left, phantoms)
    for axes, shown in zip(middle, phantoms, strict=True):
        _draw_spectra(axes, shown["spectra"], shown["name"])
    if series:
        for axes, shown in zip(patients.subplots(1, len(series)), series, strict=True):
            _draw_spectra(axes, shown["spectra"], shown["name"], ANATOMY_PER_MM)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def _draw_pictures(panels: Any, shown: dict[str, Any]) -> None:
    percent = f"{100 * SHOWN_DOSE:g} % of the dose"
    titles = {
        "full": "full dose, counted",
        "inserted": f"{percent}: noise inserted",
        "counted": f"{percent}: counted",
    }
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        axes.imshow(shown[name][90:-90, 20:-20], cmap="gray", vmin=-160, vmax=240, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()


def _draw_noise(axes: Axes, phantoms: list[dict[str, Any]]) -> None:
    looks: dict[str, tuple[str, dict[str, Any]]] = {
        "law_hu": ("full dose / sqrt(D)", {"color": COLOURS["own, full dose"]}),
        "inserted_hu": ("inserted", {"color": COLOURS["inserted"], "marker": "o", "linestyle": "none"}),
        "counted_hu": ("counted", {"color": COLOURS["counted"], "marker": "x", "linestyle": "none"}),
    }
    for index, shown in enumerate(phantoms):
        rows = shown["rows"]
        doses = [100 * row["dose"] for row in rows]
        for key, (label, look) in looks.items():
            values = [row[key] for row in rows]
            axes.plot(doses, values, fillstyle="none", label=None if index else label, **look)
        where = (doses[-1], rows[-1]["law_hu"])
        axes.annotate(
            shown["name"].split()[0], where, (0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([100 * dose for dose in DOSES], [f"{100 * dose:g}" for dose in DOSES])
    ticks = (10, 20, 40, 80, 160)
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("dose, %")
    axes.set_ylabel("noise in the centre, HU")
    _finish(axes, "noise over dose")


def _draw_spectra(
    axes: Axes, spectra: dict[str, tuple[Curve, Curve]], title: str, lowest: float = 0.0
) -> None:
    """Spectra of equal power above the lowest frequency that is noise: their shapes."""
    top = 0.0
    for name, (frequency, power) in spectra.items():
        noise = frequency >= lowest
        power = power / float((power * frequency)[noise].sum())
        top = max(top, float(power[noise].max()))
        axes.plot(frequency, power, color=COLOURS[name], linestyle=STYLES[name], label=name)
    axes.set_ylim(0, 1.35 * top)
    if lowest:
        axes.axvspan(0, lowest, color="#eeeeee", linewidth=0)
        axes.set_xlim(left=0)
        axes.text(lowest / 2, 0.03 * top, "anatomy", rotation=90, ha="center", fontsize=8, color="#777777")
    axes.set_xlabel("spatial frequency, 1/mm")
    axes.set_ylabel("noise power, relative")
    axes.set_yticks([])
    _finish(axes, title)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--data", type=Path, help="the sample data, with its index.csv; without it phantoms alone"
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    phantoms = {phantom.name: measure_phantom(phantom, rng) for phantom in PHANTOMS}
    patients = {}
    for patient, kernel, label in SERIES if arguments.data else ():
        patients[label] = measure_series(label, read_series(arguments.data, patient, kernel), rng)
    document = {
        "phantoms": {name: numbers for name, (numbers, _) in phantoms.items()},
        "patients": {name: numbers for name, (numbers, _) in patients.items()},
        "cpu_seconds": round(time.process_time(), 1),
        "machine": describe_machine(),
    }
    write_file(arguments.json, (json.dumps(document, indent=1) + "\n").encode())
    shown = [[each for _, each in group.values()] for group in (phantoms, patients)]
    write_file(arguments.plot, draw(*shown))
    print(json.dumps({name: document[name] for name in ("phantoms", "patients", "cpu_seconds")}, indent=1))


if __name__ == "__main__":
    main()
