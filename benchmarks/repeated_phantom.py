"""Inserted noise against the measured noise of a real phantom: neighboring slices of a uniform section.

Two slices of the same section differ by noise alone: the standard deviation of their difference over
sqrt(2 (1 - rho)) is the noise of one, with rho the correlation of neighbors' noise. The insertion is given
one slice and has to arrive at that noise.

    python -m benchmarks.repeated_phantom --data ../shared/phantom
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from n2q_edge.arrays import FloatArray
from n2q_edge.dicom import LoadedSlice, iter_slices, scan
from n2q_edge.machine import describe_machine
from n2q_edge.simulation.calibration import high_band_correlation
from n2q_edge.simulation.noise import noise_basis, normals
from n2q_edge.simulation.patches import NoiseCalibrationError, solid_tissue

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "repeated_phantom.json"
NEIGHBOR_MM = 6.0
COARSE = 8.0  # pixels: shading and differences between sections are coarser
SAME_HU = 4.0  # sections that differ by more, on average over some pixels, are not the same
INNER = 4  # pixels from the border of the phantom's tissue
MIN_PIXELS = 5000
IMAGES = 3


def without_shading(image: FloatArray) -> NDArray[np.float64]:
    exact = image.astype(np.float64)
    return np.asarray(exact - ndimage.gaussian_filter(exact, COARSE))


def correlation(image: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Mean correlation with the next pixel along x and y."""
    return float(
        np.mean([(image * np.roll(image, 1, axis))[mask].mean() / image[mask].var() for axis in (0, 1)])
    )


def measure(first: LoadedSlice, second: LoadedSlice) -> dict[str, float] | None:
    """One pair; None if it is not one uniform section seen twice."""
    mask = ndimage.binary_erosion(solid_tissue(first.hu) & solid_tissue(second.hu), iterations=INNER)
    if mask.sum() < MIN_PIXELS or first.pixel_spacing_mm is None:
        return None
    difference = first.hu - second.hu
    if np.abs(ndimage.gaussian_filter(difference, COARSE))[mask].std() > SAME_HU:
        return None
    pixel_mm = first.pixel_spacing_mm[0]
    try:
        rho = high_band_correlation(first.hu, second.hu, pixel_mm)
        images = [
            image
            for one in (first, second)
            for image in noise_basis(
                one.hu, pixel_mm, normals(np.random.default_rng(0)), quantum=IMAGES
            ).quantum
        ]
    except NoiseCalibrationError:
        return None
    noise = without_shading(difference)
    inserted = [without_shading(image) for image in images]
    true = float(noise[mask].std() / np.sqrt(2 * (1 - rho)))
    return {
        "rho": round(rho, 3),
        "measured_hu": round(true, 2),
        "inserted_over_measured": round(
            float(np.sqrt(np.mean([image[mask].var() for image in inserted]))) / true, 3
        ),
        "measured_correlation": round(correlation(noise, mask), 3),
        "inserted_correlation": round(float(np.mean([correlation(one, mask) for one in inserted])), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    found = []
    for series in scan([parser.parse_args().data]).series:
        slices = [item for item in iter_slices(series) if isinstance(item, LoadedSlice)]
        for first, second in pairwise(slices):
            here, there = first.ref.position_mm, second.ref.position_mm
            if here is None or there is None or there - here > NEIGHBOR_MM:
                continue
            numbers = measure(first, second)
            if numbers:
                found.append({"position_mm": here, **numbers})
                print(found[-1], flush=True)
    medians = {name: round(float(np.median([one[name] for one in found])), 3) for name in found[0]}
    print(medians)
    RESULTS.write_text(
        json.dumps({"machine": describe_machine(), "medians": medians, "pairs": found}, indent=1) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
