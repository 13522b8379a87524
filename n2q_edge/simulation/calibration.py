"""How strong and how fine a slice's own noise is, told from its anatomy by the spectrum.

Anatomy lives in low frequencies, noise of filtered back-projection does not. In the flattest patches of soft
tissue the power of the slice, band by band, is held against that of noise reconstructed with the bare ramp in
the very same patches: where rays are weak both are high, so their quotient is the square of the scanner's
apodisation times the strength. It is fitted by

    log(quotient) = c0 + c1 f^2 + c2 f^4 + c3 f^6

from the lowest frequency on that anatomy leaves alone. Even powers, because an apodisation is even and 1 at
f = 0, where a reconstruction keeps the mean: so c0 is the strength, and what anatomy hides below is
extrapolated. c1 > 0 is a kernel that boosts fine detail, c1 < 0 one that rolls off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from n2q_edge.quality.scores import body_mask, global_noise_level

FloatArray: TypeAlias = NDArray[np.float32]
Curve: TypeAlias = NDArray[np.float64]

SOFT_TISSUE_HU = (-40.0, 140.0)  # muscle, organs, blood with contrast; fat and lung excluded
SMOOTHING = 9  # pixels; a pixel is tissue if the mean around it is
MIN_SOFT_PIXELS = 500

PATCH_MM = 14.0
LOWEST_PER_MM = (0.2, 0.27, 0.34)  # anatomy below: the first that gives no more noise than the slice has
TOLERATED_EXCESS = 1.1
LEVEL_WEIGHTS = (1.0, 3.0**0.5)  # D = 1/2 and 1/4
LEVEL_SHARE = 0.5  # of the second opinion on the strength
LEVEL_LIMITS = (0.85, 1.15)
LEAST_PATCHES, MOST_PATCHES = 12, 600
MOST_IMAGES = 3  # of unit noise that are looked at
FLATTEST, FEWEST_FLATTEST = 0.25, 32  # share of the patches, by their power in the lowest band
BANDS = 12
ROUNDING_VARIANCE = 1.0 / 12.0  # HU^2, of whole numbers
MODEL_ERROR = 0.1  # of the log power: what no polynomial follows
PLACE_MM = 150.0
PLACE_LOWEST_PER_MM = 0.3
PLACE_FLATTEST = 0.6
PLACE_PRIOR = 0.5
PLACE_VARIANCE = 4.0  # of a patch's log power; patches overlap and anatomy is in some
PLACE_LIMITS = (-1.0, 1.0)
ROBUST_STEPS = 5
PRIOR = (100.0, 6.0, 3.0, 3.0)  # standard deviations of the coefficients


class NoiseCalibrationError(ValueError):
    """The slice has too little soft tissue to measure its own noise."""


@dataclass(frozen=True)
class Kernel:
    """Strength and apodisation of a slice's noise.

    Attributes:
        coefficients: c0, c1, ... of the log power over f^2 in units of `highest_per_mm`.
        highest_per_mm: the highest frequency it was fitted to, 1/mm; the gain stays as it is there beyond.
    """

    coefficients: tuple[float, ...]
    highest_per_mm: float

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
        frequency = np.hypot(fft.fftfreq(height, pixel_mm)[:, None], fft.rfftfreq(width, pixel_mm))
        gain = self.gain(frequency).astype(np.float32)
        return np.asarray(fft.irfft2(fft.rfft2(images) * gain, s=(height, width)), dtype=np.float32)


def solid_tissue(hu: FloatArray) -> NDArray[np.bool_]:
    """Pixels whose whole neighbourhood averages to soft tissue without gas or bone nearby."""
    smooth = ndimage.uniform_filter(hu, SMOOTHING)
    inside = (smooth > SOFT_TISSUE_HU[0]) & (smooth < SOFT_TISSUE_HU[1])
    return np.asarray(ndimage.binary_erosion(inside, iterations=2))


@dataclass(frozen=True)
class Place:
    """Where a slice's own noise is stronger or weaker than rays and bow-tie say, a smooth factor.

    Real scanners even noise out: tube-current modulation, their own bow-ties, adaptive filters.

    Attributes:
        coefficients: of x, y, x^2, y^2 in units of `PLACE_MM` from the centre, in the log of the variance.
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
    side = _side(pixel_mm)
    corners = _patches(solid_tissue(hu), side)
    bands = _Bands(side, pixel_mm)
    own = bands.power(hu[None], corners)[0]
    noise = bands.power(unit[:MOST_IMAGES], corners)
    fits = (
        _fit(bands, own, noise, _smooth(noise.mean(axis=(0, 2)), corners, side), lowest)
        for lowest in LOWEST_PER_MM
    )
    level = LevelRise(hu, pixel_mm)
    best: tuple[float, Calibration] | None = None
    for kernel in fits:
        found = Calibration(kernel, _place(bands, kernel, own, noise, corners, hu.shape[0], pixel_mm))
        excess = level.excess(found.apply(unit[:1], pixel_mm)[0])
        if best is None or excess < best[0]:
            best = excess, found
        if excess <= TOLERATED_EXCESS:
            break
    assert best is not None
    correction = best[0] ** -LEVEL_SHARE
    return best[1].scaled(float(np.clip(correction, *LEVEL_LIMITS)))


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


def _fit(bands: _Bands, own: Curve, noise: Curve, level: Curve, lowest_per_mm: float) -> Kernel:
    """The kernel from the bands above a frequency: own power [N,B], that of unit noise [K,N,B], level [N]."""
    count = max(FEWEST_FLATTEST, round(FLATTEST * len(own)))
    use = bands.frequency[1:] >= lowest_per_mm
    use |= not use.any()
    measured = _flattest(own[None] / level[:, None], count)[use]
    expected = _flattest(noise / level[:, None], count)[use]
    rounding = ROUNDING_VARIANCE / np.median(level)
    signal = np.maximum(measured - rounding, 0.05 * measured)
    square = (bands.frequency[1:] / bands.frequency[-1]) ** 2
    variance = MODEL_ERROR**2 + 8 / (count * bands.count[1:][use]) + (rounding / signal) ** 2
    fit = _ridge(square[use], np.log(signal / expected), variance)
    return Kernel(tuple(float(value) for value in fit), float(bands.frequency[-1]))


def _place(
    bands: _Bands,
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
    side = _side(pixel_mm)
    both = solid_tissue(first) & solid_tissue(second)
    corners = _patches(both, side)
    bands = _Bands(side, pixel_mm, 0.5)
    spectra = bands.spectra(np.stack([first, second]), corners)
    power = bands.means(np.abs(spectra) ** 2)
    chosen = np.argsort(power[..., 0].sum(axis=0))[: max(FEWEST_FLATTEST, round(FLATTEST * len(corners)))]
    cross = bands.means((spectra[0] * spectra[1].conj()).real[None])[0, chosen, 1:] * bands.count[1:]
    own = power[:, chosen, 1:] * bands.count[1:]
    return float(np.median(cross.sum(axis=1) / np.sqrt(np.prod(own.sum(axis=2), axis=0))))


def _side(pixel_mm: float) -> int:
    """Pixels of a patch."""
    return max(8, 2 * round(PATCH_MM / pixel_mm / 2))


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


def _patches(soft: NDArray[np.bool_], side: int) -> NDArray[np.intp]:
    """Upper left corners [N,2] of the patches that are soft tissue all over, a quarter of a side apart."""
    if int(soft.sum()) < MIN_SOFT_PIXELS:
        raise NoiseCalibrationError(f"only {int(soft.sum())} soft-tissue pixels, {MIN_SOFT_PIXELS} needed")
    step = side // 4
    share = ndimage.uniform_filter(soft.astype(np.float32), side, origin=-(side // 2))
    inside = share[:-side:step, :-side:step]
    for least in (0.999, 0.95, 0.9):
        corners = np.argwhere(inside >= least) * step
        if len(corners) >= LEAST_PATCHES:
            return corners[:: 1 + len(corners) // MOST_PATCHES]
    raise NoiseCalibrationError(f"only {len(corners)} patches of soft tissue, {LEAST_PATCHES} needed")


def _smooth(level: Curve, corners: NDArray[np.intp], side: int) -> Curve:
    """Means over neighbouring patches."""
    distance = np.abs(corners[:, None] - corners[None]).max(axis=-1)
    near = distance <= 2 * side
    return np.asarray(near @ level / near.sum(axis=1))


class _Bands:
    """Rings of a patch's spectrum; the first is below `LOWEST_PER_MM`, the others lie above."""

    def __init__(self, side: int, pixel_mm: float, least: float = 0.25) -> None:
        lowest = max(min(LOWEST_PER_MM[0], 0.25 / pixel_mm), least * 0.5 / pixel_mm)
        self.side = side
        axis = fft.fftfreq(side, pixel_mm)
        frequency = np.hypot(axis[:, None], axis[: side // 2 + 1])
        edges = np.linspace(lowest, 0.5 / pixel_mm, BANDS + 1)
        place = np.searchsorted(edges, frequency.ravel(), side="right")
        place[frequency.ravel() < 1.5 / (side * pixel_mm)] = BANDS + 1
        member = np.stack([place == band for band in range(BANDS + 1)], axis=1).astype(np.float64)
        kept = member.sum(axis=0) > 0
        self.count = member.sum(axis=0)[kept]
        self._mean = member[:, kept] / self.count
        self.frequency = frequency.ravel() @ self._mean
        window = np.hanning(side + 2)[1:-1]
        self._window = np.outer(window, window)
        self._window /= np.sqrt((self._window**2).sum())
        y, x = (np.mgrid[:side, :side] - (side - 1) / 2) / side
        terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
        self._trend, _ = np.linalg.qr(terms)

    def spectra(self, images: FloatArray, corners: NDArray[np.intp]) -> NDArray[np.complex128]:
        """Windowed spectra [K,N,side,side/2+1] of the patches of each image [K,H,W], without their trend."""
        views = np.lib.stride_tricks.sliding_window_view(images, (self.side, self.side), axis=(-2, -1))
        patches = views[:, corners[:, 0], corners[:, 1]].astype(np.float64)
        flat = patches.reshape(*patches.shape[:2], -1)
        flat = flat - (flat @ self._trend) @ self._trend.T
        return np.asarray(fft.rfft2(flat.reshape(patches.shape) * self._window))

    def means(self, power: Curve) -> Curve:
        """Means [K,N,B] over each band of quantities [K,N,side,side/2+1]."""
        return np.asarray(power.reshape(*power.shape[:2], -1) @ self._mean)

    def power(self, images: FloatArray, corners: NDArray[np.intp]) -> Curve:
        """Mean power [K,N,B] per frequency in HU^2 of the patches of each image [K,H,W]."""
        return self.means(np.abs(self.spectra(images, corners)) ** 2)
