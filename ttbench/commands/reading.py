"""Where the rows of `ttbench compare` and `ttbench figures` come from: runs, put together, and published results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ttbench.commands import listing
from ttbench.errors import UsageError
from ttbench.record import CellRecord
from ttbench.report.results import ROWS
from ttbench.rows import frame, read_rows, table
from ttbench.store import Store, run_folders
from ttbench.types import ANSWERS

if TYPE_CHECKING:
    import pandas as pd

RESULTS = Path("results")


def newest(folders: Iterable[Path]) -> list[CellRecord]:
    """Each cell once, from the first folder that answered it, else from the first that tried."""
    found: dict[str, CellRecord] = {}
    for folder in folders:
        for record in Store(folder).records():
            held = found.get(record.cell.cell_id)
            if held is None or (held.status not in ANSWERS and record.status in ANSWERS):
                found[record.cell.cell_id] = record
    return list(found.values())


def rows_of_runs(folders: Iterable[Path]) -> pd.DataFrame:
    """The rows of several runs, each cell once."""
    return frame(table(newest(folders)))


def rows_named(names: Sequence[str], root: Path) -> pd.DataFrame:
    """The rows of the runs named, or of one folder of published results.

    Raises UnknownNameError for a run that is not there, and UsageError for published results beside others: what their
    cells were is not stored, so that none could be counted once.
    """
    published = [path for name in names if (path := published_at(name)) is not None]
    if not published:
        return rows_of_runs([listing.find_run(name, root) for name in names])
    if len(names) > 1:
        raise UsageError(
            f"{published[0].parent} holds published results, which are read alone; name it only, or runs only"
        )
    return read_rows(published[0])


def published_at(name: str) -> Path | None:
    """The rows in a folder of published results; None when the name is none of them."""
    folder = Path(name)
    return folder / ROWS if (folder / ROWS).is_file() and not (folder / "run.json").is_file() else None


def rows_about(names: Iterable[str], *, root: Path) -> pd.DataFrame:
    """Rows of all runs below `root` that have cells of these checkpoints; else those of the results here.

    Where a name stood for several weights, the newest count. Raises UsageError when there is nothing to read.
    """
    wanted = set(names)
    folders = [folder for folder in run_folders(root) if wanted & _names(Store(folder))]
    if wanted <= set().union(*(_names(Store(folder)) for folder in folders)):
        return frame(table(_latest_weights(newest(folders), wanted)))
    published = published_rows(RESULTS)
    for path in published:
        rows = read_rows(path)
        if wanted <= set(rows["checkpoint"]):
            return rows
    if not folders and not published:
        raise UsageError(f"nothing has been measured yet: no runs in {root}/ and no results; start with: ttbench run")
    known = set().union(*(_names(Store(folder)) for folder in run_folders(root)))
    known = known.union(*(set(read_rows(path)["checkpoint"]) for path in published))
    missing = " and ".join(f"'{name}'" for name in sorted(wanted - known)) or "both together"
    raise UsageError(f"no rows of {missing}; measured are: {', '.join(sorted(known)) or 'none'}")


def _names(store: Store) -> set[str]:
    return {cell["checkpoint"] for cell in store.run["cells"]}


def _latest_weights(records: Iterable[CellRecord], wanted: set[str]) -> Iterator[CellRecord]:
    latest: dict[str, str] = {}
    for record in records:
        checkpoint = record.cell.checkpoint
        if checkpoint.name in wanted and latest.setdefault(checkpoint.name, checkpoint.weights_digest) == (
            checkpoint.weights_digest
        ):
            yield record


def published_rows(folder: Path) -> list[Path]:
    """Every rows.parquet at or below a folder."""
    return sorted(folder.rglob(ROWS))
