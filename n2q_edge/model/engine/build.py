"""Build a TensorRT engine and its sidecar from an ONNX file.

One path for `tensorrt` 10.3-11.x and `tensorrt_rtx` 1.x: only what both offer, the rest behind `hasattr`.
Networks are strongly typed, so the precision is that of the ONNX file. Shapes are static.

Over 350 lines: the plan, its checks and the build need the same facts of two libraries.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

from n2q_edge import __version__
from n2q_edge.errors import ModelError, N2QError, UsageError
from n2q_edge.files import write_file, write_text
from n2q_edge.model.engine.onnx_file import read_onnx
from n2q_edge.model.engine.targets import Target
from n2q_edge.runtimes import cuda
from n2q_edge.runtimes.checks import INPUT_NAME
from n2q_edge.runtimes.cuda import Device
from n2q_edge.runtimes.libraries import first_line
from n2q_edge.runtimes.model_file import ModelFile, read_model_file
from n2q_edge.runtimes.rtx_cache import cache_folder
from n2q_edge.runtimes.sidecar import Sidecar, sidecar_path
from n2q_edge.runtimes.tensorrt_library import (
    RTX,
    RTX_CAPABILITIES,
    TENSORRT,
    Flavor,
    capabilities,
    capability_enum,
    flavor_named,
    is_installed,
    load,
    logger,
    version,
)
from n2q_edge.spec import HALF_PRECISIONS, ModelSpec

DEFAULT_SIDE = 512
DEFAULT_WORKSPACE_MIB = 1024
TURING = "7.5"
RECOMMENDED_PRECISION = "fp16-norm32"  # where there is no target that says so
EXPORT = f"n2q-edge export --precision {RECOMMENDED_PRECISION} -o MODEL.onnx"

Progress = Callable[[float, str], None]
"""Called with the fraction done, 0 to 1, and the builder's name of what it is at."""


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    Attributes:
        path: the engine file.
        sidecar_path: the JSON file beside it.
        sidecar: what it says.
    """

    path: Path
    sidecar_path: Path
    sidecar: Sidecar


@dataclass(frozen=True)
class _Plan:
    """What to build, decided before the library is asked for anything."""

    flavor: Flavor
    capabilities: tuple[str, ...]
    shape: tuple[int, int, int, int]
    workspace_mib: int
    targets: tuple[str, ...]
    device: Device | None


def build(
    onnx: Path,
    out: Path | None = None,
    *,
    targets: Sequence[Target] = (),
    flavor: str | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    on_progress: Progress | None = None,
) -> BuildReport:
    """Build an engine.

    Args:
        onnx: the ONNX file, with a spec inside.
        out: the engine file, `.engine`; None: beside the ONNX file, named after it and what it is for.
        targets: profiles to build for, several in one engine; none: the GPU present.
        flavor: `tensorrt` or `tensorrt-rtx`; None: what the first target recommends, or what is installed.
        size: height and width of the slices in pixels; None: the targets', or 512x512.
        batch: slices an inference; None: the targets', or 1.
        on_progress: told how far the build is.

    Raises:
        UsageError: `out` is no `.engine` file name, or the targets contradict one another.
        MissingDependencyError: the flavor's library or `onnx` is not installed.
        ModelError: no ONNX file with a spec; a target or a precision the flavor cannot build here; the parser
            or the builder failed.
        OutputError: a file could not be written.
        KeyboardInterrupt: Ctrl-C; nothing is written.
    """
    model = read_model_file(onnx)
    spec = read_onnx(model).spec
    plan = _plan(targets, flavor, size, batch, spec)
    out = out or onnx.with_name(f"{onnx.stem}.{'+'.join(plan.targets) or 'this-gpu'}.engine")
    if out.suffix != ".engine":
        raise UsageError(f"the engine must be named *.engine, not {out}")
    trt = load(plan.flavor)
    _check_capabilities(plan, capabilities(plan.flavor, trt))
    began = time.perf_counter()
    with _stdout_on_stderr():  # the compiler prints to stdout, which is for results
        data, shapes, flags = _compile(trt, model, plan, on_progress)
    sidecar = Sidecar(
        engine_sha256=hashlib.sha256(data).hexdigest(),
        engine_bytes=len(data),
        onnx_name=onnx.name,
        onnx_sha256=model.sha256,
        spec=spec,
        flavor=plan.flavor.name,
        version=version(trt),
        capabilities=plan.capabilities,
        shapes=shapes,
        flags=flags,
        targets=plan.targets,
        workspace_mib=plan.workspace_mib,
        device=plan.device.name if plan.device else None,
        build_seconds=round(time.perf_counter() - began, 3),
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        n2q_edge=__version__,
    )
    # The engine first: if the sidecar does not make it, the old one refuses the new engine.
    write_file(out, data)
    write_text(sidecar_path(out), sidecar.to_json())
    return BuildReport(out, sidecar_path(out), sidecar)


def advice(report: BuildReport, targets: Sequence[Target]) -> str | None:
    """What would have made a faster engine: a float32 model where half precision is recommended."""
    recommended = {target.precision for target in targets} or {RECOMMENDED_PRECISION}
    spec = report.sidecar.spec
    if spec.precision != "fp32" or "fp32" in recommended:
        return None
    return (
        f"this engine computes in float32, as {report.sidecar.onnx_name} does. Faster, with "
        f"{min(recommended)} as recommended: first '{EXPORT}', then build from that file"
    )


def _plan(
    targets: Sequence[Target],
    flavor_name: str | None,
    size: tuple[int, int] | None,
    batch: int | None,
    spec: ModelSpec,
) -> _Plan:
    device, why_not = _present_device()
    if not targets and device is None:
        raise ModelError(
            f"nothing to build for: {why_not}; or name a --target ('n2q-edge targets' lists them)"
        )
    wanted = [target.compute_capability for target in targets] or [device.capability if device else ""]
    flavor = flavor_named(flavor_name) if flavor_name else _default_flavor(targets, wanted)
    if flavor is TENSORRT:
        _must_be_here(targets, device, why_not)
    for target in targets:
        if flavor is RTX and flavor.name not in target.flavors:
            raise ModelError(_build_elsewhere(target))
    sides = size or _agreed([(target.height, target.width) for target in targets], "--size")
    count = batch or _agreed([target.batch for target in targets], "--batch")
    shape = (count or 1, 1, *(sides or (DEFAULT_SIDE, DEFAULT_SIDE)))
    if shape[2] % spec.size_multiple or shape[3] % spec.size_multiple:
        raise UsageError(
            f"size {shape[2]}x{shape[3]}: model {spec.name!r} takes multiples of {spec.size_multiple}"
        )
    ordered = tuple(sorted(set(wanted), key=lambda name: tuple(map(int, name.split(".")))))
    if flavor is RTX and TURING in ordered and spec.precision not in HALF_PRECISIONS:
        raise ModelError(
            f"tensorrt-rtx computes float32 matrix products on no Turing GPU (7.5), and the model is "
            f"{spec.precision}: export it in half precision first: {EXPORT}"
        )
    workspace = min((target.workspace_mib for target in targets), default=DEFAULT_WORKSPACE_MIB)
    return _Plan(flavor, ordered, shape, workspace, tuple(target.name for target in targets), device)


def _present_device() -> tuple[Device | None, str]:
    """The GPU in this machine, or why there is none to use."""
    try:
        access = cuda.open()
    except N2QError as error:
        return None, str(error)
    device = access.device
    access.close()
    return device, ""


def _default_flavor(targets: Sequence[Target], wanted: Sequence[str]) -> Flavor:
    """What the first target recommends; for the GPU present what is installed, RTX first where it fits."""
    if targets:
        return flavor_named(targets[0].flavors[0])
    if is_installed(RTX) and all(capability in RTX_CAPABILITIES for capability in wanted):
        return RTX
    return TENSORRT


def _must_be_here(targets: Sequence[Target], device: Device | None, why_not: str) -> None:
    """`tensorrt` measures kernels on the GPU it builds for."""
    for target in targets:
        if device is None or device.capability != target.compute_capability:
            here = f"this GPU is {device.name}, {device.capability}" if device else why_not
            raise ModelError(
                f"tensorrt builds only on the GPU it builds for: copy the ONNX file to the {target.gpu} "
                f"(compute capability {target.compute_capability}) and run this command there; {here}"
            )


def _build_elsewhere(target: Target) -> str:
    return (
        f"tensorrt-rtx cannot build for the {target.gpu} (compute capability {target.compute_capability}): "
        "copy the ONNX file there and run: n2q-edge build MODEL.onnx --flavor tensorrt"
    )


def _check_capabilities(plan: _Plan, known: tuple[str, ...] | None) -> None:
    """Hold the plan against what the installed library compiles for."""
    for capability in plan.capabilities:
        if known is not None and capability not in known:
            raise ModelError(
                f"{plan.flavor.name} cannot build for compute capability {capability}, only for "
                f"{', '.join(known)}: build on the device itself with --flavor tensorrt"
            )


def _agreed(values: list[Any], option: str) -> Any:
    """The value that all targets agree on, None without targets."""
    if len(set(values)) > 1:
        raise UsageError(f"the targets want different values for {option}: give it")
    return values[0] if values else None


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Send what C++ code prints to stdout to stderr."""
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _compile(
    trt: ModuleType, model: ModelFile, plan: _Plan, on_progress: Progress | None
) -> tuple[bytes, dict[str, tuple[int, ...]], tuple[str, ...]]:
    """The engine's bytes, the shapes of its inputs and outputs, and its flags."""
    log = logger(trt)
    log.errors.clear()
    try:
        builder = trt.Builder(log)
    except TypeError:  # pybind11's way to say that the factory gave nothing
        raise ModelError(f"{plan.flavor.name} does not start: {_reason(log)} (docs/how-to/gpu.md)") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)  # network and parser must outlive the build
    if not parser.parse(model.data):
        raise ModelError(f"{model.path}: {plan.flavor.name} cannot parse it: {_parser_errors(parser, log)}")
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        tensor.shape = plan.shape if tensor.name == INPUT_NAME else plan.shape[:1]
    shapes = _shapes(network)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32: TF32 keeps 10 bits of the mantissa
    if plan.flavor is RTX:
        config.num_compute_capabilities = len(plan.capabilities)
        for index, capability in enumerate(plan.capabilities):
            config.set_compute_capability(capability_enum(trt, capability), index)
    monitor = _monitor(trt, on_progress)
    config.progress_monitor = monitor
    with _timing_cache(trt, config, plan):
        serialized = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if serialized is None:
        raise ModelError(f"{model.path}: {plan.flavor.name} cannot build it: {_reason(log)}")
    return bytes(serialized), shapes, ("-TF32",)


def _shapes(network: Any) -> dict[str, tuple[int, ...]]:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    return {tensor.name: tuple(int(side) for side in tensor.shape) for tensor in tensors}


def _parser_errors(parser: Any, log: Any) -> str:
    """Every error of the parser with the node it is about."""
    messages = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_name() else ""
        messages.append(node + first_line(RuntimeError(error.desc())))
    return "; ".join(dict.fromkeys(messages)) or _reason(log)


def _reason(log: Any) -> str:
    return first_line(RuntimeError(log.errors[-1])) if log.errors else "it gave no reason"


def _monitor(trt: ModuleType, on_progress: Progress | None) -> Any:
    """TensorRT's progress callbacks as one fraction: that of the outermost phase.

    A Ctrl-C arrives in one of them; it is kept, because no exception may pass through C++, and the build told
    to stop.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._outermost: tuple[str, int] | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self._outermost = (phase_name, max(1, num_steps))

        def phase_finish(self, phase_name: str) -> None:
            if self._outermost and phase_name == self._outermost[0]:
                self._tell(1.0, phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if self._outermost and phase_name == self._outermost[0]:
                self._tell((step + 1) / self._outermost[1], phase_name)
            return not self.interrupted

        def _tell(self, fraction: float, phase_name: str) -> None:
            try:
                if on_progress and not self.interrupted:
                    on_progress(min(1.0, fraction), phase_name)
            except KeyboardInterrupt:
                self.interrupted = True

    return Monitor()


@contextlib.contextmanager
def _timing_cache(trt: ModuleType, config: Any, plan: _Plan) -> Iterator[None]:
    """Keep `tensorrt`'s kernel timings for the next build on this GPU; `tensorrt_rtx` measures nothing."""
    if plan.flavor is RTX or plan.device is None:
        yield
        return
    gpu = "".join(letter if letter.isalnum() else "-" for letter in plan.device.name)
    file = cache_folder() / f"timing-{gpu}-{version(trt)}.cache"
    known = b""
    with contextlib.suppress(OSError):
        known = file.read_bytes()
    timing_cache = config.create_timing_cache(known)
    config.set_timing_cache(timing_cache, ignore_mismatch=False)
    yield
    with contextlib.suppress(OSError, N2QError):  # it saves time at the next build, no more
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, bytes(timing_cache.serialize()))
