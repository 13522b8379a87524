"""Commands about model files: export, build, targets, inspect. Parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from n2q_edge.console import note, results
from n2q_edge.errors import ExitCode

if TYPE_CHECKING:
    pass


def export(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE|CHECKPOINT]", help="The released checkpoint if not given."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The ONNX file to write.")] = Path("model.onnx"),
    precision: Annotated[str, typer.Option(help="fp32, fp16, fp16-norm32 or int8.")] = "fp32",
    calibrate: Annotated[
        list[Path] | None, typer.Option(help="For int8: a CT series; give it as often as needed.")
    ] = None,
) -> int:
    """Export a checkpoint to ONNX and prove that it computes the same."""
    from n2q_edge.export import export_model

    report = export_model(source, out, precision=precision, calibrate=calibrate or ())
    with results():
        print(f"{report.path}  {report.size_bytes / 1e6:.1f} MB  sha256 {report.sha256}")
        for batch in report.parity:
            print(
                f"  {list(batch.shape)} against PyTorch: quality map max {batch.max_difference:.1e}, "
                f"mean {batch.mean_difference:.1e} SSIM{'; same dose level' if batch.same_dose else ''}"
            )
    return int(ExitCode.OK)


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
        int | None, typer.Option(min=1, help="Slices an inference. Default: the target's, 1.")
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

    The precision is that of the ONNX file. 'n2q-edge targets' lists the GPUs, docs/gpu.md tells the rest.
    """
    from n2q_edge.engine.build import advice
    from n2q_edge.engine.build import build as build_engine
    from n2q_edge.engine.targets import find_target, parse_size
    from n2q_edge.progress import gauge

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


def targets(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """List the GPUs 'n2q-edge build --target' knows."""
    from n2q_edge.engine.targets import profiles, render

    with results():
        if as_json:
            import json
            from dataclasses import asdict

            print(json.dumps([asdict(profile) for profile in profiles()], indent=1))
        else:
            from rich.console import Console

            render(profiles(), Console(highlight=False))
    return int(ExitCode.OK)


def inspect(
    model: Annotated[
        Path, typer.Argument(metavar="FILE", help="An .onnx, .engine, .safetensors or .pth file.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    """Say what a model file is, without a GPU; exit code 5 if it would be refused."""
    from n2q_edge.explain import explain, lines

    found = explain(model)
    with results():
        if as_json:
            import json

            print(json.dumps(found, indent=1))
        else:
            print("\n".join(lines(found)))
    return int(ExitCode.MODEL if found["problems"] else ExitCode.OK)
