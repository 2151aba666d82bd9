"""Published results: `rows.parquet`, and what is made from it alone, beside it.

    results/<suite>/<device>/rows.parquet       raw rows and their environments, at most 2 MiB: the record
                             table.csv          `summarise`: one line per number
                             comparisons.csv    every pair of checkpoints, on the same targets
                             table.md .tex      both tables for a page or a paper, where that is asked for
                             <figure>.png .svg .pdf, <figure>_column.pdf
                             figures.md         all figures, and what is told in words or as a table instead

Everything but the rows can be deleted and made again with the same bytes: numbers are written with six significant
digits and drawn from those, so that the last bits of a different processor do not show.
"""

from __future__ import annotations

import functools
import io
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from ttbench.errors import StoreError, UsageError
from ttbench.report import words
from ttbench.report.comparison.seeds import drawn_trainings
from ttbench.report.drawing import figures, prose
from ttbench.report.formats.number_sheets import number_sheet
from ttbench.report.formats.verdict_sheets import comparison_sheet
from ttbench.report.formats.writing import CSV, SUFFIXES, csv_text, write_sheet
from ttbench.report.table import summarise
from ttbench.store.files import write_whole
from ttbench.store.rows import arrow, read_rows

ROWS = "rows.parquet"
PAGE = "figures.md"
TABLES = ("table", "comparisons")
MAX_ROWS_BYTES = 2 * 1024**2
Warn = Callable[[str], None]


def write_results(rows: pd.DataFrame, folder: Path, *, form: str | None = None, warn: Warn | None = None) -> list[Path]:
    """Write rows and everything made from them into `folder`; returns the files. For the rest see `write_derived`.

    Raises:
        UsageError: the rows take more than 2 MiB; the folder is left as it was.
    """
    data = rows_bytes(rows)
    if len(data) > MAX_ROWS_BYTES:
        raise UsageError(
            f"{len(rows):,} rows take {len(data) / 2**20:.1f} MiB as {ROWS}; results hold at most "
            f"{MAX_ROWS_BYTES / 2**20:.0f} MiB: give fewer checkpoints, contexts or repeats, or publish them apart"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / ROWS, data)
    return [folder / ROWS, *derive(folder, form=form, warn=warn)]


def rows_bytes(rows: pd.DataFrame) -> bytes:
    """Rows as a Parquet file that `ttbench.store.rows.read_rows` reads back with all that their `attrs` tell."""
    buffer = io.BytesIO()
    pq.write_table(arrow(rows), buffer, compression="zstd", compression_level=19)
    return buffer.getvalue()


def derive(folder: Path, *, into: Path | None = None, form: str | None = None, warn: Warn | None = None) -> list[Path]:
    """Make the tables and figures of `folder` from its rows, there or `into` another folder; returns the files.

    For the rest see `write_derived`.

    Raises StoreError when the folder holds no rows.
    """
    if not (folder / ROWS).is_file():
        raise StoreError(f"{folder} holds no {ROWS}; name a folder that does, such as results/<suite>/<device>")
    return write_derived(summarise(read_rows(folder / ROWS), every_pair=True), into or folder, form=form, warn=warn)


def write_derived(
    table: pd.DataFrame, folder: Path, *, form: str | None = None, warn: Warn | None = None
) -> list[Path]:
    """Write a summary, its comparisons and its figures into `folder`, the same bytes each time; returns the files.

    Args:
        table: of `summarise`.
        folder: exists.
        form: of `ttbench.report.formats.writing.FORMATS`: "csv" writes the tables with every digit, another one writes
            them in this format too.
        warn: told in one line of each figure that cannot be drawn, which costs that figure alone; None: it raises.
    """
    compared = table.attrs["comparisons"]
    tables = {"table": table} | ({"comparisons": pd.DataFrame(compared)} if compared else {})
    files = [_write_csv(frame, folder / f"{name}.csv", whole=form == CSV) for name, frame in tables.items()]
    if form not in (None, CSV):
        sheets = {"table": number_sheet(table), "comparisons": comparison_sheet(compared)}
        files += [write_sheet(sheets[name], folder / name, form) for name in tables]
    _remove_stale_tables(folder, kept=files)
    earlier = _figures_of_page(folder)
    failed: list[str] = []
    shown = without_further_seeds(table)
    drawn = draw_all(shown, folder, warn=warn, failed=failed)
    text = prose.page([path for path in drawn if path.suffix == ".png"], figures.not_drawn(shown))
    # A figure that failed just now may be one of them: old drawings are better than none.
    if not failed:
        for path in earlier - {*drawn}:
            path.unlink(missing_ok=True)
    if text:
        write_whole(folder / PAGE, text.encode())
        files.append(folder / PAGE)
    return [*files, *drawn]


def _remove_stale_tables(folder: Path, *, kept: Sequence[Path]) -> None:
    """Tables of an earlier call in a format that this one does not write would stand beside other numbers."""
    for name in TABLES:
        for suffix in SUFFIXES.values():
            path = folder / f"{name}{suffix}"
            if path not in kept:
                path.unlink(missing_ok=True)


def _figures_of_page(folder: Path) -> set[Path]:
    """Files of the figures that an earlier call drew, by its page and by our mark in them; others are left alone."""
    try:
        head, *lines = (folder / PAGE).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return set()
    found = [re.fullmatch(r"!\[[^]]*]\(([\w.-]{1,200})\.png\)", line) for line in lines] if head == prose.HEAD else []
    names = [each[1] for each in found if each and figures.is_ours(folder / f"{each[1]}.png")]
    return {path for name in names for ending in _ENDINGS if (path := folder / f"{name}{ending}").is_file()}


def draw_all(
    table: pd.DataFrame, folder: Path, *, warn: Warn | None = None, failed: list[str] | None = None
) -> list[Path]:
    """Draw every figure that a summary has numbers for into `folder`, the overview first; as `write_derived`.

    Args:
        failed: takes the names of figures that could not be drawn.
    """
    lost: list[str] = [] if failed is None else failed
    drawn = list(_draw(figures.SUMMARY, lambda: figures.draw_summary(table, folder), warn=warn, failed=lost))
    for figure in figures.available(table):
        draw = functools.partial(figures.draw, figure, table, folder, warn=warn or warnings.warn)
        drawn += _draw(figure.name, draw, warn=warn, failed=lost)
    return drawn


def without_further_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """What is drawn of a summary: of trainings that differ in their seed alone the first."""
    names = table["checkpoint"]
    return table.loc[names.isna() | names.isin(drawn_trainings(table))]


def _draw(name: str, draw: Callable[[], Sequence[Path]], *, warn: Warn | None, failed: list[str]) -> Sequence[Path]:
    if warn is None:
        return draw()
    try:
        return draw()
    except StoreError:
        raise
    # The border to the drawing library, which needs fonts, a cache folder and a working installation: whatever it
    # raises is worth less than the numbers.
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        failed.append(name)
        warn(f"figure {name} cannot be drawn: {type(error).__name__}: {first}; the tables are complete")
        return ()


def _write_csv(frame: pd.DataFrame, path: Path, *, whole: bool) -> Path:
    """A table with six digits of its numbers, or with the `whole` of them."""
    entries = [{name: _shown(value, whole) for name, value in entry.items()} for entry in words.records(frame)]
    # columns without a single value say nothing, and a word for people follows from the column that it is about
    names = [
        str(name) for name in frame.columns if name != "counts" and any(entry[name] is not None for entry in entries)
    ]
    write_whole(path, csv_text(names, entries).encode())
    return path


def _shown(value: object, whole: bool) -> object:
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    return f"{value:.6g}" if isinstance(value, float) and not whole else value


_ENDINGS = (".png", ".svg", ".pdf", "_column.pdf")  # of a figure's files
_DERIVED = {".csv", ".png", ".svg", ".pdf"}


def outdated(folder: Path) -> list[str]:
    """Files of a results folder that its rows do not give any more, or that are missing; empty when all is well.

    CSV, SVG and Markdown are compared byte by byte, PNG by its pixels and PDF by its pages and fonts, because packing
    differs between versions of libraries.
    """
    with tempfile.TemporaryDirectory() as scratch:
        made = {path.name: path for path in derive(folder, into=Path(scratch))}
        kept = {path.name: path for path in folder.iterdir() if path.suffix in _DERIVED or path.name == PAGE}
        return sorted(
            name
            for name in made.keys() | kept.keys()
            if name not in made or name not in kept or not _same(made[name], kept[name])
        )


def _same(one: Path, two: Path) -> bool:
    if one.read_bytes() == two.read_bytes():
        return True
    if one.suffix == ".pdf":
        return figures.same_streams(one, two)
    return one.suffix == ".png" and figures.same_pixels(one, two)
