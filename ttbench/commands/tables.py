"""Rows as what a command prints and leaves beside them: the table, its CSV, its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench import console
from ttbench.report import words
from ttbench.report.table import render
from ttbench.store import write_whole

if TYPE_CHECKING:
    import pandas as pd


def show(table: pd.DataFrame) -> None:
    """Print a summary on stdout."""
    console.out().print(render(table))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a summary as plain data."""
    return words.records(table)


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Leave the summary as a CSV beside its rows; return the files."""
    path = folder / "table.csv"
    write_whole(path, table.to_csv(index=False, lineterminator="\n").encode())
    return [path]
