"""`n2q-edge export`: parse, call, render; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from n2q_edge.cli.console import results
from n2q_edge.errors import ExitCode


def export(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE|CHECKPOINT]", help="The released checkpoint if not given."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The ONNX file to write.")] = Path("model.onnx"),
    precision: Annotated[str, typer.Option(help="fp32, fp16, fp16-norm32 or int8.")] = "fp32",
    calibrate: Annotated[
        list[Path] | None, typer.Option(help="For int8: a CT series; may be given several times.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> int:
    """Export a checkpoint to ONNX and prove that it computes the same."""
    from n2q_edge.files import refuse_existing
    from n2q_edge.model.export import export_model
    from n2q_edge.model.parity import told

    refuse_existing([out], overwrite)
    report = export_model(source, out, precision=precision, calibrate=calibrate or ())
    with results():
        print(f"{report.path}  {report.size_bytes / 1e6:.1f} MB  sha256 {report.sha256}")
        for batch in report.parity:
            print(
                f"  {list(batch.shape)}{told(batch)} against PyTorch: "
                f"quality map max {batch.max_difference:.1e}, mean {batch.mean_difference:.1e} SSIM"
                f"{'; same dose level' if batch.same_dose else ''}"
            )
    return int(ExitCode.OK)
