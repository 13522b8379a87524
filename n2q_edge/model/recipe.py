"""A recipe: one TOML file in `export/` that says everything about a system."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from n2q_edge.errors import ModelError
from n2q_edge.spec import PRECISIONS, ModelSpec, SsimDefinition

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAP_LOSSES = ("l1", "mse", "l1+2mse")
DOSES = ("levels", "continuous")


@dataclass(frozen=True)
class TrainingSettings:
    """The `[training]` table.

    Attributes:
        steps: optimiser steps of the full schedule.
        batch: slices or crops a step.
        crop: side of the training crops in pixels; 0 trains on whole slices.
        learning_rate: Adam's.
        weight_decay: Adam's L2 penalty.
        schedule: `constant` or `cosine` (with a warm-up of 2 % of the schedule).
        map_loss: `l1`, `mse` or `l1+2mse`.
        alpha: weight of the dose loss.
        noise_weight: weight of the noise-map loss, for networks that have that output.
        error_weight: weight of the loss of the predicted variance of the map's error, likewise.
        air_weight: weight of pixels in air in the map loss (1 = all alike, as the authors do).
        doses: `levels` draws one of the spec's levels, `continuous` a log-uniform dose in [0.03, 1].
        hu_offset: largest random HU offset given to a slice and its twin.
        reduced: share of the samples at half resolution (2x2 means), as the authors' slices are.
        kernel_change: share of the samples given another reconstruction kernel (see `sampling`).
        noisier_twin: share of the samples of unknown reference whose full-dose twin is given less dose, too.
        reference: share of the samples whose network is told the noise of the twin; 0 for networks that
            cannot be told.
        reference_error: largest relative error of what it is told, e.g. 0.3.
        declared_twin: share of those samples whose twin has less dose, down to `least_twin_dose`.
        least_twin_dose: lowest dose of a declared twin.
        whiter: share of the samples given a sharp kernel: noise of a neighbor correlation of 0.05 to 0.2.
        equal_patients: draw every patient as often as any other, however many slices it has; without it
            patients weigh with the square root of their slices.
        contrast_change: share of the samples given another contrast (see `sampling`).
        ignore_edge: give the outermost 5 pixels of a crop no weight: the network is to predict a slice's map,
            and there a crop does not show what the SSIM depends on.
        ema: decay of the exponential average of the weights that is kept; 0 keeps the last weights.
        slice_weight: weight of the loss of each crop's mean error.
        seed: of everything random.
    """

    steps: int
    batch: int
    crop: int = 0
    learning_rate: float = 2e-4
    weight_decay: float = 1e-5
    schedule: str = "constant"
    map_loss: str = "l1"
    alpha: float = 0.01
    noise_weight: float = 0.0
    error_weight: float = 0.0
    air_weight: float = 1.0
    doses: str = "levels"
    hu_offset: float = 0.0
    reduced: float = 0.0
    kernel_change: float = 0.0
    noisier_twin: float = 0.0
    reference: float = 0.0
    reference_error: float = 0.0
    declared_twin: float = 0.0
    least_twin_dose: float = 0.2
    whiter: float = 0.0
    equal_patients: bool = False
    contrast_change: float = 0.0
    ignore_edge: bool = False
    slice_weight: float = 0.0
    ema: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("map_loss", self.map_loss, MAP_LOSSES),
            ("doses", self.doses, DOSES),
            ("schedule", self.schedule, ("constant", "cosine")),
        ):
            if value not in allowed:
                raise ModelError(f"recipe: training.{name} = {value!r} is not one of {list(allowed)}")
        if self.steps < 1 or self.batch < 1 or self.crop % 16 or self.crop < 0:
            raise ModelError("recipe: training.steps and batch must be positive, crop a multiple of 16")
        if self.reduced and not self.crop:
            raise ModelError("recipe: training.reduced needs a crop")
        if not (0.0 <= self.reference_error < 1.0 and 0.0 < self.least_twin_dose <= 1.0):
            raise ModelError("recipe: training.reference_error or least_twin_dose out of range")


@dataclass(frozen=True)
class ExportSettings:
    """The `[export]` table: what the parity gate tolerates, in SSIM units.

    Attributes:
        max_map_difference: largest difference of a pixel of the quality map.
        mean_map_difference: largest mean difference.
    """

    max_map_difference: float = 1e-3
    mean_map_difference: float = 1e-5


@dataclass(frozen=True)
class Recipe:
    """One system.

    Attributes:
        path: the TOML file.
        spec: the model's spec; `training` is filled in by the trainer.
        training: training settings.
        export: export tolerances of `fp32`.
        lower_precision: export tolerances of other precisions, by name: the tables `[export.fp16]`, ...
    """

    path: Path
    spec: ModelSpec
    training: TrainingSettings
    export: ExportSettings
    lower_precision: dict[str, ExportSettings] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """Where the trained weights of this recipe live: beside it."""
        return self.path.with_suffix(".safetensors")


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ModelError: missing, not TOML, or with wrong or unknown fields.
    """
    try:
        tables: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not a TOML recipe: {error}") from None
    unknown = set(tables) - {"model", "network", "training", "export"}
    if unknown:
        raise ModelError(f"{path}: unknown table {sorted(unknown)[0]!r}")
    try:
        model = dict(tables["model"])
        if "ssim" in model:
            model["ssim"] = SsimDefinition(**model["ssim"])
        for name in ("dose_levels", "inputs", "outputs"):
            if name in model:
                model[name] = tuple(model[name])
        export = dict(tables.get("export", {}))
        lower = {name: export.pop(name) for name in PRECISIONS[1:] if name in export}
        return Recipe(
            path=path,
            spec=ModelSpec(network=tables["network"], **model),
            training=TrainingSettings(**tables["training"]),
            export=ExportSettings(**export),
            lower_precision={name: ExportSettings(**settings) for name, settings in lower.items()},
        )
    except KeyError as error:
        raise ModelError(f"{path}: has no table [{error.args[0]}]") from None
    except (ModelError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from None
    except TypeError as error:
        fault = str(error).split("() ", 1)[-1]  # of the constructor of a table: which field is wrong
        raise ModelError(f"{path}: {fault}") from None
