"""Scores of one answer, and what they add up to: metrics, per dose, per patient, with intervals.

The scores of a case are a few sums from which every metric over any set of cases follows, so they are stored
instead of maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from n2q_edge.arrays import FloatArray
from n2q_edge.evaluation import paper
from n2q_edge.evaluation.cases import Case
from n2q_edge.evaluation.paper import PaperScores
from n2q_edge.evaluation.predictions import Answer
from n2q_edge.evaluation.ssim import ssim_map
from n2q_edge.spec import ModelSpec

Float64Array = NDArray[np.float64]
BOOTSTRAPS = 1000


@dataclass(frozen=True)
class CaseScores:
    """What one answer is worth.

    Attributes:
        slice_key: of the full-dose slice.
        patient: hashed patient ID.
        dose: dose fraction.
        true_mean: true mean quality in the body.
        mean: predicted mean quality in the body.
        body: sums over the body's pixels (see `_sums`).
        window: sums over the body's pixels in the window.
        map_ssim: SSIM between the two maps, mean in the body.
        level_hit: whether the most probable dose level is right; None from a system that does not tell.
        log_dose_error: absolute error of the expected log dose; None likewise.
        paper: the paper-compatible column.
    """

    slice_key: str
    patient: str
    dose: float
    true_mean: float
    mean: float
    body: tuple[float, ...]
    window: tuple[float, ...]
    map_ssim: float
    level_hit: bool | None
    log_dose_error: float | None
    paper: PaperScores

    def to_json(self) -> dict[str, Any]:
        """As JSON-able fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> CaseScores:
        """Read what `to_json` wrote."""
        return cls(
            **{
                **fields,
                "body": tuple(fields["body"]),
                "window": tuple(fields["window"]),
                "paper": PaperScores(**fields["paper"]),
            }
        )


def score(case: Case, answer: Answer, spec: ModelSpec) -> CaseScores:
    """Compare an answer with the truth."""
    quality, probabilities = answer.native.quality, answer.native.probabilities
    levels = np.log(spec.dose_levels)
    hit, log_error = None, None
    if probabilities is not None:
        hit = bool(np.isclose(spec.dose_levels[int(probabilities.argmax())], case.dose))
        log_error = abs(float(probabilities @ levels) - float(np.log(case.dose)))
    return CaseScores(
        slice_key=case.slice_key,
        patient=case.patient,
        dose=case.dose,
        true_mean=float(case.quality[case.body].mean(dtype=np.float64)),
        mean=float(quality[case.body].mean(dtype=np.float64)),
        body=_sums(quality[case.body], case.quality[case.body]),
        window=_sums(quality[case.window], case.quality[case.window]),
        map_ssim=_map_ssim(quality, case, spec),
        level_hit=hit,
        log_dose_error=log_error,
        paper=paper.score(case.paper, 2.0 * answer.reduced.astype(np.float64) - 1.0),
    )


def _map_ssim(quality: FloatArray, case: Case, spec: ModelSpec) -> float:
    """SSIM between the predicted and the true map, mean in the body."""
    box = case.scan.wanted
    predicted, true = (torch.from_numpy(each[box])[None, None] for each in (quality, case.quality))
    ssim = ssim_map(predicted, true, spec.ssim)[0, 0].numpy()
    return float(ssim[case.body[box]].mean(dtype=np.float64))


def _sums(predicted: FloatArray, true: FloatArray) -> tuple[float, ...]:
    """Sums that MAE, RMSE and PLCC over any set of slices are made of."""
    x, y = predicted.astype(np.float64), true.astype(np.float64)
    sums = (x.size, np.abs(x - y).sum(), ((x - y) ** 2).sum(), x.sum(), y.sum(), x @ x, y @ y, x @ y)
    return tuple(float(value) for value in sums)


def _from_sums(sums: Float64Array) -> dict[str, Float64Array]:
    """MAE, RMSE and PLCC [...] from sums [...,8]."""
    n, absolute, squared, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.sqrt(np.maximum((n * xx - x * x) * (n * yy - y * y), 0.0))
    flat = spread <= 1e-6 * n * n  # what rounding leaves of a constant
    plcc = np.where(flat, 0.0, (n * xy - x * y) / np.where(flat, 1.0, spread))
    return {"mae": absolute / n, "rmse": np.sqrt(squared / n), "plcc": plcc}


def summary(results: Sequence[CaseScores]) -> dict[str, Any]:
    """Metrics over all cases given: `body`, `window`, `slice`, `dose`, `paper`."""
    mean = np.array([result.mean for result in results])
    true = np.array([result.true_mean for result in results])
    body, window = (
        {name: float(value) for name, value in _from_sums(np.sum(sums, axis=0)).items()}
        for sums in ([result.body for result in results], [result.window for result in results])
    )
    body["ssim"] = float(np.mean([result.map_ssim for result in results]))
    return {
        "body": body,
        "window": window,
        "slice": {
            "mae": float(np.abs(mean - true).mean()),
            "plcc": _correlation(stats.pearsonr, mean, true),
            "srocc": _correlation(stats.spearmanr, mean, true),
            "krocc": _correlation(stats.kendalltau, mean, true),
        },
        "dose": {
            "accuracy": _mean_or_none([result.level_hit for result in results]),
            "log_error": _mean_or_none([result.log_dose_error for result in results]),
        },
        "paper": {
            name: float(np.mean([getattr(result.paper, name) for result in results]))
            for name in ("ssim", "mse", "nrmse")
        },
    }


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _correlation(statistic: Callable[..., Any], x: Float64Array, y: Float64Array) -> float:
    if x.size < 3 or np.ptp(x) <= 1e-9 or np.ptp(y) <= 1e-9:
        return 0.0
    return float(statistic(x, y)[0])


def rises(results: Sequence[CaseScores]) -> float:
    """Share of slices whose predicted mean quality rises strictly from each dose level to the next."""
    slices: dict[str, list[CaseScores]] = {}
    for result in results:
        slices.setdefault(result.slice_key, []).append(result)
    return float(
        np.mean(
            [
                bool((np.diff([r.mean for r in sorted(group, key=lambda r: r.dose)]) > 0).all())
                for group in slices.values()
            ]
        )
    )


def by_patient(results: Sequence[CaseScores]) -> dict[str, dict[str, float]]:
    """Slices, body MAE and slice MAE of every patient."""
    found = {}
    for patient in sorted({result.patient for result in results}):
        own = [result for result in results if result.patient == patient]
        metrics = summary(own)
        found[patient] = {
            "slices": len({result.slice_key for result in own}),
            "body_mae": metrics["body"]["mae"],
            "slice_mae": metrics["slice"]["mae"],
        }
    return found


def intervals(results: Sequence[CaseScores], seed: int = 0) -> dict[str, list[float]]:
    """95 % percentile bootstrap over patients, by the metric's name; empty with a single patient."""
    draws = bootstrap(results, seed)
    return {name: [float(q) for q in np.percentile(values, (2.5, 97.5))] for name, values in draws.items()}


def bootstrap(results: Sequence[CaseScores], seed: int = 0) -> dict[str, Float64Array]:
    """Metrics [BOOTSTRAPS] of resampled patients; the same seed resamples every system's patients alike."""
    patients, owner = np.unique([result.patient for result in results], return_inverse=True)
    count = len(patients)
    if count < 2:
        return {}
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=BOOTSTRAPS)

    def totals(rows: ArrayLike) -> Float64Array:
        """Sums [BOOTSTRAPS, ...] of one row a case over the patients drawn."""
        values = np.asarray(rows, dtype=np.float64)
        of_patient = np.zeros((count, *values.shape[1:]))
        np.add.at(of_patient, owner, values)
        return np.asarray(np.tensordot(weights, of_patient, axes=1))

    cases = totals(np.ones(len(results)))
    mean = np.array([result.mean for result in results])
    true = np.array([result.true_mean for result in results])
    body, window, whole = (
        _from_sums(totals(rows))
        for rows in (
            [result.body for result in results],
            [result.window for result in results],
            [_sums(np.array([x]), np.array([y])) for x, y in zip(mean, true, strict=True)],
        )
    )
    found = {
        **{f"body.{name}": values for name, values in body.items()},
        "body.ssim": totals([result.map_ssim for result in results]) / cases,
        **{f"window.{name}": values for name, values in window.items()},
        "slice.mae": whole["mae"],
        "slice.plcc": whole["plcc"],
        "slice.srocc": rank_correlations(mean, true, weights[:, owner]),
        **{
            f"paper.{name}": totals([getattr(result.paper, name) for result in results]) / cases
            for name in ("ssim", "mse", "nrmse")
        },
    }
    hits = [result.level_hit for result in results if result.level_hit is not None]
    log_errors = [result.log_dose_error for result in results if result.log_dose_error is not None]
    if len(hits) == len(log_errors) == len(results):
        found["dose.accuracy"] = totals(hits) / cases
        found["dose.log_error"] = totals(log_errors) / cases
    return found


def rank_correlations(x: Float64Array, y: Float64Array, repeats: NDArray[np.int64]) -> Float64Array:
    """SROCC [B] of cases [n] repeated as each row of `repeats` [B,n] says: PLCC of their mean ranks."""
    first, second = _ranks(x, repeats), _ranks(y, repeats)
    error = first - second
    rows = [np.ones_like(first), np.abs(error), error**2]
    rows += [first, second, first * first, second * second, first * second]
    return _from_sums(np.stack([(repeats * row).sum(axis=1) for row in rows], axis=-1))["plcc"]


def _ranks(values: Float64Array, repeats: NDArray[np.int64]) -> Float64Array:
    """Mean rank [B,n] of each value among the repeated ones; equal values share theirs."""
    distinct, group = np.unique(values, return_inverse=True)
    weight = np.zeros((len(distinct), len(repeats)))
    np.add.at(weight, group, repeats.T)
    last = np.cumsum(weight, axis=0)
    return np.asarray((last - (weight - 1) / 2)[group].T)


def metrics(results: Sequence[CaseScores], spec: ModelSpec) -> dict[str, Any]:
    """All of it, JSON-able.

    Returns:
        `body` {mae, rmse, plcc, ssim} and `window` {mae, rmse, plcc} over pixels; `slice` {mae, plcc, srocc,
        krocc} of body means; `dose` {accuracy, log_error}, None from a system that does not tell the dose;
        `paper` {ssim, mse, nrmse}; `per_dose` the same of each level; `rises_with_dose`; 95 % `intervals`;
        `slices`, `patients`, `by_patient`.
    """
    return {
        **summary(results),
        "per_dose": {
            f"{dose:g}": summary([result for result in results if result.dose == dose])
            for dose in spec.dose_levels
        },
        "rises_with_dose": rises(results),
        "intervals": intervals(results),
        "slices": len({result.slice_key for result in results}),
        "patients": len({result.patient for result in results}),
        "by_patient": by_patient(results),
    }
