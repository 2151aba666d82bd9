"""`ttbench report`: verdicts, figures, tables and samples of runs or published results, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ttbench.cli import console, listing
from ttbench.cli import gather as reading
from ttbench.cli.page.sample_views import views_of
from ttbench.cli.published_cells import NOT_STORED
from ttbench.errors import UsageError
from ttbench.report.page import libraries
from ttbench.report.words import sentence
from ttbench.store.files import write_whole
from ttbench.store.rows import read_rows
from ttbench.strict_yaml.nodes import package_folder

SUFFIXES = (".html", ".htm")


def report(names: Sequence[str], *, out: Path, root: Path, as_json: bool) -> None:
    """Write a page about the runs or folders of published results named, or about all that is here.

    Raises:
        UsageError: `out` is no HTML file; the extra is not installed; there is nothing to read.
        StoreError: the file cannot be written.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out '{out}' is no HTML file; name one, such as --out {out.with_suffix('.html')}")
    libraries.require_installed()
    # altair is part of the extra
    from ttbench.report.page.document import build_page, told_of_evidence
    from ttbench.report.page.sections import PageSource, source_of

    runs, published = _sources(names, root)
    sources: list[PageSource] = []
    views: dict[str, dict[int, dict[str, Any]]] = {}
    if runs:
        rows = _read(reading.rows_of_runs(runs), "of these runs")
        views = views_of(runs, set(rows["cell_id"]))
        shown = sum(map(len, views.values()))
        told = told_of_evidence(shown, list(rows["status"]).count("ok"))
        label = ", ".join(folder.name for folder in runs)
        sources.append(source_of(label, rows, evidence=told))
    for folder in published:
        rows = _read(read_rows(folder / reading.ROWS), str(folder))
        told = f"{sentence(NOT_STORED)} A sample opens down to its recipe and its row."
        sources.append(source_of(str(folder), rows, evidence=told))
    page = build_page(sources, libraries.installed(), views=views).encode()
    write_whole(out, page)
    if as_json:
        told_samples = sum(map(len, views.values()))
        console.print_json({"file": str(out), "bytes": len(page), "samples_with_text": told_samples})
    else:
        console.out().print(str(out), soft_wrap=True)
        console.say(f"{len(page) / 2**20:.1f} MiB; open it in a browser, no network is needed")


def _read(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows. Raises UsageError where there are none."""
    if not len(rows):
        raise UsageError(f"there are no rows {where}; measure first: {listing.FIRST_COMMAND}")
    reading.say_age(rows, where)
    return rows


def _sources(names: Sequence[str], root: Path) -> tuple[list[Path], list[Path]]:
    """Folders of runs, which are put together, and of published results, each of which stands alone."""
    if names:
        published = [path.parent for name in names if (path := reading.published_at(name)) is not None]
        runs = [listing.find_run(name, root) for name in names if reading.published_at(name) is None]
        return list(dict.fromkeys(runs)), list(dict.fromkeys(published))
    runs = [store.folder for store in reading.readable_runs(root)]
    here = reading.RESULTS if reading.RESULTS.is_dir() else package_folder("results")
    published = [] if runs else [path.parent for path in reading.published_rows(here)]
    if not runs and not published:
        raise UsageError(f"there is nothing to report: no runs in {root}/ and no results; {listing.FIRST_COMMAND}")
    return runs, published
