"""What the flag `out_of_domain` finds, what it finds wrongly, and whether a model errs more where it is set.

The limits are learned from the training split alone. Then: alarms on every training patient with the limits
of the others, by margin; slices flagged as scanned, by split and kernel, and by series of the zoo; held-out
patients at simulated lower doses; the error of a model on flagged and on other slices; the CPU time.

    python -m benchmarks.applicability --data ../shared/ct --zoo ../shared/zoo --runs runs --json
    benchmarks/results/applicability.json
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from n2q_edge.arrays import FloatArray
from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.dataset.collect import TEST, TRAIN, collect, of_split
from n2q_edge.dicom import LoadedSlice, SliceReader, scan
from n2q_edge.evaluation.cases import cases
from n2q_edge.machine import describe_machine
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.domain import Deviation, Features, deviations, measure
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.runtimes import open_model
from n2q_edge.runtimes.base import Runtime
from n2q_edge.simulation.noise import inserted_noise
from n2q_edge.spec import HU_MAX, HU_MIN
from n2q_edge.training.learn_domain import MARGIN, Domain, Example, examples, features_of, learn

MARGINS = (0.05, 0.10, MARGIN, 0.20, 0.25)
DOSES = (0.75, 0.5, 0.25, 0.1, 0.05)
NOISY = "noisy"

Group = dict[str, Any]


def group(found: Iterable[Sequence[Deviation]]) -> Group:
    """How many of some slices are flagged, and why."""
    found = list(found)
    return {
        "slices": len(found),
        "flagged": sum(bool(each) for each in found),
        "reasons": dict(Counter(one.code for each in found for one in each).most_common()),
    }


def left_out(found: Sequence[Example], margin: float) -> dict[str, Any]:
    """Alarms on the slices of each training patient, as scanned, with the limits of all others.

    A mean over patients: one whole series must not decide.
    """
    shares: dict[str, list[float]] = defaultdict(list)
    for patient in {example.patient for example in found}:
        domain = learn((example for example in found if example.patient != patient), margin)
        alarms = [deviations(example.features[0], domain) for example in found if example.patient == patient]
        shares["any reason"].append(float(np.mean([bool(each) for each in alarms])))
        for code in {one.code for each in alarms for one in each}:
            shares[code].append(float(np.mean([any(one.code == code for one in each) for each in alarms])))
    patients = len(shares["any reason"])
    means = {name: sum(values) / patients for name, values in shares.items()}
    return {name: round(mean, 4) for name, mean in sorted(means.items(), key=lambda item: -item[1])}


def as_scanned(folder: Path, domain: Domain) -> Iterator[tuple[Path, str, tuple[Deviation, ...]]]:
    """Path, series and deviations of every slice with a body, read as `assess` reads it."""
    with SliceReader() as reader:
        for series in scan([folder]).series:
            facts = [series.protocol[name] for name in ("model", "body_part", "kernel")]
            name = ", ".join(str(fact) for fact in facts if fact)
            for ref in series.slices:
                loaded = reader.load(ref)
                if not isinstance(loaded, LoadedSlice):
                    continue
                spacing = loaded.pixel_spacing_mm
                body = body_mask(loaded.hu, spacing)
                if body.any():
                    noise = global_noise_level(loaded.hu, body, spacing)
                    found = measure(loaded.hu, body, spacing, ref.slice_thickness_mm, noise)
                    yield ref.path, name, deviations(found, domain)


def splits(data: Path, domain: Domain) -> dict[str, Group]:
    """By split of the index and, where one has several, by kernel."""
    with (data / "index.csv").open(newline="") as lines:
        split = {(data / row["path"]).resolve(): row["split"] for row in csv.DictReader(lines)}
    groups: dict[str, list[tuple[Deviation, ...]]] = defaultdict(list)
    for path, name, found in as_scanned(data, domain):
        here = split[path.resolve()]
        groups[here].append(found)
        groups[f"{here}, kernel {name.split(', ')[-1]}"].append(found)
    return {name: group(found) for name, found in sorted(groups.items())}


def zoo(folder: Path, domain: Domain) -> dict[str, Group]:
    """By folder of the zoo and description of the series."""
    groups: dict[str, list[tuple[Deviation, ...]]] = defaultdict(list)
    for path, name, found in as_scanned(folder, domain):
        groups[f"{path.relative_to(folder).parts[0]}: {name}"].append(found)
    return {name: group(found) for name, found in sorted(groups.items())}


def low_doses(slices: Sequence[CachedSlice], domain: Domain) -> dict[str, Group]:
    """By simulated dose."""
    groups = defaultdict(list)
    for index, item in enumerate(slices):
        full, basis = np.asarray(item.hu(), dtype=np.float32), item.basis()
        for level, dose in enumerate(DOSES):
            noise = inserted_noise(basis, dose, np.random.default_rng((index, level)))
            groups[f"{100 * dose:g} %"].append(deviations(cached_features(item, full + noise), domain))
    return {name: group(found) for name, found in groups.items()}


def cached_features(item: CachedSlice, hu: FloatArray) -> Features:
    return features_of(np.clip(hu, HU_MIN, HU_MAX), item.pixel_mm, item.thickness_mm)


def errors(slices: Sequence[CachedSlice], domain: Domain, runtime: Runtime) -> dict[str, Any]:
    """Error of a model on slices that are flagged as scanned and on the others, over its dose levels.

    `slice` is the mean absolute error of a slice's mean quality, `pixel` that of a pixel in the body.
    """
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for item in slices:
        strange = deviations(cached_features(item, np.asarray(item.hu(), dtype=np.float32)), domain)
        name = f"{item.split}, {'flagged' if strange else 'not flagged'}"
        for case in cases([item], runtime.spec):
            predicted = runtime.infer(case.scan.hu[None, None]).quality_map[0, 0]
            difference = (predicted - case.quality)[case.body]
            found[name].append((abs(float(difference.mean())), float(np.abs(difference).mean())))
    return {
        name: {
            "cases": len(pairs),
            "slice": round(float(np.mean([pair[0] for pair in pairs])), 4),
            "pixel": round(float(np.mean([pair[1] for pair in pairs])), 4),
        }
        for name, pairs in sorted(found.items())
    }


def milliseconds(slices: Sequence[CachedSlice], domain: Domain) -> dict[str, float]:
    """CPU time of the check on one slice, beside that of the body mask, which it is given."""
    times: dict[str, list[float]] = defaultdict(list)
    for item in slices:
        hu, spacing = np.asarray(item.hu(), dtype=np.float32), (item.pixel_mm, item.pixel_mm)
        for _ in range(5):
            start = time.thread_time()
            body = body_mask(hu, spacing)
            middle = time.thread_time()
            deviations(measure(hu, body, spacing, item.thickness_mm, 10.0), domain)
            times["check"].append(1e3 * (time.thread_time() - middle))
            times["body mask"].append(1e3 * (middle - start))
    return {name: round(float(np.median(values)), 3) for name, values in times.items()}


def show(title: str, groups: dict[str, Group]) -> None:
    print(title)
    for name, found in groups.items():
        reasons = ", ".join(f"{code} {count}" for code, count in found["reasons"].items())
        print(f"  {name:>55}  {found['flagged']:3d} of {found['slices']:3d}  {reasons}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="its folder 'cache' is the noise cache")
    parser.add_argument("--model", type=Path, help="whose error is compared; the released model if not given")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    slices = collect([options.data], options.runs / "cache")
    test = list(of_split(slices, TEST))
    learned = list(examples(of_split(slices, TRAIN)))
    domain = learn(learned)
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "patients": len({example.patient for example in learned}),
        "domain": {name: asdict(limits) for name, limits in domain.items()},
        "left_out": {f"{margin:g}": left_out(learned, margin) for margin in MARGINS},
        "as_scanned": splits(options.data, domain),
        "test_low_doses": low_doses(test, domain),
        "zoo": zoo(options.zoo, domain),
        "milliseconds": milliseconds(test, domain),
    }
    with open_model(options.model) as runtime:
        result["model_sha256"] = runtime.describe().get("model_sha256")
        result["errors"] = errors([*test, *of_split(slices, NOISY)], domain, runtime)

    for name, limits in domain.items():
        print(f"{name:>20}  " + "  ".join(f"{value:9.3f}" for value in (*limits.training, *limits.limits)))
    for margin, shares in result["left_out"].items():
        print(f"margin {margin}: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    show("as scanned", result["as_scanned"])
    show("test split, simulated dose", result["test_low_doses"])
    show("zoo", result["zoo"])
    print("errors", json.dumps(result["errors"], indent=1))
    print("ms", result["milliseconds"])
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
