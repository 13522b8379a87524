"""`n2q-edge build`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import note, results
from n2q_edge.errors import ExitCode


def build(
    onnx: Annotated[
        Path,
        typer.Argument(metavar="MODEL.onnx", help="From 'n2q-edge export --precision fp16-norm32'."),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="A GPU to build for: a name of 'n2q-edge targets' or a .toml file. May be given several "
            "times, for one engine that runs on all of them. Default: the GPU in this machine."
        ),
    ] = None,
    flavor: Annotated[
        str | None,
        typer.Option(
            help="The library: tensorrt-rtx (builds on any machine) or tensorrt (builds only on the GPU "
            "itself). Default: what the target recommends."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Height x width of the slices in pixels. Default: the target's, 512x512."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Slices per inference (batch size). Default: the target's, 1.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="The engine to write. Default: MODEL.TARGET.engine beside MODEL.onnx."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no notes.")] = False,
) -> int:
    """Build a TensorRT engine from an ONNX file, for this GPU or another.

    The precision is that of the ONNX file. 'n2q-edge targets' lists the GPUs; see docs/how-to/gpu.md.
    """
    from n2q_edge.cli.progress import gauge
    from n2q_edge.model.engine.build import advice
    from n2q_edge.model.engine.build import build as build_engine
    from n2q_edge.model.engine.targets import find_target, parse_size

    wanted = [find_target(name) for name in target or ()]
    with gauge(quiet=quiet) as show:
        report = build_engine(
            onnx,
            out,
            targets=wanted,
            flavor=flavor,
            size=parse_size(size) if size else None,
            batch=batch,
            on_progress=show,
        )
    sidecar = report.sidecar
    with results():
        print(f"{report.path}  {sidecar.engine_bytes / 1e6:.1f} MB  sha256 {sidecar.engine_sha256}")
        print(
            f"  {sidecar.spec.name} {sidecar.spec.precision}, {sidecar.flavor} {sidecar.version}, compute "
            f"capability {', '.join(sidecar.capabilities)}, {sidecar.build_seconds:.1f} s"
        )
    better = advice(report, wanted)
    if better and not quiet:
        note(better)
    return int(ExitCode.OK)
