"""ModelSpec: all that must travel with a model, whatever file it is in.

The same JSON text stands in a checkpoint's safetensors metadata, in an ONNX file's `metadata_props` and in
an engine's sidecar, under the key `SPEC_KEY`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from n2q_edge.errors import ModelError

SPEC_KEY = "n2q_edge.spec"
SCHEMA_VERSION = 1

MAX_MULTIPLE = 1024  # of the input's size; a slice is padded up to it
HU_MIN = -1024.0
HU_MAX = 3071.0
DOSE_LEVELS = (0.05, 0.10, 0.25, 0.50, 0.75)

HU_INPUT = "hu"
REFERENCE_INPUT = "reference_noise_hu"
INPUTS = ((HU_INPUT,), (HU_INPUT, REFERENCE_INPUT))
MAP_CELLS = (1, 2, 4, 8)
REQUIRED_OUTPUTS = ("quality_map",)
OPTIONAL_OUTPUTS = ("dose_probabilities", "noise_map", "log_variance")


HALF_PRECISIONS = ("fp16", "fp16-norm32")
FLOAT_PRECISIONS = ("fp32", *HALF_PRECISIONS)
PRECISIONS = (*FLOAT_PRECISIONS, "int8")
"""What the weights of a model may be; see `n2q_edge.model.precision` and `n2q_edge.model.quantize`."""


@dataclass(frozen=True)
class SsimDefinition:
    """The SSIM the quality map predicts (Wang et al. 2004), on the windowed image in [0, 1]."""

    window: int = 11
    sigma: float = 1.5
    k1: float = 0.01
    k2: float = 0.03
    data_range: float = 1.0

    def __post_init__(self) -> None:
        if not all(isinstance(value, (int, float)) and 0 < value < math.inf for value in vars(self).values()):
            raise ValueError(f"SSIM definition {vars(self)} is not of numbers above 0")


@dataclass(frozen=True)
class FeatureLimits:
    """Which values of a feature of a slice a model knows (see `n2q_edge.quality.domain`).

    Attributes:
        training: lowest and highest value that counts as learned.
        limits: the same with a margin; a slice beyond is unlike the training data.
    """

    training: tuple[float, float]
    limits: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.limits
        if not -math.inf < low <= self.training[0] <= self.training[1] <= high < math.inf:  # NaN fails, too
            raise ValueError(f"limits {self.limits} do not enclose {self.training}")


@dataclass(frozen=True)
class ModelSpec:
    """What a model is and how to feed it.

    Attributes:
        name: short name, e.g. `n2q` or `n2q-small`.
        version: version of the weights.
        network: `{"class": ..., **arguments}`: what `n2q_edge.network.build` needs to rebuild it.
        window_center: centre of the display window the SSIM is defined on, HU.
        window_width: width of that window, HU.
        size_multiple: H and W of the input must be multiples of it.
        dose_levels: dose fractions the model is made for, ascending: the K classes of its dose head, if it
            has one (see `predicted_doses`).
        inputs: names of the graph's inputs, in order: `hu`, and `reference_noise_hu` if the model takes the
            noise of the full-dose twin (float32 [N], HU, 0 for unknown).
        outputs: names of the graph's outputs, in order, `quality_map` first.
        map_cell: pixels a side of one value of `noise_map` and `log_variance`; 1 is full resolution.
        ssim: the SSIM definition behind the quality map.
        precision: precision of the weights: `fp32`, `fp16`, `fp16-norm32` or `int8`.
        training: provenance: data, steps, seed, metrics, attribution. Free-form JSON.
        domain: by feature, what the training data was like; None if the model cannot tell.
    """

    name: str
    version: str
    network: dict[str, Any]
    window_center: float = 40.0
    window_width: float = 300.0
    size_multiple: int = 16
    dose_levels: tuple[float, ...] = DOSE_LEVELS
    inputs: tuple[str, ...] = (HU_INPUT,)
    outputs: tuple[str, ...] = (*REQUIRED_OUTPUTS, "dose_probabilities")
    map_cell: int = 1
    ssim: SsimDefinition = field(default_factory=SsimDefinition)
    precision: str = "fp32"
    training: dict[str, Any] = field(default_factory=dict)
    domain: dict[str, FeatureLimits] | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        optional = self.outputs[len(REQUIRED_OUTPUTS) :]
        if (
            self.outputs[: len(REQUIRED_OUTPUTS)] != REQUIRED_OUTPUTS
            or set(optional) - set(OPTIONAL_OUTPUTS)
            or len(set(optional)) < len(optional)
        ):
            raise ModelError(
                f"model {self.name!r}: outputs {list(self.outputs)} are not "
                f"{list(REQUIRED_OUTPUTS)} plus any of {list(OPTIONAL_OUTPUTS)}"
            )
        if self.inputs not in INPUTS:
            raise ModelError(
                f"model {self.name!r}: inputs {list(self.inputs)} are not one of {[list(i) for i in INPUTS]}"
            )
        if self.map_cell not in MAP_CELLS or self.size_multiple % self.map_cell:
            raise ModelError(f"model {self.name!r}: map_cell {self.map_cell} is not one of {MAP_CELLS}")
        window = (self.window_center, self.window_width)
        if not all(map(math.isfinite, window)) or self.window_width <= 0:
            raise ModelError(
                f"model {self.name!r}: window {window} is not a finite center and a width above 0"
            )
        if not 1 <= self.size_multiple <= MAX_MULTIPLE:
            raise ModelError(
                f"model {self.name!r}: size multiple {self.size_multiple} is not 1 to {MAX_MULTIPLE}"
            )
        levels = self.dose_levels
        if not levels or list(levels) != sorted(set(levels)) or not 0 < levels[0] <= levels[-1] <= 1:
            raise ModelError(f"model {self.name!r}: dose levels {list(levels)} do not ascend within (0, 1]")

    def _check_kinds(self) -> None:
        """A spec is read from files: nothing is taken for granted."""
        kinds: dict[str, type | tuple[type, ...]] = {
            "name": str,
            "version": str,
            "network": dict,
            "window_center": (int, float),
            "window_width": (int, float),
            "size_multiple": int,
            "precision": str,
            "training": dict,
        }
        for field_name, kind in kinds.items():
            if not isinstance(getattr(self, field_name), kind):
                raise ModelError(f"model {self.name!r}: {field_name} is {getattr(self, field_name)!r:.40}")
        texts = (*self.outputs, self.network.get("class", ""))
        if not all(isinstance(text, str) for text in texts):
            raise ModelError(f"model {self.name!r}: an output or the network's class is not a name")

    @property
    def window_hu(self) -> tuple[float, float]:
        """Lower and upper limit of the display window, HU."""
        half = self.window_width / 2
        return self.window_center - half, self.window_center + half

    @property
    def takes_reference(self) -> bool:
        """The model has the input `reference_noise_hu`."""
        return REFERENCE_INPUT in self.inputs

    @property
    def predicted_doses(self) -> tuple[float, ...]:
        """The dose levels the model tells apart; empty without a dose head."""
        return self.dose_levels if "dose_probabilities" in self.outputs else ()

    def to_json(self) -> str:
        """The spec as one line of JSON, with its schema version."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read what `to_json` wrote.

        Raises:
            ModelError: not JSON, another schema version, or fields missing or unknown.
        """
        try:
            fields = dict(json.loads(text))
            schema = fields.pop("schema_version")
            if schema != SCHEMA_VERSION:
                raise ModelError(
                    f"model spec has schema version {schema}, this n2q-edge reads {SCHEMA_VERSION}: "
                    "export the model again or update n2q-edge"
                )
            fields["ssim"] = SsimDefinition(**fields["ssim"])
            fields["dose_levels"] = tuple(float(level) for level in fields["dose_levels"])
            fields["outputs"] = tuple(fields["outputs"])
            fields["inputs"] = tuple(fields.get("inputs", (HU_INPUT,)))  # older files have one
            fields["domain"] = _domain(fields.get("domain"))
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ModelError(f"model spec cannot be read ({error}): export the model again") from None

    @classmethod
    def from_metadata(cls, metadata: dict[str, str] | None, source: str) -> ModelSpec:
        """Read the spec from a file's metadata.

        Raises:
            ModelError: there is none, or it cannot be read.
        """
        if not metadata or SPEC_KEY not in metadata:
            raise ModelError(
                f"{source} carries no n2q-edge model spec: write it with 'n2q-edge export', which adds one"
            )
        try:
            return cls.from_json(metadata[SPEC_KEY])
        except ModelError as error:
            raise ModelError(f"{source}: {error}") from None


def _domain(found: dict[str, Any] | None) -> dict[str, FeatureLimits] | None:
    """The `domain` of a spec's JSON; files made before there was one have none."""
    if found is None:
        return None
    domain = {}
    for name, fields in found.items():
        (low, high), (lowest, highest) = fields["training"], fields["limits"]
        domain[name] = FeatureLimits((float(low), float(high)), (float(lowest), float(highest)))
    return domain
