"""The one interface every runtime satisfies: HU in, quality map (and dose) out, timed."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

from n2q_edge.arrays import FloatArray
from n2q_edge.spec import ModelSpec


@dataclass(frozen=True)
class InferTiming:
    """Milliseconds of one `infer` call. On a CPU there are no transfers: `h2d` and `d2h` are None."""

    total: float
    h2d: float | None = None
    compute: float | None = None
    d2h: float | None = None


@dataclass(frozen=True)
class Inference:
    """What a model says about a batch. The arrays are the caller's: no runtime writes to them again.

    Attributes:
        quality_map: float32 [N,1,H,W], predicted SSIM in [0, 1].
        dose_probabilities: float32 [N,K], one row sums to 1; the levels are `spec.dose_levels`. None if the
            model has no dose head.
        timing: of the whole batch.
        noise_map: float32 [N,1,H/c,W/c], noise standard deviation in HU, if the model gives one; c is
            `spec.map_cell`, see `n2q_edge.runtimes.grid` for one value a pixel.
        log_variance: float32 [N,1,H/c,W/c], log of the variance of the quality map's error, if the model
            gives one.
    """

    quality_map: FloatArray
    dose_probabilities: FloatArray | None
    timing: InferTiming
    noise_map: FloatArray | None = None
    log_variance: FloatArray | None = None


class Runtime(Protocol):
    """A model opened by one inference library. A context manager."""

    @property
    def spec(self) -> ModelSpec:
        """The model's spec."""

    @property
    def concurrency(self) -> int:
        """How many threads may be inside `infer` at once, and should, where many slices wait."""

    def describe(self) -> dict[str, Any]:
        """Name, version, device, threads and options of the runtime, for the report."""

    def infer(self, hu: FloatArray, reference_noise_hu: FloatArray | None = None) -> Inference:
        """Run the model.

        Args:
            hu: float32 [N,1,H,W], Hounsfield units in [-1024, 3071]; H and W multiples of
                `spec.size_multiple`.
            reference_noise_hu: float32 [N], noise in HU of the full-dose twin of each slice, measured as
                `noise_hu` is; 0 where unknown. None is unknown for all. Only models whose spec
                `takes_reference` can be told any.

        Raises:
            ModelError: an input is not what the model takes, or the runtime failed on it.
        """

    def close(self) -> None:
        """Free the model. Closing twice is harmless."""

    def __enter__(self) -> Runtime:
        """Enter the context."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


Opened = TypeVar("Opened", bound="Closing")


class Closing:
    """What makes a model a context manager: leaving it frees the model."""

    def close(self) -> None:
        """Free the model. Closing twice is harmless."""
        raise NotImplementedError

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
