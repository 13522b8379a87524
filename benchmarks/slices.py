"""The real CT slices that some benchmarks ask for: their options, and one slice of each patient."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from n2q_edge.dataset.cache import CachedSlice

RUNS = Path(__file__).resolve().parents[1] / "runs"


def parser(about: str | None) -> argparse.ArgumentParser:
    """A parser with --data and --runs."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--data", type=Path, action="append", required=True)
    made.add_argument("--runs", type=Path, default=RUNS, help="its folder 'cache' is the noise cache")
    return made


def one_a_patient(options: argparse.Namespace, *splits: str) -> dict[str, list[CachedSlice]]:
    """By split, the middle slice of each patient."""
    from n2q_edge.dataset.collect import collect, of_split
    from n2q_edge.evaluation.systems import per_patient

    slices = collect(options.data, options.runs / "cache")
    return {split: per_patient(list(of_split(slices, split)), 1) for split in splits}
