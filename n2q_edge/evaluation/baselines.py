"""Predictors without a network, each with the few numbers it needs fitted on training patients.

For the reduced slice, whose air is scored too, they all say 1 outside the body, where the window clips. In
the body they say:

- `constant`: one number.
- `noise-level`: one number a slice, c / (1 + (sigma / a)**b), from its global noise level sigma.
- `closed-form`: the SSIM of flat tissue, (2 v (1 - r) + C2) / (v (2 - r) + C2), with v the local variance of
  the windowed slice and r the share of inserted noise in it. The share depends on the dose, which nobody
  tells: it is assumed that every scan has the same full-dose noise sigma0 (so D = sigma0**2 / sigma**2),
  r = s (sigma**2 - sigma0**2) / v.
- `denoise`: SSIM between the slice and itself after a local Wiener filter (Lee, IEEE TPAMI 2, 1980), through
  a straight line.

`noise-level` also tells the dose: log D = a + b log sigma. What is fitted minimises MAE + 2 MSE over body
pixels, at each of the two image sizes on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, optimize

from n2q_edge.arrays import BoolArray, FloatArray
from n2q_edge.evaluation.cases import Case, Scan
from n2q_edge.evaluation.predictions import Answer, Answerer, Prediction
from n2q_edge.evaluation.ssim import gaussian_blur, ssim_map
from n2q_edge.network.preprocess import Window
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.spec import ModelSpec

Float64Array = NDArray[np.float64]
Numbers = Mapping[str, Sequence[float]]
"""What was fitted, by the baseline's name."""

NAMES = ("constant", "noise-level", "closed-form", "denoise")
VERSION = 1
SAMPLED_PIXELS = 1500  # of a case, to fit on
WIENER_SIZES = (5, 9)  # pixels
WIENER_NOISE = (1.0, 1.5)  # noise standard deviation the filter is told, over the global noise level


@dataclass(frozen=True)
class Fitted:
    """Numbers of every baseline at native size and for the reduced slice."""

    native: Numbers
    reduced: Numbers


@dataclass(frozen=True)
class _Look:
    """What the baselines look at: a scan, its body and its noise."""

    scan: Scan
    body: BoolArray
    noise_hu: float | None

    @classmethod
    def at(cls, scan: Scan) -> _Look:
        spacing = (scan.pixel_mm, scan.pixel_mm)
        body = body_mask(scan.hu, spacing)
        return cls(scan, body, global_noise_level(scan.hu, body, spacing))


def baseline(name: str, fitted: Fitted, spec: ModelSpec) -> Answerer:
    """The baseline of a name in `NAMES`, as a system."""

    def answer(case: Case) -> Answer:
        native, reduced = _Look.at(case.scan), _Look.at(case.reduced)
        probabilities = _dose(fitted.native, native, spec) if name == "noise-level" else None
        inside = _quality(name, fitted.reduced, reduced, spec)
        return Answer(
            Prediction(_quality(name, fitted.native, native, spec), probabilities),
            np.where(reduced.body, inside, np.float32(1.0)),
        )

    return answer


def _quality(name: str, numbers: Numbers, look: _Look, spec: ModelSpec) -> FloatArray:
    quality = np.empty_like(look.scan.hu)
    quality[:] = np.clip(_VALUES[name](numbers, look, spec), 0.0, 1.0)
    return quality


def _noise(numbers: Numbers, look: _Look) -> float:
    """The scan's noise in HU; where there is too little soft tissue, the usual one of the training scans."""
    return look.noise_hu if look.noise_hu else numbers["usual-noise"][0]


def _constant(numbers: Numbers, look: _Look, spec: ModelSpec) -> Float64Array:
    return np.asarray(numbers["constant"][0])


def _noise_level(numbers: Numbers, look: _Look, spec: ModelSpec) -> Float64Array:
    return falling(np.asarray(_noise(numbers, look)), *numbers["noise-level"])


def _closed_form(numbers: Numbers, look: _Look, spec: ModelSpec) -> Float64Array:
    sigma = np.asarray(_noise(numbers, look) / spec.window_width)
    return flat_tissue_ssim(_local_variance(look.scan.hu, spec), sigma, *numbers["closed-form"], c2=_c2(spec))


def _denoise(numbers: Numbers, look: _Look, spec: ModelSpec) -> Float64Array:
    offset, slope, size, noise = numbers["denoise"]
    return offset + slope * _against_denoised(look.scan.hu, int(size), noise * _noise(numbers, look), spec)


_VALUES: dict[str, Callable[[Numbers, _Look, ModelSpec], Float64Array]] = {
    "constant": _constant,
    "noise-level": _noise_level,
    "closed-form": _closed_form,
    "denoise": _denoise,
}


def falling(sigma: Float64Array, top: float, half: float, power: float) -> Float64Array:
    """top / (1 + (sigma / half)**power): falls as noise rises."""
    return np.asarray(top / (1.0 + (sigma / abs(half)) ** abs(power)))


def flat_tissue_ssim(
    variance: Float64Array, sigma: Float64Array, sigma0: float, scale: float, *, c2: float
) -> Float64Array:
    """SSIM where the full-dose slice has no structure, from the local variance of the low-dose one.

    Args:
        variance: of the windowed slice.
        sigma: noise of the slice, in units of the window's width.
        sigma0: noise that every slice is assumed to have at full dose, same units.
        scale: of the inserted variance.
        c2: SSIM constant.
    """
    inserted = abs(scale) * np.maximum(sigma**2 - sigma0**2, 0.0)
    share = np.minimum(inserted / np.maximum(variance, 1e-12), 1.0)
    return np.asarray((2.0 * variance * (1.0 - share) + c2) / (variance * (2.0 - share) + c2))


def _dose(numbers: Numbers, look: _Look, spec: ModelSpec) -> FloatArray:
    """Probabilities of the dose levels [K]: a normal density of log D around a + b log sigma."""
    intercept, slope, std = numbers["dose"]
    mean = intercept + slope * math.log(_noise(numbers, look))
    exponent = -0.5 * ((np.log(spec.dose_levels) - mean) / std) ** 2
    weights = np.exp(exponent - exponent.max())
    return np.asarray(weights / weights.sum(), dtype=np.float32)


def _c2(spec: ModelSpec) -> float:
    return (spec.ssim.k2 * spec.ssim.data_range) ** 2


def _windowed(hu: FloatArray, spec: ModelSpec) -> torch.Tensor:
    window = Window(spec.window_center, spec.window_width)
    tensor: torch.Tensor = window(torch.from_numpy(hu.astype(np.float64))[None, None])
    return tensor


def _local_variance(hu: FloatArray, spec: ModelSpec) -> Float64Array:
    image = _windowed(hu, spec)
    mean, square = gaussian_blur(torch.cat([image, image * image]), spec.ssim.window, spec.ssim.sigma)
    return np.asarray((square - mean * mean).clamp_min(0.0)[0].numpy())


def _against_denoised(hu: FloatArray, size: int, sigma: float, spec: ModelSpec) -> Float64Array:
    clean = local_wiener(hu, size, sigma)
    return np.asarray(ssim_map(_windowed(hu, spec), _windowed(clean, spec), spec.ssim)[0, 0].numpy())


def local_wiener(hu: FloatArray, size: int, sigma: float) -> FloatArray:
    """Mean + (1 - sigma^2 / variance) * deviation, in the square around each pixel; [H,W], HU."""
    exact = hu.astype(np.float64)
    mean = ndimage.uniform_filter(exact, size)
    variance = np.maximum(ndimage.uniform_filter(exact * exact, size) - mean * mean, 1e-6)
    gain = np.maximum(variance - sigma**2, 0.0) / variance
    return np.asarray(mean + gain * (exact - mean), dtype=np.float32)


@dataclass(frozen=True)
class _Sample:
    """What one case contributes to a fit; the arrays are of a few body pixels."""

    dose: float
    noise_hu: float | None
    truth: Float64Array
    variance: Float64Array
    denoised: dict[tuple[int, float], Float64Array]


def fit(cases: Iterable[Case], spec: ModelSpec) -> Fitted:
    """Fit every baseline on cases of training patients; at least one slice must show soft tissue."""
    native: list[_Sample] = []
    reduced: list[_Sample] = []
    for number, case in enumerate(cases):
        rng = np.random.default_rng(number)
        native.append(_sample(case.scan, case.quality.astype(np.float64), case.dose, spec, rng))
        reduced.append(_sample(case.reduced, (case.paper + 1.0) / 2.0, case.dose, spec, rng))
    return Fitted(_fit_numbers(native, spec), _fit_numbers(reduced, spec))


def _sample(
    scan: Scan, truth: Float64Array, dose: float, spec: ModelSpec, rng: np.random.Generator
) -> _Sample:
    look = _Look.at(scan)
    pixels = np.flatnonzero(look.body)
    pixels = rng.choice(pixels, min(SAMPLED_PIXELS, pixels.size), replace=False)
    denoised = {
        (size, noise): _against_denoised(scan.hu, size, noise * look.noise_hu, spec).ravel()[pixels]
        for size in WIENER_SIZES
        for noise in WIENER_NOISE
        if look.noise_hu
    }
    variance = _local_variance(scan.hu, spec).ravel()[pixels]
    return _Sample(dose, look.noise_hu, truth.ravel()[pixels], variance, denoised)


def _fit_numbers(samples: Sequence[_Sample], spec: ModelSpec) -> Numbers:
    known = [sample for sample in samples if sample.noise_hu]
    truth = np.concatenate([sample.truth for sample in known])
    variance = np.concatenate([sample.variance for sample in known])
    sigma = np.repeat([sample.noise_hu or 0.0 for sample in known], [sample.truth.size for sample in known])
    numbers: dict[str, Sequence[float]] = {"usual-noise": [float(np.median(sigma))]}
    numbers["constant"], _ = _minimise(lambda p: p[0], [0.7], truth)
    numbers["noise-level"], _ = _minimise(lambda p: falling(sigma, *p), [1.0, 30.0, 1.5], truth)
    relative = sigma / spec.window_width
    numbers["closed-form"], _ = _minimise(
        lambda p: flat_tissue_ssim(variance, relative, p[0], p[1], c2=_c2(spec)),
        [10.0 / spec.window_width, 1.0],
        truth,
    )
    numbers["denoise"] = _fit_denoise(known, truth)
    numbers["dose"] = _fit_dose(known)
    return numbers


def _fit_denoise(samples: Sequence[_Sample], truth: Float64Array) -> list[float]:
    """Offset, slope, filter size and noise factor of the best filter."""
    found = []
    for size, noise in samples[0].denoised:
        ssim = np.concatenate([sample.denoised[size, noise] for sample in samples])
        line, loss = _minimise(lambda p, ssim=ssim: p[0] + p[1] * ssim, [0.0, 1.0], truth)
        found.append((loss, [*line, float(size), noise]))
    return min(found)[1]


def _fit_dose(samples: Sequence[_Sample]) -> list[float]:
    """Intercept, slope and residual standard deviation of log D over log sigma."""
    log_noise = np.log([sample.noise_hu or 1.0 for sample in samples])
    log_dose = np.log([sample.dose for sample in samples])
    slope, intercept = np.polyfit(log_noise, log_dose, 1)
    std = float(np.std(log_dose - intercept - slope * log_noise))
    return [float(intercept), float(slope), max(std, 0.05)]


def _minimise(
    values: Callable[..., Float64Array | float], start: Sequence[float], truth: Float64Array
) -> tuple[list[float], float]:
    """Parameters of the least MAE + 2 MSE, and that loss."""

    def loss(parameters: Float64Array) -> float:
        error = np.clip(values(parameters), 0.0, 1.0) - truth
        return float(np.abs(error).mean() + 2.0 * np.square(error).mean())

    best = optimize.minimize(loss, start, method="Nelder-Mead")
    return [float(value) for value in best.x], float(best.fun)
