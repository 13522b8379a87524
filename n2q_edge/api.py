"""The Python API: what a notebook calls, and what the command line calls.

    >>> import n2q_edge, numpy as np
    >>> hu = np.full((256, 256), -1000.0)
    >>> hu[64:192, 48:208] = 40 + np.random.default_rng(0).normal(0, 20, (128, 160))  # a water-like phantom
    >>> with n2q_edge.load() as model:
    ...     result = model.assess(hu, spacing_mm=(0.7, 0.7))
    >>> result.quality_map.shape
    (256, 256)
    >>> 0 <= result.quality <= 1
    True
    >>> round(result.noise_hu, -1)  # what was added
    20.0

A whole series, slice by slice or at once:

    run = n2q_edge.assess("series/")
    for slice_result in run:                      # as they are done
        print(slice_result.number, slice_result.quality)
    run.write("report/")                          # report.html, report.json, slices.csv, pictures
    frame = run.to_dataframe()                    # one row per slice

Every error a caller can cause is an `N2QError` of one line. Nothing is changed in the calling process: no
allocator, no log level, no signal handler.

Over 350 lines because a third of them are the docstrings that the API reference is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike

from n2q_edge.assessment import run as runs
from n2q_edge.assessment.array import ArrayResult, VolumeResult, assess_array
from n2q_edge.assessment.learn_reference import open_reference
from n2q_edge.assessment.results import Rejection, SeriesReport, SliceResult
from n2q_edge.assessment.slice_result import Regions, tissue_regions
from n2q_edge.dicom import Inventory
from n2q_edge.dicom import scan as scan_paths
from n2q_edge.errors import UsageError, require
from n2q_edge.quality.policy import Policy, load_policy
from n2q_edge.quality.reference import Reference
from n2q_edge.runtimes import Runtime, open_model
from n2q_edge.spec import ModelSpec

if TYPE_CHECKING:
    import pandas
    from torch.nn import Module

    from n2q_edge.model.export import ExportReport

PathLike: TypeAlias = "str | Path"
PANDAS_EXTRA = "pandas"


class Model:
    """An open model. A context manager; `close` frees it.

    Attributes:
        runtime: what runs it.
    """

    def __init__(self, runtime: Runtime) -> None:
        """Take over an open runtime; `load` opens one."""
        self.runtime = runtime

    @property
    def spec(self) -> ModelSpec:
        """What the model is: name, version, window, outputs, training domain."""
        return self.runtime.spec

    @overload
    def assess(
        self,
        hu: np.ndarray[tuple[int, int], Any],
        spacing_mm: tuple[float, float] | None = None,
        *,
        reference_noise_hu: float | None = None,
    ) -> ArrayResult: ...

    @overload
    def assess(
        self,
        hu: np.ndarray[tuple[int, int, int], Any],
        spacing_mm: tuple[float, float] | None = None,
        *,
        reference_noise_hu: float | Sequence[float] | None = None,
    ) -> VolumeResult: ...

    @overload
    def assess(
        self,
        hu: ArrayLike,
        spacing_mm: tuple[float, float] | None = None,
        *,
        reference_noise_hu: float | Sequence[float] | None = None,
    ) -> Any: ...

    def assess(
        self,
        hu: ArrayLike,
        spacing_mm: tuple[float, float] | None = None,
        *,
        reference_noise_hu: float | Sequence[float] | None = None,
    ) -> ArrayResult | VolumeResult:
        """Assess one axial slice, or a stack of them, each by itself.

        Args:
            hu: [H,W] or [Z,H,W], Hounsfield units: signed integers or floating point. Values beyond
                [-1024, 3071] are clipped.
            spacing_mm: row and column spacing. Without it there is no model-free noise, and sizes are not
                compared with the training data.
            reference_noise_hu: noise that the full-dose twin of the slice would have, measured as `noise_hu`
                is; of a stack one for all or one for each slice, 0 for unknown. Noise and equivalent dose are
                compared with it; a model that takes it (`model.spec.takes_reference`) predicts quality
                relative to it.

        Returns:
            An `ArrayResult`, or for [Z,H,W] a `VolumeResult`, which is a sequence of them.

        Raises:
            UsageError: not numbers, not [H,W] or [Z,H,W], NaN or infinity, a spacing that is not positive, or
                a reference noise that is out of range.
            ModelError: the model failed.
        """
        return assess_array(self.runtime, hu, spacing_mm, reference_noise_hu)

    def close(self) -> None:
        """Free the model. Closing twice is harmless."""
        self.runtime.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        facts = self.runtime.describe()
        return f"<Model {self.spec.name} {self.spec.version} in {facts['name']} on {facts['device']}>"


class Assessment:
    """The assessment of series: a lazy stream, or a whole. Made by `assess`.

    Iterate it once to get the result of every slice as soon as it is done, in order, with its pixels in
    `images`. Whatever asks for the whole (`series`, `to_dict`, `write`, ...) first does the rest.
    """

    def __init__(
        self,
        inventory: Inventory,
        runtime: Runtime,
        *,
        batch: int = 1,
        policy: Policy | None = None,
        worst: int = 5,
        keep_images: bool = True,
        regions: Regions = tissue_regions,
        reference: Reference | None = None,
        collector: runs.Collector | None = None,
    ) -> None:
        """Begin; nothing is read before the first slice is asked for. The arguments are those of `assess`."""
        self.inventory = inventory
        self.found, self._outcomes = runs.begin(
            inventory,
            runtime,
            batch=batch,
            policy=policy,
            worst=worst,
            keep_images=keep_images,
            regions=regions,
            reference=reference,
            collector=collector,
        )

    def outcomes(self) -> Generator[SliceResult | Rejection, None, None]:
        """Like iterating, with the slices that could not be assessed in their places."""
        return self._outcomes

    def __iter__(self) -> Iterator[SliceResult]:
        return (outcome for outcome in self._outcomes if isinstance(outcome, SliceResult))

    def finish(self) -> Assessment:
        """Assess what is left."""
        for _ in self._outcomes:
            pass
        return self

    def close(self) -> None:
        """End early: what is done is kept, and `complete` is False. Closing twice is harmless."""
        self._outcomes.close()

    @property
    def complete(self) -> bool:
        """Whether every slice has been assessed or rejected."""
        return self.found.complete

    @property
    def series(self) -> list[SeriesReport]:
        """A report for each series: its `slices` and its `summary`, with the verdict."""
        return self.finish().found.series

    @property
    def rejected(self) -> list[Rejection]:
        """Files and slices that should have been assessed and could not be, each with a reason."""
        return self.finish().found.rejected

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `n2q-edge assess --json` (docs/reference/json.md)."""
        from n2q_edge.report.document import build

        return build(self.finish().found)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row per slice, with the columns of `slices.csv`.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        from n2q_edge.report.slices_csv import to_dataframe

        require("pandas", PANDAS_EXTRA)
        return to_dataframe(self.finish().found)

    def write(self, out: PathLike) -> list[Path]:
        """Write report.html, report.json, slices.csv and pictures, as `n2q-edge assess -o` does.

        Args:
            out: a folder; it is made if it is not there.

        Returns:
            The pictures.

        Raises:
            OutputError: the folder cannot be written to.
        """
        from n2q_edge.files import make_folder
        from n2q_edge.report.folder import write_folder

        document, folder = self.to_dict(), Path(out)
        make_folder(folder)
        return write_folder(self.found, document, folder)


def load(model: PathLike | None = None, *, runtime: str = "auto", threads: int | None = None) -> Model:
    """Open a model.

    Args:
        model: the name of a released model (`n2q-small`, `n2q-plus`), an ONNX file, a TensorRT engine or a
            checkpoint; the default released model if not given.
        runtime: a runtime that `n2q-edge doctor` lists, or `auto`.
        threads: CPU threads; one for each physical core if not given.

    Raises:
        UsageError: no such runtime, one that does not open such files, or `threads` below 1.
        MissingDependencyError: the runtime is not installed.
        ModelError: the file is missing, damaged or foreign.
    """
    return Model(open_model(None if model is None else Path(model), runtime=runtime, threads=threads))


def scan(paths: PathLike | Sequence[PathLike], *, on_file: Callable[[int], None] | None = None) -> Inventory:
    """Find the CT series in files, folders, zip archives, DICOMDIRs and NIfTI files; no pixels are read.

    Args:
        paths: one or several.
        on_file: called after each file with the number of files so far.

    Raises:
        UsageError: a path does not exist.
    """
    several = [paths] if isinstance(paths, (str, Path)) else paths
    return scan_paths([Path(path) for path in several], on_file=on_file)


def assess(
    source: PathLike | Sequence[PathLike] | Inventory,
    model: Model | None = None,
    *,
    batch: int = 1,
    policy: Policy | PathLike | None = None,
    worst: int = 5,
    keep_images: bool = True,
    regions: Regions = tissue_regions,
    reference: Reference | PathLike | float | None = None,
    collector: runs.Collector | None = None,
) -> Assessment:
    """Assess every CT slice of some files, lazily.

    Args:
        source: where the series are, or what `scan` found there.
        model: an open model; the default released model if not given.
        batch: slices per inference; more than 1 helps a GPU's throughput and costs latency.
        policy: what judges the series, or its file; the default policy if not given.
        worst: how many worst slices of each series to name.
        keep_images: whether these keep their pixels, about 3 MB each, for the pictures of `write`.
        regions: what to score beside the whole body.
        reference: the noise of full dose: a file of `n2q-edge reference`, a full-dose series, a level in HU,
            or any `quality.reference.Reference`.
        collector: gets every slice with its pixels as it is done, such as a `DicomWriter`.

    Raises:
        UsageError: a path does not exist, the policy is invalid, or `batch` is below 1.
        ModelError: the default model cannot be opened.
    """
    if batch < 1:
        raise UsageError(f"batch is {batch}, must be 1 or more")
    if not isinstance(policy, Policy):
        policy = load_policy(None if policy is None else Path(policy))
    inventory = source if isinstance(source, Inventory) else scan(source)
    return Assessment(
        inventory,
        (model or load()).runtime,
        batch=batch,
        policy=policy,
        worst=worst,
        keep_images=keep_images,
        regions=regions,
        reference=_reference(reference),
        collector=collector,
    )


def _reference(named: Reference | PathLike | float | None) -> Reference | None:
    if isinstance(named, (str, Path)):
        return open_reference(Path(named), None, None)
    if isinstance(named, (int, float)):
        return open_reference(None, named, None)
    return named


def export(module: Module, spec: ModelSpec, out: PathLike = "model.onnx") -> ExportReport:
    """Write a PyTorch network of your own as an ONNX file that every runtime here opens.

    Args:
        module: takes HU, float32 [N,1,H,W] with H and W multiples of `spec.size_multiple`; returns
            `quality_map` [N,1,H,W], SSIM in [0, 1], alone or as the first of a tuple of `spec.outputs`.
            Windowing and all other preprocessing are part of it.
        spec: goes into the file.
        out: the file to write.

    Raises:
        UsageError: `out` is not an `.onnx` file name, or its folder does not exist.
        MissingDependencyError: torch, onnx, onnxscript or onnxruntime is not installed.
        ModelError: the module does not keep the contract, or cannot be exported.
        ParityError: the ONNX file computes something else; it is not written.
        OutputError: the file could not be written.
    """
    from n2q_edge.model.export import export_module

    return export_module(module, spec, Path(out))
