"""The merged table of an archive as a data frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from n2q_edge.errors import UsageError, require
from n2q_edge.fleet.folder import PARTS
from n2q_edge.fleet.merge import read_rows
from n2q_edge.fleet.rows import COLUMNS

if TYPE_CHECKING:
    import pandas


def to_dataframe(folder: Path) -> pandas.DataFrame:
    """The rows of all parts committed so far; shards may still be at work.

    Columns and types are those of `rows.COLUMNS`: a number that is not known is NaN (or NA in a column of
    integers), a text that is not known is NA.

    Raises:
        UsageError: it is no folder of `assess --resume`.
        OutputError: a part is damaged.
        MissingDependencyError: pandas is not installed.
    """
    require("pandas", "pandas")
    import pandas

    if not (folder / PARTS).is_dir():
        raise UsageError(f"{folder} is no archive: 'n2q-edge assess --resume {folder}' makes one")
    kinds = {int: "Int64", float: "float64", str: "string"}
    rows = list(read_rows(sorted((folder / PARTS).glob("[!.]*.jsonl"))))
    frame = pandas.DataFrame(rows, columns=list(COLUMNS))
    typed: pandas.DataFrame = frame.astype({name: kinds[kind] for name, kind in COLUMNS.items()})
    return typed
