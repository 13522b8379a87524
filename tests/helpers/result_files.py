"""Source series of every geometry, a runtime with a noise map, and the programs that judge the results."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from n2q_edge.arrays import FloatArray
from n2q_edge.assessment.results import RunReport
from n2q_edge.assessment.run import assess
from n2q_edge.assessment.slice_result import tissue_regions
from n2q_edge.dicom import scan
from n2q_edge.dicom_out.objects import DicomWriter
from n2q_edge.runtimes.base import Inference
from n2q_edge.spec import ModelSpec
from tests.helpers.fakes import FakeRuntime, phantom, write_slice

SERIES_UID = "1.2.826.0.1.3680043.8.498.1"
HEAD_FIRST = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TILT = np.deg2rad(20)
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(TILT)), float(-np.sin(TILT)))


def quality(hu: FloatArray) -> FloatArray:
    """A map that differs from pixel to pixel and from slice to slice, in [0, 1]."""
    return np.clip((hu + 1024) / 4095, 0, 1).astype(np.float32)


class NoisyRuntime(FakeRuntime):
    """A fake whose noise map is a tenth of the HU above -1024."""

    def __init__(self) -> None:
        super().__init__(quality)

    @property
    def spec(self) -> ModelSpec:
        return replace(super().spec, outputs=("quality_map", "dose_probabilities", "noise_map"))

    def infer(self, hu: FloatArray, reference_noise_hu: FloatArray | None = None) -> Inference:
        return replace(super().infer(hu), noise_map=(hu + 1024) / np.float32(10))


def slice_hu(index: int, size: int = 96) -> FloatArray:
    """A phantom with noise: no two slices are alike; HU at least -1024, as the model sees it."""
    noise = np.random.default_rng(index).normal(0, 20, (size, size))
    return np.maximum(np.rint(phantom(size, 40 + index) + noise), -1024).astype(np.float32)


def write_source(
    folder: Path,
    positions: Sequence[Sequence[float]],
    change: Callable[[int, Dataset], None] = lambda index, dataset: None,
    size: int = 96,
) -> Path:
    """Write a series with its slices at `positions` (x, y, z); its files are named in reverse order."""
    for index, position in enumerate(positions):
        path = folder / f"{len(positions) - index:04d}.dcm"
        dataset = write_slice(path, slice_hu(index, size), 0.0, SERIES_UID)
        dataset.ImagePositionPatient = [float(value) for value in position]
        dataset.InstanceNumber = index + 1
        change(index, dataset)
        dataset.save_as(path, enforce_file_format=True)
    return folder


def along_z(*z: float) -> list[tuple[float, float, float]]:
    return [(-38.0, -38.0, value) for value in z]


def results(
    source: Path, out: Path, runtime: FakeRuntime | None = None, **options: Any
) -> tuple[DicomWriter, RunReport]:
    """Assess everything under `source` and write its DICOM objects."""
    runtime = runtime or NoisyRuntime()
    regions = options.pop("regions", tissue_regions)
    writer = DicomWriter(out, runtime.spec, runtime.describe(), **options)
    with writer:
        assessment = assess(scan([source]), runtime, worst=2, collector=writer, regions=regions)
    return writer, assessment


def read(out: Path, pattern: str) -> list[Dataset]:
    """The objects of a run whose names match, in order of their names."""
    return [pydicom.dcmread(path) for path in sorted((out / "dicom").glob(f"*/{pattern}"))]


def program(name: str) -> str:
    """A program beside this Python or on the PATH; the test is skipped without it."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path) -> str:
    """Everything a program says; it must end well."""
    done = subprocess.run([str(part) for part in command], capture_output=True, timeout=60)
    text = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == 0, text
    return text


def dciodvfy_errors(path: Path) -> list[str]:
    """What David Clunie's verifier calls errors; its exit status counts warnings, too."""
    done = subprocess.run([program("dciodvfy"), str(path)], capture_output=True, timeout=60)
    text = (done.stdout + done.stderr).decode("latin-1")
    assert any(line in text for line in ("ParametricMap", "ComprehensiveSR", "SCImage")), text
    return [line for line in text.splitlines() if line.startswith("Error")]
