"""Self-consistency on patients: inserted to a dose D, the model-free noise has risen by 1/sqrt(D)."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from n2q_edge.dicom import LoadedSlice, iter_slices, scan
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.simulation.noise import inserted_noise, noise_basis, normals

SHARED = Path(__file__).resolve().parents[3] / "shared"
SERIES = [  # soft, standard, sharp; noise of 5 to 50 HU
    "ct/tcga-lihc",
    "ct2/colorectal-liver-metastases/CRLM-CT-1004",
    "ct2/lctsc/LCTSC-Train-S1-005",
    "ct2/lung-pet-ct-dx",
    "ct2/cptac-pda",
]


@pytest.mark.parametrize("series", SERIES)
def test_the_noise_level_rises_as_the_dose_says(series: str) -> None:
    folder = SHARED / series
    if not folder.is_dir():
        pytest.skip("the sample data are not here")
    slices = [item for item in iter_slices(scan([folder]).series[0]) if isinstance(item, LoadedSlice)]
    rises = []
    for number, loaded in enumerate(slices[:: max(1, len(slices) // 3)][:3]):
        spacing = loaded.pixel_spacing_mm
        assert spacing is not None
        rng = np.random.default_rng(number)
        low = loaded.hu + inserted_noise(noise_basis(loaded.hu, spacing[0], normals(rng)), 0.25, rng)
        body = body_mask(loaded.hu, spacing)
        before = global_noise_level(loaded.hu, body, spacing)
        after = global_noise_level(low, body, spacing)
        assert before
        assert after
        rises.append(after / before)
    assert np.median(rises) == pytest.approx(2.0, rel=0.15)
