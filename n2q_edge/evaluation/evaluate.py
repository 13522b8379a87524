"""How close a model comes to the truth: aligned map, native size, body and in-window pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from n2q_edge.dataset.cache import CachedSlice
from n2q_edge.evaluation.cases import cases
from n2q_edge.evaluation.predictions import Predictor, answer_with
from n2q_edge.evaluation.scores import metrics, score
from n2q_edge.spec import ModelSpec


def evaluate(
    predict: Predictor, slices: Sequence[CachedSlice], spec: ModelSpec, seed: int = 0
) -> dict[str, Any]:
    """Run a predictor over all cases of some slices: the metrics of `scores.metrics`."""
    answer = answer_with(predict)
    return metrics([score(case, answer(case), spec) for case in cases(slices, spec, seed)], spec)
