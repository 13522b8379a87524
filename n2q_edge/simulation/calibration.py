"""How strong and how fine a slice's own noise is, told from its anatomy by the spectrum.

Anatomy lives in low frequencies, noise of filtered back-projection does not. In the flattest patches of soft
tissue the power of the slice, band by band, is held against that of noise reconstructed with the bare ramp in
the very same patches: where rays are weak both are high, so their quotient is the square of the scanner's
apodization times the strength. It is fitted by

    log(quotient) = c0 + c1 f^2 + c2 f^4 + c3 f^6

from the lowest frequency on that anatomy leaves alone. Even powers, because an apodization is even and 1 at
f = 0, where a reconstruction keeps the mean: so c0 is the strength, and what anatomy hides below is
extrapolated. c1 > 0 is a kernel that boosts fine detail, c1 < 0 one that rolls off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from n2q_edge.arrays import FloatArray
from n2q_edge.quality.body import body_mask
from n2q_edge.quality.noise import global_noise_level
from n2q_edge.simulation.patches import (
    ANATOMY_PER_MM,
    Bands,
    Curve,
    cos_twice,
    mean_of_near,
    patch_corners,
    patch_side,
    solid_tissue,
)

LOWEST_PER_MM = (ANATOMY_PER_MM, 0.27, 0.34)  # the first that gives no more noise than the slice has
TOLERATED_EXCESS = 1.1
LEVEL_WEIGHTS = (1.0, 3.0**0.5)  # D = 1/2 and 1/4
LEVEL_SHARE = 0.5  # of the second opinion on the strength
LEVEL_REACH = 0.35  # of its logarithm
MOST_IMAGES = 3  # of unit noise that are looked at
FLATTEST, FEWEST_FLATTEST = 0.25, 32  # share of the patches, by their power in the lowest band
ROUNDING_VARIANCE = 1.0 / 12.0  # HU^2, of whole numbers
MODEL_ERROR = 0.1  # of the log power: what no polynomial follows, more where there is little power
LEAST_SHARE = 0.01  # of the greatest power
LARGEST_DIRECTION = 1.5
PLACE_MM = 150.0
PLACE_LOWEST_PER_MM = 0.3
PLACE_FLATTEST = 0.6
PLACE_PRIOR = 0.5
PLACE_VARIANCE = 4.0  # of a patch's log power; patches overlap and anatomy is in some
PLACE_LIMITS = (-1.0, 1.0)
ROBUST_STEPS = 5
PRIOR = (100.0, 6.0, 3.0, 3.0)  # standard deviations of the coefficients


@dataclass(frozen=True)
class Kernel:
    """Strength and apodization of a slice's noise.

    Attributes:
        coefficients: c0, c1, ... of the log power over f^2 in units of `highest_per_mm`.
        highest_per_mm: the highest frequency it was fitted to, 1/mm; the gain stays as it is there beyond.
        direction: a of a cos(2 phi) in the log power, phi the frequency's angle to the rows. Noise of an
            angle comes from the view of that angle: tube-current modulation over the rotation shows here.
    """

    coefficients: tuple[float, ...]
    highest_per_mm: float
    direction: float = 0.0

    @property
    def strength(self) -> float:
        """The gain at f = 0: N0**-0.5."""
        return float(np.exp(self.coefficients[0] / 2))

    def gain(self, frequency_per_mm: Curve) -> Curve:
        """Factor on the amplitude of noise reconstructed with the bare ramp for one quantum."""
        square = np.minimum(np.abs(frequency_per_mm) / self.highest_per_mm, 1.0) ** 2
        return np.asarray(np.exp(np.polynomial.polynomial.polyval(square, self.coefficients) / 2))

    def apply(self, images: FloatArray, pixel_mm: float) -> FloatArray:
        """Unit noise [K,H,W] as this kernel would have reconstructed it, HU."""
        height, width = images.shape[-2:]
        y, x = fft.fftfreq(height, pixel_mm)[:, None], fft.rfftfreq(width, pixel_mm)
        gain = self.gain(np.hypot(y, x)) * np.exp(self.direction * cos_twice(y, x) / 2)
        spectrum = fft.rfft2(images) * gain.astype(np.float32)
        return np.asarray(fft.irfft2(spectrum, s=(height, width)), dtype=np.float32)


@dataclass(frozen=True)
class Place:
    """Where a slice's own noise is stronger or weaker than rays and bow-tie say, a smooth factor.

    Real scanners even noise out: tube-current modulation, their own bow-ties, adaptive filters.

    Attributes:
        coefficients: of x, y, x^2, y^2 in units of `PLACE_MM` from the center, in the log of the variance.
        constant: of the same, so that the factor is 1 on average where the strength was measured.
        low, high: (y, x) between which patches lay; beyond, the factor stays as it is there.
    """

    coefficients: tuple[float, ...]
    constant: float
    low: tuple[float, float]
    high: tuple[float, float]

    def factor(self, size: int, pixel_mm: float) -> FloatArray:
        """Factor [size,size] on the amplitude of the noise."""
        axis = (np.arange(size) - (size - 1) / 2) * pixel_mm / PLACE_MM
        y = np.clip(axis, self.low[0], self.high[0])[:, None]
        x = np.clip(axis, self.low[1], self.high[1])[None]
        terms = (x, y, x * x, y * y)
        log = self.constant + sum(c * term for c, term in zip(self.coefficients, terms, strict=True))
        return np.asarray(np.exp(np.clip(log, *PLACE_LIMITS) / 2), dtype=np.float32)


@dataclass(frozen=True)
class Calibration:
    """What turns noise reconstructed with the bare ramp for one quantum into the slice's own."""

    kernel: Kernel
    place: Place

    def scaled(self, factor: float) -> Calibration:
        """The same, `factor` times as strong."""
        first, *others = self.kernel.coefficients
        stronger = (first + 2 * float(np.log(factor)), *others)
        return replace(self, kernel=replace(self.kernel, coefficients=stronger))

    def apply(self, images: FloatArray, pixel_mm: float) -> FloatArray:
        """Unit noise [K,H,W] as the slice has it, HU."""
        return self.kernel.apply(images, pixel_mm) * self.place.factor(images.shape[-1], pixel_mm)


def calibrate(hu: FloatArray, unit: FloatArray, pixel_mm: float) -> Calibration:
    """The strength, the kernel and the place that give unit noise the look of the slice's own.

    Args:
        hu: float32 [H,W], the slice in HU.
        unit: float32 [K,H,W], noise of the same rays, reconstructed with the bare ramp for one quantum.
        pixel_mm: pixel spacing, mm.

    Raises:
        NoiseCalibrationError: too little soft tissue.
    """
    side = patch_side(pixel_mm)
    corners = patch_corners(solid_tissue(hu), side)
    bands = Bands(side, pixel_mm)
    spectra = bands.power(hu[None], corners), bands.power(unit[:MOST_IMAGES], corners)
    own, noise = bands.means(spectra[0])[0], bands.means(spectra[1])
    level = mean_of_near(noise.mean(axis=(0, 2)), corners, side)
    fits = (
        _turned(_fit(bands, own, noise, level, lowest), bands, *spectra, level) for lowest in LOWEST_PER_MM
    )
    rise = LevelRise(hu, pixel_mm)
    best: tuple[float, Calibration] | None = None
    for kernel in fits:
        found = Calibration(kernel, _place(bands, kernel, own, noise, corners, hu.shape[0], pixel_mm))
        excess = rise.excess(found.apply(unit[:1], pixel_mm)[0])
        if best is None or excess < best[0]:
            best = excess, found
        if excess <= TOLERATED_EXCESS:
            break
    assert best is not None
    return best[1].scaled(_correction(best[0]))


def _correction(excess: float) -> float:
    """Factor on the strength that goes part of the way to what the model-free noise says, if that is near.

    Far off, its mode has jumped from one tissue to another: then it has no say.
    """
    log = float(np.log(excess))
    return float(np.exp(-LEVEL_SHARE * log * np.exp(-((log / LEVEL_REACH) ** 2))))


class LevelRise:
    """The second opinion: how far the model-free noise of a slice rises when noise is added."""

    def __init__(self, hu: FloatArray, pixel_mm: float) -> None:
        self._hu = hu
        self._spacing = (pixel_mm, pixel_mm)
        self._body = body_mask(hu, self._spacing)
        self._own = self._level(hu)

    def excess(self, noise: FloatArray) -> float:
        """Strength of full-dose noise [H,W] over that of the slice's own; 1 if it cannot be measured.

        Noise w times as strong as the own raises the level s to sqrt(1 + w^2) s.
        """
        if not self._own:
            return 1.0
        strengths = []
        for weight in LEVEL_WEIGHTS:
            level = self._level(self._hu + np.float32(weight) * noise) or self._own
            strengths.append(np.sqrt(max((level / self._own) ** 2 - 1, 0.01)) / weight)
        return float(np.exp(np.mean(np.log(strengths))))

    def _level(self, hu: FloatArray) -> float | None:
        return global_noise_level(hu, self._body, self._spacing)


def _fit(bands: Bands, own: Curve, noise: Curve, level: Curve, lowest_per_mm: float) -> Kernel:
    """The kernel from the bands above a frequency: own power [N,B], that of unit noise [K,N,B], level [N]."""
    count = max(FEWEST_FLATTEST, round(FLATTEST * len(own)))
    use = bands.frequency[1:] >= lowest_per_mm
    use |= not use.any()
    measured = _flattest(own[None] / level[:, None], count)[use]
    expected = _flattest(noise / level[:, None], count)[use]
    rounding = ROUNDING_VARIANCE / np.median(level)
    signal = np.maximum(measured - rounding, 0.05 * measured)
    square = (bands.frequency[1:] / bands.frequency[-1]) ** 2
    quotient = signal / expected
    matters = np.maximum(quotient / quotient.max(), LEAST_SHARE)
    variance = MODEL_ERROR**2 / matters + 8 / (count * bands.count[1:][use]) + (rounding / signal) ** 2
    fit = _ridge(square[use], np.log(quotient), variance)
    return Kernel(tuple(float(value) for value in fit), float(bands.frequency[-1]))


def _turned(kernel: Kernel, bands: Bands, own: Curve, noise: Curve, level: Curve) -> Kernel:
    """The kernel with its direction, from spectra [K,N,side,side/2+1] of the slice and of unit noise."""
    gain = _power_gain(kernel, bands)
    count = max(FEWEST_FLATTEST, round(FLATTEST * len(level)))
    chosen = np.argsort(bands.means(own)[0, :, 0] / level)[:count]
    balance = [
        np.diff(
            [
                np.log(np.median((power[:, chosen] * sector).sum(axis=(-2, -1)) / level[chosen]))
                for sector in (bands.cos_twice < 0, bands.cos_twice > 0)
            ]
        ).item()
        for power in (own * (gain > 0), noise * gain)
    ]
    # cos(2 phi) is 2/pi on average over a quadrant around an axis.
    direction = float(np.clip((balance[0] - balance[1]) * np.pi / 4, -LARGEST_DIRECTION, LARGEST_DIRECTION))
    turn = np.exp(direction * bands.cos_twice)
    before, after = ((noise[:, chosen] * gain * factor).sum() for factor in (1.0, turn))
    first, *others = kernel.coefficients
    return replace(kernel, coefficients=(first + float(np.log(before / after)), *others), direction=direction)


def _power_gain(kernel: Kernel, bands: Bands) -> Curve:
    """Factor [side,side/2+1] of the kernel at strength 1 on the power; 0 outside the bands of noise."""
    noise = (bands.radius >= bands.lowest) & (bands.radius <= kernel.highest_per_mm)
    return np.asarray((kernel.gain(bands.radius) / kernel.strength) ** 2 * noise)


def _place(
    bands: Bands,
    kernel: Kernel,
    own: Curve,
    noise: Curve,
    corners: NDArray[np.intp],
    size: int,
    pixel_mm: float,
) -> Place:
    fine = bands.frequency >= PLACE_LOWEST_PER_MM
    fine[-1] = True
    weight = bands.count * fine
    quotient = np.log((own @ weight) / (noise.mean(axis=0) @ (weight * kernel.gain(bands.frequency) ** 2)))
    flat = np.argsort(own[:, 0] / noise.mean(axis=0)[:, 0])
    flat = flat[: max(FEWEST_FLATTEST, round(PLACE_FLATTEST * len(own)))]
    y, x = ((corners[flat] + bands.side / 2 - size / 2) * pixel_mm / PLACE_MM).T
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y], axis=1)
    values = quotient[flat]
    robust = np.ones_like(values)
    prior = np.diag(np.array([1e-6, *np.full(4, PLACE_PRIOR**-2)]))
    for _ in range(ROBUST_STEPS):
        weighted = terms * (robust / PLACE_VARIANCE)[:, None]
        fit = np.linalg.solve(weighted.T @ terms + prior, weighted.T @ values)
        residual = values - terms @ fit
        spread = 1.5 * np.median(np.abs(residual)) + 1e-6
        robust = 1 / np.maximum(np.abs(residual) / spread, 1.0)
    constant = -float(np.median(terms[: len(flat) // 2, 1:] @ fit[1:]))
    return Place(
        tuple(float(value) for value in fit[1:]),
        constant,
        (float(y.min()), float(x.min())),
        (float(y.max()), float(x.max())),
    )


def high_band_correlation(first: FloatArray, second: FloatArray, pixel_mm: float) -> float:
    """Correlation of the noise of two slices [H,W] in HU: median over flat patches, above anatomy.

    Raises:
        NoiseCalibrationError: too little soft tissue.
    """
    side = patch_side(pixel_mm)
    both = solid_tissue(first) & solid_tissue(second)
    corners = patch_corners(both, side)
    bands = Bands(side, pixel_mm, 0.5)
    spectra = bands.spectra(np.stack([first, second]), corners)
    power = bands.means(np.abs(spectra) ** 2)
    chosen = np.argsort(power[..., 0].sum(axis=0))[: max(FEWEST_FLATTEST, round(FLATTEST * len(corners)))]
    cross = bands.means((spectra[0] * spectra[1].conj()).real[None])[0, chosen, 1:] * bands.count[1:]
    own = power[:, chosen, 1:] * bands.count[1:]
    return float(np.median(cross.sum(axis=1) / np.sqrt(np.prod(own.sum(axis=2), axis=0))))


def _flattest(power: Curve, count: int) -> Curve:
    """Median power [B-1] of the `count` patches with the least in the lowest band, of images [K,N,B]."""
    chosen = np.argsort(power[..., 0], axis=1)[:, :count, None]
    return np.asarray(np.median(np.take_along_axis(power[..., 1:], chosen, axis=1), axis=(0, 1)))


def _ridge(square: Curve, values: Curve, variance: Curve) -> Curve:
    """Coefficients of least squares with normal priors around 0."""
    terms = square[:, None] ** np.arange(len(PRIOR))
    weighted = terms / variance[:, None]
    return np.asarray(
        np.linalg.solve(weighted.T @ terms + np.diag(np.power(PRIOR, -2.0)), weighted.T @ values)
    )
