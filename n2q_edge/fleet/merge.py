"""All parts of an archive as one table, and one page about it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from n2q_edge.errors import OutputError, UsageError, require
from n2q_edge.files import write_file, write_text
from n2q_edge.fleet.folder import PARTS, SHARDS, damaged, read_manifest, read_part
from n2q_edge.fleet.rows import COLUMNS, SCHEMA_VERSION, Row

TABLE, PARQUET, INDEX = "slices.jsonl", "slices.parquet", "index.html"
ROW_GROUP = 50_000

Protocols: TypeAlias = defaultdict[tuple[str, ...], tuple[int, float]]
"""Station, scanner, body part and kernel: how many scored slices, and the sum of their mean qualities."""


@dataclass
class Merged:
    """What was merged.

    Attributes:
        series: parts.
        slices: rows.
        rejected: rows without a result.
        missing: shards that have not gone through all their series, as `i/n`.
    """

    series: int = 0
    slices: int = 0
    rejected: int = 0
    missing: list[str] = field(default_factory=list)


def merge(folder: Path, *, parquet: bool = False) -> Merged:
    """Write `slices.jsonl`, with `parquet` also `slices.parquet`, and `index.html` into the folder.

    Memory does not grow with the number of slices.

    Raises:
        UsageError: it is no folder of `assess --resume`, or of another schema version.
        OutputError: a part is damaged, or a file cannot be written.
        MissingDependencyError: `parquet` without pyarrow.
    """
    manifest = read_manifest(folder)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"{folder} has schema {manifest.get('schema_version')}, not {SCHEMA_VERSION}")
    if parquet:
        require("pyarrow", "parquet")
    parts = sorted((folder / PARTS).glob("[!.]*.jsonl"))
    merged = Merged(series=len(parts), missing=_missing(folder))
    protocols: Protocols = defaultdict(lambda: (0, 0.0))
    write_file(folder / TABLE, _lines(parts, merged, protocols))
    if parquet:
        _write_parquet(folder / PARQUET, parts)
    write_text(folder / INDEX, _page(manifest, merged, protocols))
    return merged


def read_rows(parts: list[Path]) -> Iterator[Row]:
    """The rows of all parts, in their order.

    Raises:
        OutputError: a part is damaged.
    """
    for part in parts:
        for row in read_part(part):
            if not isinstance(row, dict) or row.keys() != COLUMNS.keys():
                raise damaged(part)
            yield row


def _lines(parts: list[Path], merged: Merged, protocols: Protocols) -> Iterator[bytes]:
    for row in read_rows(parts):
        merged.slices += 1
        merged.rejected += row["rejected"] is not None
        if isinstance(row["quality_mean"], float):
            key = tuple(str(row[name] or "-") for name in ("station", "model", "body_part", "kernel"))
            scored, total = protocols[key]
            protocols[key] = scored + 1, total + row["quality_mean"]
        yield (json.dumps(row) + "\n").encode()


def _missing(folder: Path) -> list[str]:
    """Shards of the highest count that have not finished; all shards of a count that has finished none."""
    found: defaultdict[int, set[int]] = defaultdict(set)
    for path in (folder / SHARDS).glob("*-of-*.json"):
        index, _, count = path.stem.partition("-of-")
        if index.isdecimal() and count.isdecimal():
            found[int(count)].add(int(index))
    if not found:
        return ["all"]
    open_shards = {n: [f"{i}/{n}" for i in range(1, n + 1) if i not in done] for n, done in found.items()}
    return min(open_shards.values(), key=len)


def _write_parquet(path: Path, parts: list[Path]) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema(
        [(name, kinds[kind]) for name, kind in COLUMNS.items()],
        metadata={"n2q_edge.schema_version": str(SCHEMA_VERSION)},
    )
    beside = path.with_name(f".{path.name}.part")
    try:
        with parquet.ParquetWriter(beside, schema, compression="zstd") as writer:
            rows = read_rows(parts)
            while chunk := list(islice(rows, ROW_GROUP)):
                writer.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))
        beside.replace(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise OutputError(f"cannot write {path}: {error}; free some space") from None
    finally:
        beside.unlink(missing_ok=True)


def _page(manifest: dict[str, Any], merged: Merged, protocols: Protocols) -> str:
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{escape(text)}</td>" for text in key)
        + f"<td>{scored}</td><td>{total / scored:.3f}</td></tr>\n"
        for key, (scored, total) in sorted(protocols.items())
    )
    facts = ", ".join(f"{name} {escape(str(value))}" for name, value in manifest.items())
    state = f"shards not finished: {', '.join(merged.missing)}" if merged.missing else "all shards finished"
    return (
        "<!doctype html>\n<html lang='en'><meta charset='utf-8'><title>Archive</title>\n"
        f"<h1>{merged.slices} slices of {merged.series} series</h1>\n"
        f"<p>{merged.rejected} without a result; {state}.</p>\n<p>{facts}</p>\n"
        "<table><tr><th>Station<th>Scanner<th>Body part<th>Kernel<th>Slices<th>Mean quality</tr>\n"
        f"{rows}</table>\n</html>\n"
    )
