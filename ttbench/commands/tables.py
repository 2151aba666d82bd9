"""Rows as what a command prints and what it leaves beside them: the table, its CSVs, its figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench import console
from ttbench.report import figures, words
from ttbench.report.table import render
from ttbench.store import write_whole

if TYPE_CHECKING:
    import pandas as pd


def show(table: pd.DataFrame) -> None:
    """Print a summary on stdout."""
    console.out().print(render(table))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a summary or of a comparison as plain data."""
    return words.records(table)


def write(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Leave a summary, its comparisons and its figures in `folder`, the same bytes each time; return the files."""
    import pandas as pd

    files = [_write_csv(table, folder / "table.csv")]
    comparisons = pd.DataFrame(table.attrs["comparisons"])
    if len(comparisons):
        files.append(_write_csv(comparisons, folder / "comparisons.csv"))
    return [*files, *(path for figure in figures.available(table) for path in figures.draw(figure, table, folder))]


def _write_csv(frame: pd.DataFrame, path: Path) -> Path:
    write_whole(path, frame.to_csv(index=False, lineterminator="\n").encode())
    return path
