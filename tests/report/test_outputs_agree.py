"""Every number that is in more than one output is the same in all of them."""

from __future__ import annotations

import csv
import io
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from rich.console import Console

pytest.importorskip("highdicom")

from n2q_edge.assessment.results import RunReport
from n2q_edge.assessment.run import assess
from n2q_edge.dicom import scan
from n2q_edge.dicom_out.objects import DicomWriter
from n2q_edge.quality.policy import Verdict, load_policy
from n2q_edge.report import document, html, slices_csv, table, webhook
from n2q_edge.trends import groups, store
from tests.helpers.drawing import drawn
from tests.helpers.fakes import phantom, write_slice
from tests.helpers.report_content import groups as sr_groups
from tests.helpers.report_content import numbers
from tests.helpers.result_files import NoisyRuntime, read

NOISES_HU = (4.0, 8.0, 16.0, 32.0)


@dataclass
class Outputs:
    assessment: RunReport
    json: dict[str, Any]
    rows: list[dict[str, str]]
    table: str
    page: str
    sr: Dataset
    stored: store.StoredSeries
    trend: dict[str, str]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Four slices, so that a median lies between two of them, with noise that doubles."""
    folder: Path = tmp_path_factory.mktemp("agree")
    for index, noise in enumerate(NOISES_HU):
        generator = np.random.default_rng(index)
        image = phantom(256, 60) + generator.normal(0, noise, (256, 256))
        write_slice(folder / "in" / f"{index}.dcm", image.astype(np.float32), 5.0 * index)
    runtime = NoisyRuntime()
    with DicomWriter(folder, runtime.spec, runtime.describe()) as writer:
        assessment = assess(scan([folder / "in"]), runtime, worst=2, keep_images=True, collector=writer)
    built = document.build(assessment, dicom=writer.series)
    console = Console(file=io.StringIO(), width=80, highlight=False)
    table.render(assessment, console)
    assert isinstance(console.file, io.StringIO)
    store.append(folder / "db.sqlite", assessment)
    (stored,) = store.read(folder / "db.sqlite")
    by = groups.group([stored], ("kernel",), load_policy())
    (sr,) = read(folder, "report.dcm")
    return Outputs(
        assessment,
        built["series"][0],
        list(csv.DictReader(io.StringIO(slices_csv.to_csv(assessment)))),
        console.file.getvalue(),
        "".join(html.html_pieces(built, assessment, drawn(assessment))),
        sr,
        stored,
        next(csv.DictReader(io.StringIO(groups.to_csv(by, ("kernel",))))),
    )


def in_table(outputs: Outputs, pattern: str) -> tuple[float, ...]:
    found = re.search(pattern, outputs.table)
    assert found, outputs.table
    return tuple(float(value) for value in found.groups())


def figure(outputs: Outputs, name: str) -> str:
    """Value and remark of one of the numbers at the top of the page."""
    text = re.sub(r"<[^>]+>", " ", outputs.page)
    found = re.search(rf"{re.escape(name)}\s+(.*?)\s{{2,}}(.*?)\s{{2,}}", text)
    assert found, text[:2000]
    return " ".join(found.groups())


def test_quality(outputs: Outputs) -> None:
    means = [float(row["quality_mean"]) for row in outputs.rows]
    mean, lowest = statistics.fmean(means), min(means)
    summary = outputs.json["summary"]
    series = numbers(sr_groups(outputs.sr)["series"])
    assert len(means) == 4
    assert summary["quality"]["mean"] == pytest.approx(mean, abs=1e-6)
    assert summary["quality"]["min"] == pytest.approx(lowest, abs=1e-6)
    assert [item["quality"]["mean"] for item in outputs.json["slices"]] == means
    assert in_table(outputs, r"mean (\S+), lowest slice (\S+) ") == (round(mean, 3), round(lowest, 3))
    assert figure(outputs, "Predicted SSIM").startswith(f"{mean:.2f}")
    assert f"lowest slice {lowest:.2f}" in figure(outputs, "Predicted SSIM")
    assert series["N2Q-SSIM", "Mean"] == summary["quality"]["mean"]
    assert series["N2Q-SSIM", "Minimum"] == summary["quality"]["min"]
    assert statistics.fmean(outputs.stored.qualities) == pytest.approx(mean, abs=1e-6)
    assert float(outputs.trend["quality_mean"]) == summary["quality"]["mean"]
    assert float(outputs.trend["quality_min"]) == summary["quality"]["min"]


def test_noise(outputs: Outputs) -> None:
    """The median of four is the mean of the middle two, everywhere."""
    noises = sorted(float(row["noise_hu"]) for row in outputs.rows)
    median = (noises[1] + noises[2]) / 2
    assert noises[2] - noises[1] > 4  # or an upper median would pass
    summary = outputs.json["summary"]
    assert summary["noise_hu_median"] == pytest.approx(median, abs=1e-3)
    assert (summary["noise_hu_min"], summary["noise_hu_max"]) == (noises[0], noises[-1])
    assert in_table(outputs, r"noise +(\S+) to (\S+) HU, median ([0-9.]+)") == pytest.approx(
        (noises[0], noises[-1], median), abs=0.05001
    )
    assert figure(outputs, "Noise").startswith(f"{summary['noise_hu_median']:.1f} HU")
    assert numbers(sr_groups(outputs.sr)["series"])["N2Q-GNL", "Median"] == summary["noise_hu_median"]
    assert statistics.median(outputs.stored.noises_hu) == pytest.approx(median, abs=1e-3)
    assert float(outputs.trend["noise_hu_median"]) == summary["noise_hu_median"]


def test_noise_of_the_model(outputs: Outputs) -> None:
    noises = [float(row["model_noise_hu"]) for row in outputs.rows]
    summary = outputs.json["summary"]
    assert summary["model_noise_hu_median"] == pytest.approx(statistics.median(noises), abs=1e-3)
    assert figure(outputs, "Noise by the model").startswith(f"{summary['model_noise_hu_median']:.1f} HU")
    series = numbers(sr_groups(outputs.sr)["series"])
    assert series["N2Q-NOISE", "Median"] == summary["model_noise_hu_median"]


def test_slices_dose_and_flags(outputs: Outputs) -> None:
    summary = outputs.json["summary"]
    series = numbers(sr_groups(outputs.sr)["series"])
    assert summary["slices"] == summary["slices_scored"] == len(outputs.rows) == 4
    assert series["N2Q-SLICES", None] == 4
    assert outputs.trend["slices_scored"] == "4"
    levels = {float(row["dose_level_percent"]) for row in outputs.rows}
    assert summary["dose"] == [{"level": level, "slices": 4} for level in levels]
    assert series["N2Q-DOSE", "Mode"] == levels.pop()
    assert in_table(outputs, r"looks like +(\S+) % dose: (\d+)") == (25, 4)
    flags = [flag for row in outputs.rows for flag in row["flags"].split()]
    assert summary["flags"] == {flag: flags.count(flag) for flag in flags}
    assert flags
    assert all(f"{flag} (in {count})" in outputs.table for flag, count in summary["flags"].items())


def test_worst_slices(outputs: Outputs) -> None:
    worst = outputs.json["summary"]["worst"]
    rows = outputs.table.split("worst slices")[1].splitlines()[2 : 2 + len(worst)]
    assert len(worst) == 2
    assert [int(row.split()[0]) for row in rows] == worst
    assert [label for label in sr_groups(outputs.sr) if label.startswith("worst")] == [
        f"worst slice {rank}: number {number}" for rank, number in enumerate(worst, start=1)
    ]


def test_regions(outputs: Outputs) -> None:
    (region,) = outputs.json["summary"]["regions"]
    found = numbers(sr_groups(outputs.sr)[f"region {region['name']}"])
    assert found["N2Q-SSIM", "Mean"] == region["mean"]
    assert found["N2Q-SSIM", "Minimum"] == region["worst"]["mean"]
    worst = outputs.json["slices"][region["worst"]["slice"] - 1]
    assert worst["regions"][0]["quality"]["mean"] == region["worst"]["mean"]


def test_verdict(outputs: Outputs) -> None:
    verdict = outputs.json["verdict"]
    assert verdict["code"] == outputs.trend["verdict"]
    assert verdict["reasons"][0] in " ".join(outputs.table.split())
    (found,) = [
        item.ConceptCodeSequence[0].CodeValue
        for item in sr_groups(outputs.sr)["series"].ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Quality Assessment"
    ]
    assert found == verdict["dicom_code"]
    sent = webhook.message(document.build(outputs.assessment), frozenset(Verdict))
    assert sent
    assert sent["series"][0]["verdict"] == verdict
    assert sent["series"][0]["quality"] == outputs.json["summary"]["quality"]


def test_latency(outputs: Outputs) -> None:
    """Nearest rank of four: the second and the fourth."""
    totals = sorted(float(row["total_ms"]) for row in outputs.rows)
    stages = outputs.json["latency"]["stages_ms"]
    assert stages["total"]["p50"] == pytest.approx(totals[1], abs=1e-3)
    assert stages["total"]["p90"] == pytest.approx(totals[3], abs=1e-3)
    assert in_table(outputs, r"arrival to result\) +(\S+) +(\S+)") == pytest.approx(
        (totals[1], totals[3]), abs=0.05001
    )
