"""`ttbench figures`: tables and drawings from rows, and those of papers with published numbers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttbench.cli import console, listing
from ttbench.cli import gather as reading
from ttbench.errors import UsageError
from ttbench.report.formats.writing import require_format
from ttbench.report.published import ROWS, derive, write_results
from ttbench.store.rows import read_rows
from ttbench.strict_yaml.nodes import package_folder

FOLDER = Path("figures")  # of papers, where no other is named


def figures(
    folders: Sequence[str], *, paper: str | None, into: Path | None, form: str | None, root: Path, as_json: bool
) -> None:
    """Make tables and figures: in each folder from its rows, `into` one from several runs, or those of a paper.

    Args:
        form: of the tables, beside the CSV with six digits that there always is.

    Raises UnknownNameError for a format that there is not.
    """
    if form is not None:
        require_format(form)
    if paper is not None:
        files = _paper(paper, folders, into=into, form=form, root=root)
    elif into is not None:
        runs = [listing.find_run(name, root) for name in folders or [listing.LAST]]
        rows = reading.rows_of_runs(runs)
        reading.say_age(rows, "of these runs")
        files = write_results(rows, into, form=form, warn=console.warn)
    else:
        sources = _sources(folders, root=root)
        for source in sources:
            reading.say_age(read_rows(source / ROWS), str(source))
        files = [path for source in sources for path in derive(source, form=form, warn=console.warn)]
    if as_json:
        console.print_json([str(path) for path in files])
    else:
        console.out().print("\n".join(map(str, files)), soft_wrap=True)


def _sources(folders: Sequence[str], *, root: Path) -> list[Path]:
    """Folders with rows. Raises UsageError where there is none."""
    asked = {name: Path(name) if name and Path(name).is_dir() else listing.find_run(name, root) for name in folders}
    found = {name: reading.published_rows(folder) for name, folder in asked.items()}
    lacking = [name for name, paths in found.items() if not paths]
    if lacking:
        hint = f"if it is a run that was cut off: ttbench collect {lacking[0]}; else see: ttbench list runs"
        raise UsageError(f"no {ROWS} in {', '.join(lacking)}; {hint}")
    paths = [path for each in found.values() for path in each] or reading.published_rows(reading.RESULTS)
    if not paths:
        raise UsageError(f"no {ROWS} in {reading.RESULTS}; see: ttbench list runs")
    return [path.parent for path in paths]


def _paper(name: str, folders: Sequence[str], *, into: Path | None, form: str | None, root: Path) -> list[Path]:
    """The figures of a paper, from the rows named, else from the results here, else from those of the package."""
    from ttbench.report.papers.preset import find_preset
    from ttbench.report.papers.write import write_paper

    preset = find_preset(name)
    if folders:
        sources = _sources(folders, root=root)
    else:
        shipped = package_folder("results")
        paths = reading.published_rows(reading.RESULTS) or reading.published_rows(shipped)
        sources = [path.parent for path in paths]
    rows = [read_rows(source / ROWS) for source in sources]
    return write_paper(preset, rows, into or FOLDER / name, form=form, warn=console.warn)
