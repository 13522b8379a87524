"""How close a model comes to the truth: aligned map, native size, body and in-window pixels.

The truth of a simulated low-dose slice is known: its float64 SSIM map against the slice it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats

from n2q_edge.network.preprocess import Window
from n2q_edge.scoring import body_mask
from n2q_edge.simulation.noise import inserted_noise
from n2q_edge.spec import HU_MAX, HU_MIN, ModelSpec
from n2q_edge.training.cache import CachedSlice
from n2q_edge.training.ssim import ssim_map

FloatArray = NDArray[np.float32]
WINDOW_SMOOTHING = 1.5  # pixels: "in the window" is asked of the smoothed full-dose slice
BOOTSTRAPS = 1000

Predictor = Callable[[FloatArray], tuple[FloatArray, FloatArray | None]]
"""From HU [H,W] to the quality map [H,W] and the dose probabilities [K]; None without a dose head."""


@dataclass(frozen=True)
class Case:
    """One simulated low-dose slice and its truth.

    Attributes:
        patient: hashed patient ID.
        dose: dose fraction.
        hu: float32 [H,W], the low-dose slice.
        quality: float32 [H,W], its true SSIM map.
        body: bool [H,W].
        window: bool [H,W], body pixels inside the display window.
    """

    patient: str
    dose: float
    hu: FloatArray
    quality: FloatArray
    body: NDArray[np.bool_]
    window: NDArray[np.bool_]


def cases(slices: Sequence[CachedSlice], spec: ModelSpec, seed: int = 0) -> Iterator[Case]:
    """Every slice at every dose level, with independent noise; the same seed gives the same cases."""
    window = Window(spec.window_center, spec.window_width)
    low_hu = spec.window_center - spec.window_width / 2
    for index, item in enumerate(slices):
        full = np.asarray(item.hu(), dtype=np.float32)
        body = body_mask(full, (item.pixel_mm, item.pixel_mm))
        smooth = ndimage.gaussian_filter(full, WINDOW_SMOOTHING)
        inside = body & (smooth >= low_hu) & (smooth <= low_hu + spec.window_width)
        if not inside.any():
            continue
        basis = item.basis()
        for level, dose in enumerate(spec.dose_levels):
            rng = np.random.default_rng((seed, index, level))
            low = np.clip(full + inserted_noise(basis, dose, rng), HU_MIN, HU_MAX)
            image, reference = (
                window(torch.from_numpy(slice_hu.astype(np.float64))[None, None]) for slice_hu in (low, full)
            )
            quality = ssim_map(image, reference, spec.ssim)[0, 0].numpy().astype(np.float32)
            yield Case(item.patient, dose, low, quality, body, inside)


def torch_predictor(network: torch.nn.Module, device: torch.device, spec: ModelSpec) -> Predictor:
    """Predict with a PyTorch network of that spec, one slice at a time."""

    @torch.no_grad()
    def predict(hu: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        tensors = network(torch.from_numpy(hu)[None, None].to(device))
        outputs = {name: tensor[0].cpu().numpy() for name, tensor in zip(spec.outputs, tensors, strict=True)}
        return outputs["quality_map"][0], outputs.get("dose_probabilities")

    return predict


@dataclass(frozen=True)
class _SliceResult:
    """Scores of one case; `dose_errors`: whether the level was hit, and the error of the log dose."""

    patient: str
    dose: float
    true_mean: float
    mean: float
    body: NDArray[np.float64]
    window: NDArray[np.float64]
    dose_errors: tuple[bool, float] | None


def evaluate(
    predict: Predictor, slices: Sequence[CachedSlice], spec: ModelSpec, seed: int = 0
) -> dict[str, Any]:
    """Run a predictor over all cases.

    Returns:
        JSON-able metrics: `body` and `window` {mae, rmse, plcc} over pixels, `slice` {mae, plcc, srocc,
        krocc} of body means, `dose` {accuracy, log_error} (None without a dose head), `rises_with_dose`
        (share of slices whose mean quality rises over all levels), `per_dose`, and 95 % `intervals` from a
        bootstrap over patients.
    """
    results = [_score(case, *predict(case.hu), spec) for case in cases(slices, spec, seed)]
    metrics = _summary(results)
    metrics["per_dose"] = {
        f"{dose:g}": _summary([result for result in results if result.dose == dose])
        for dose in spec.dose_levels
    }
    metrics["rises_with_dose"] = _rises(results, len(spec.dose_levels))
    metrics["intervals"] = _intervals(results, np.random.default_rng(seed))
    metrics["slices"], metrics["patients"] = (
        len(results) // len(spec.dose_levels),
        len({r.patient for r in results}),
    )
    return metrics


def _score(
    case: Case, quality: FloatArray, probabilities: FloatArray | None, spec: ModelSpec
) -> _SliceResult:
    return _SliceResult(
        patient=case.patient,
        dose=case.dose,
        true_mean=float(case.quality[case.body].mean()),
        mean=float(quality[case.body].mean()),
        body=_moments(quality[case.body], case.quality[case.body]),
        window=_moments(quality[case.window], case.quality[case.window]),
        dose_errors=None if probabilities is None else _dose_errors(case.dose, probabilities, spec),
    )


def _dose_errors(dose: float, probabilities: FloatArray, spec: ModelSpec) -> tuple[bool, float]:
    """Whether the most probable level is the true one, and how far the mean log dose is from the true one."""
    hit = bool(np.isclose(spec.dose_levels[int(probabilities.argmax())], dose))
    return hit, abs(float(probabilities @ np.log(spec.dose_levels)) - float(np.log(dose)))


def _moments(predicted: FloatArray, true: FloatArray) -> NDArray[np.float64]:
    """Sums that MAE, RMSE and PLCC over any set of slices are made of."""
    x, y = predicted.astype(np.float64), true.astype(np.float64)
    return np.array(
        [x.size, np.abs(x - y).sum(), ((x - y) ** 2).sum(), x.sum(), y.sum(), x @ x, y @ y, x @ y]
    )


def _pixel_metrics(moments: NDArray[np.float64]) -> dict[str, float]:
    n, absolute, squared, x, y, xx, yy, xy = moments
    spread = np.sqrt((n * xx - x * x) * (n * yy - y * y))
    plcc = (n * xy - x * y) / spread if spread > 0 else 0.0
    return {"mae": float(absolute / n), "rmse": float(np.sqrt(squared / n)), "plcc": float(plcc)}


def _summary(results: Sequence[_SliceResult]) -> dict[str, Any]:
    mean = np.array([result.mean for result in results])
    true = np.array([result.true_mean for result in results])
    return {
        "body": _pixel_metrics(np.sum([result.body for result in results], axis=0)),
        "window": _pixel_metrics(np.sum([result.window for result in results], axis=0)),
        "slice": {
            "mae": float(np.abs(mean - true).mean()),
            "plcc": _correlation(stats.pearsonr, mean, true),
            "srocc": _correlation(stats.spearmanr, mean, true),
            "krocc": _correlation(stats.kendalltau, mean, true),
        },
        "dose": _dose_summary(results),
    }


def _dose_summary(results: Sequence[_SliceResult]) -> dict[str, float] | None:
    errors = [result.dose_errors for result in results if result.dose_errors is not None]
    if not errors:
        return None
    hits, log_errors = zip(*errors, strict=True)
    return {"accuracy": float(np.mean(hits)), "log_error": float(np.mean(log_errors))}


def _correlation(statistic: Callable[..., Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    if x.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(statistic(x, y)[0])


def _rises(results: Sequence[_SliceResult], levels: int) -> float:
    """Share of slices whose predicted mean quality rises strictly from each dose level to the next."""
    means = np.array([result.mean for result in results]).reshape(-1, levels)
    return float((np.diff(means, axis=1) > 0).all(axis=1).mean())


def _intervals(results: Sequence[_SliceResult], rng: np.random.Generator) -> dict[str, list[float]]:
    """95 % percentile bootstrap over patients of the main metrics."""
    patients = sorted({result.patient for result in results})
    grouped = {patient: [r for r in results if r.patient == patient] for patient in patients}
    draws: dict[str, list[float]] = {}
    for _ in range(BOOTSTRAPS if len(patients) > 1 else 0):
        drawn = [r for patient in rng.choice(patients, len(patients)) for r in grouped[str(patient)]]
        body = _pixel_metrics(np.sum([r.body for r in drawn], axis=0))
        window = _pixel_metrics(np.sum([r.window for r in drawn], axis=0))
        error = np.array([r.mean - r.true_mean for r in drawn])
        values = {
            "body.mae": body["mae"],
            "body.rmse": body["rmse"],
            "body.plcc": body["plcc"],
            "window.mae": window["mae"],
            "window.plcc": window["plcc"],
            "slice.mae": float(np.abs(error).mean()),
        }
        for name, value in values.items():
            draws.setdefault(name, []).append(value)
    return {name: [float(q) for q in np.percentile(values, (2.5, 97.5))] for name, values in draws.items()}
