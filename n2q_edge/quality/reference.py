"""How noisy a slice would be at full dose: what a site's own full-dose scans say, by protocol and body size.

From one slice nobody can tell how noisy its full-dose twin is; a site can. Noise is learned per protocol
(scanner, kernel, slice thickness, tube voltage) against the water-equivalent diameter D of the body,

    ln noise = a + b * (D - D0)

by least squares in which every series counts alike. The spread of the residuals gives the interval. Noise is
`noise_hu` everywhere: the model-free level of `quality.noise`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from n2q_edge.errors import UsageError

BEYOND_MM = 20.0  # how far beyond the diameters it was learned on a reference is used
LEAST_SPREAD = 0.07  # noise follows the diameter within 7 % on one protocol (published)
INTERVAL = 1.96  # standard deviations: 95 %

WATER_ATTENUATION = 0.0195  # 1/mm near 68 keV (NIST XCOM): quantum noise grows as exp(0.0195 / 2 * D)
NOISE_RANGE_HU = (0.2, 500.0)  # what a reference may be
DIAMETER_RANGE_MM = (20.0, 700.0)


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What must agree before the noise of two scans is comparable.

    Attributes:
        scanner: manufacturer and model.
        kernel: Convolution Kernel.
        slice_thickness_mm: Slice Thickness.
        kvp: tube voltage in kV.
    """

    scanner: str
    kernel: str
    slice_thickness_mm: float
    kvp: float

    @classmethod
    def of(cls, protocol: Mapping[str, Any]) -> Acquisition | None:
        """From a series' protocol; None where it does not say enough."""
        maker, model, kernel = (protocol.get(name) for name in ("manufacturer", "model", "kernel"))
        thickness, kvp = protocol.get("slice_thickness_mm"), protocol.get("kvp")
        if not (maker and model and kernel and thickness and kvp):
            return None
        return cls(f"{maker} {model}", str(kernel), round(float(thickness), 3), round(float(kvp), 1))

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.scanner}, kernel {self.kernel}, {self.slice_thickness_mm:g} mm, {self.kvp:g} kV"


@dataclass(frozen=True, slots=True)
class Observation:
    """One full-dose slice.

    Attributes:
        acquisition: how it was made.
        series: which series it is of; any key.
        diameter_mm: water-equivalent diameter.
        noise_hu: model-free noise.
    """

    acquisition: Acquisition
    series: str
    diameter_mm: float
    noise_hu: float


@dataclass(frozen=True, slots=True)
class Entry:
    """The noise of one protocol at full dose.

    Attributes:
        acquisition: the protocol.
        noise_hu: at `diameter_mm`.
        diameter_mm: the mean of those learned on.
        growth_per_mm: of the logarithm of the noise with the diameter; 0 where sizes did not differ enough.
        spread: standard deviation of the logarithm of the noise around that line, at least `LEAST_SPREAD`.
        diameters_mm: smallest and largest learned on.
        slices: learned on.
        series: learned on.
    """

    acquisition: Acquisition
    noise_hu: float
    diameter_mm: float
    growth_per_mm: float
    spread: float
    diameters_mm: tuple[float, float]
    slices: int
    series: int


@dataclass(frozen=True, slots=True)
class ReferenceNoise:
    """The noise that the full-dose twin of a slice would have.

    Attributes:
        noise_hu: expected.
        interval_hu: within which it lies, 95 %.
        source: where it comes from, for people.
    """

    noise_hu: float
    interval_hu: tuple[float, float]
    source: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is no reference for a slice.

    Attributes:
        reason: one line for people.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A slice against its reference.

    Attributes:
        ratio: its noise over the reference's, with 95 % interval.
        equivalent_dose: the dose, as a fraction of the reference's, that gives this noise:
            (reference / noise)^2, with 95 % interval. Quantum noise alone: where electronic noise counts, the
            true dose is higher.
    """

    ratio: float
    ratio_interval: tuple[float, float]
    equivalent_dose: float
    equivalent_dose_interval: tuple[float, float]


class Reference(Protocol):
    """What knows the full-dose noise of slices."""

    def noise(self, protocol: Mapping[str, Any], diameter_mm: float | None) -> ReferenceNoise | Unknown:
        """The reference of a slice of a series with this protocol and a body of this diameter."""


def compare(noise_hu: float, reference: ReferenceNoise) -> Comparison:
    """Noise and equivalent dose of a slice relative to its reference.

    Args:
        noise_hu: model-free noise of the slice, above 0.
        reference: of the same slice.
    """
    low, high = reference.interval_hu
    ratio = noise_hu / reference.noise_hu
    ratios = noise_hu / high, noise_hu / low
    return Comparison(ratio, ratios, ratio**-2, (ratios[1] ** -2, ratios[0] ** -2))


@dataclass(frozen=True)
class DeclaredNoise:
    """A noise level that somebody states: `--reference-noise`.

    Attributes:
        noise_hu: the level.
        diameter_mm: water-equivalent diameter it holds for; other sizes are corrected as at a fixed tube
            current, by exp(0.0195 / 2 * D). None: for all sizes, as where a scanner prescribes the noise.
    """

    noise_hu: float
    diameter_mm: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: noise or diameter is out of range.
        """
        if not NOISE_RANGE_HU[0] <= self.noise_hu <= NOISE_RANGE_HU[1]:
            raise UsageError(
                f"a reference noise of {self.noise_hu:g} HU is not plausible: give "
                f"{NOISE_RANGE_HU[0]:g} to {NOISE_RANGE_HU[1]:g} HU"
            )
        diameter = self.diameter_mm
        if diameter is not None and not DIAMETER_RANGE_MM[0] <= diameter <= DIAMETER_RANGE_MM[1]:
            raise UsageError(
                f"a reference diameter of {diameter:g} mm is not plausible: give "
                f"{DIAMETER_RANGE_MM[0]:g} to {DIAMETER_RANGE_MM[1]:g} mm"
            )

    def noise(self, protocol: Mapping[str, Any], diameter_mm: float | None) -> ReferenceNoise | Unknown:
        """See `Reference`."""
        level, source = self.noise_hu, f"declared: {self.noise_hu:g} HU"
        if self.diameter_mm is not None:
            if diameter_mm is None:
                return Unknown("the declared noise holds for a body size, and this slice has none")
            level *= math.exp(WATER_ATTENUATION / 2 * (diameter_mm - self.diameter_mm))
            source += f" at a water-equivalent diameter of {self.diameter_mm:g} mm"
        return _with_interval(level, LEAST_SPREAD, source)


@dataclass(frozen=True)
class SiteReference:
    """What full-dose scans of a site said.

    Attributes:
        name: of the file or folder it is from, for people.
        entries: one a protocol.
    """

    name: str
    entries: tuple[Entry, ...]

    def noise(self, protocol: Mapping[str, Any], diameter_mm: float | None) -> ReferenceNoise | Unknown:
        """See `Reference`."""
        acquisition = Acquisition.of(protocol)
        if acquisition is None:
            return Unknown("the header lacks the scanner, kernel, slice thickness or tube voltage")
        entry = next((each for each in self.entries if agrees(each.acquisition, acquisition)), None)
        if entry is None:
            return Unknown(f"{self.name} has no reference for {acquisition.text}{self._nearest(acquisition)}")
        if diameter_mm is None:
            return Unknown("no body size could be measured in this slice")
        low, high = entry.diameters_mm
        if not low - BEYOND_MM <= diameter_mm <= high + BEYOND_MM:
            return Unknown(
                f"a body of {diameter_mm:.0f} mm is outside the {low:.0f} to {high:.0f} mm "
                f"that {self.name} was learned on"
            )
        level = entry.noise_hu * math.exp(entry.growth_per_mm * (diameter_mm - entry.diameter_mm))
        source = f"{self.name}: {entry.slices} slices of {entry.series} series, {acquisition.text}"
        return _with_interval(level, entry.spread, source)

    def _nearest(self, wanted: Acquisition) -> str:
        """What it has for the same scanner, for the message."""
        kernels = sorted(
            {e.acquisition.text for e in self.entries if e.acquisition.scanner == wanted.scanner}
        )
        return f"; it has {'; '.join(kernels[:3])}" if kernels else ", nor for that scanner"


def _with_interval(level: float, spread: float, source: str) -> ReferenceNoise:
    factor = math.exp(INTERVAL * spread)
    return ReferenceNoise(level, (level / factor, level * factor), source)


def agrees(one: Acquisition, other: Acquisition) -> bool:
    """Whether noise may be compared: the same scanner and kernel, thickness within 2 %, 1 kV."""
    return (
        one.scanner.casefold() == other.scanner.casefold()
        and one.kernel.casefold() == other.kernel.casefold()
        and math.isclose(one.slice_thickness_mm, other.slice_thickness_mm, rel_tol=0.02)
        and math.isclose(one.kvp, other.kvp, abs_tol=1.0)
    )
