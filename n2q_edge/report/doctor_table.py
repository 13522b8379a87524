"""What `n2q-edge doctor` found, as tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def render(findings: dict[str, Any], console: Console) -> None:
    """Print what `examine` found."""
    from rich.markup import escape
    from rich.table import Table

    machine, gpu, model, auto = (findings[key] for key in ("machine", "gpu", "model", "auto"))
    top = Table.grid(padding=(0, 2))
    for name, value in (
        ("n2q-edge", f"{findings['n2q_edge']}, Python {machine.get('python')}"),
        (
            "machine",
            f"{machine.get('cpu')}, {machine.get('cores_usable')} cores, {machine.get('memory_gib')} GiB",
        ),
        ("system", machine.get("os")),
        ("GPU", "; ".join(_gpu_line(device) for device in gpu.get("devices", [])) or gpu.get("why_not")),
        ("Jetson", gpu.get("jetson")),
        ("model", _model_line(model)),
        ("auto", f"{auto['name']}, {auto['threads']} threads: {auto['because']}" if "name" in auto else None),
    ):
        if value:
            top.add_row(f"[bold]{name}[/]", escape(str(value)))
    console.print(top)
    console.print(_table("runtimes", findings["runtimes"], "name", "version"))
    console.print(
        _table("TensorRT libraries", [_tensorrt_row(row) for row in findings["tensorrt"]], "name", "text")
    )
    console.print(_table("decoders", findings["decoders"], "keyword", "decoders"))
    for warning in findings["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def _gpu_line(device: dict[str, Any]) -> str:
    return (
        f"{device['name']}, {device['memory_mib']} MiB, compute capability {device['compute_capability']}, "
        f"driver {device['driver']}"
    )


def _model_line(model: dict[str, Any]) -> str:
    if not model.get("usable"):
        return f"not usable: {model.get('why_not')}"
    return f"{model['name']} {model['version']}, {model['precision']}, SHA-256 {model['sha256']} verified"


def _tensorrt_row(library: dict[str, Any]) -> dict[str, Any]:
    if not library.get("usable"):
        return library
    return {**library, "text": f"{library['version']}, builds engines for {library['builds_for']}"}


def _table(title: str, rows: list[dict[str, Any]], name: str, detail: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title, "", "", box=SIMPLE_HEAD, title_justify="left")
    for row in rows:
        facts = row.get(detail)
        text = ", ".join(facts) if isinstance(facts, list) else facts
        mark = "[green]yes[/]" if row.get("usable") else "[red]no[/]"
        if row.get("ready"):
            mark, text = "[yellow]ready[/]", f"{text}, {row['why_not']}"
        elif row.get("why_not"):
            text = row["why_not"]
        table.add_row(escape(str(row.get(name))), mark, escape(str(text or "")))
    return table
