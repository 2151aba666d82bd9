"""Where the rows of `ttbench compare` and `ttbench figures` come from: runs, put together, and published results.

A checkpoint is looked for by what it holds: a folder by its digests, a name by those that the rows under it have.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ttbench.checkpoints.naming import CONFIG, digests_of, zoo_folders
from ttbench.cli import console, listing
from ttbench.errors import StoreError, UsageError
from ttbench.report.comparison.variants import Variant, equal
from ttbench.report.published import ROWS
from ttbench.store.collected import table
from ttbench.store.record import CellRecord
from ttbench.store.rows import frame, read_environments, read_rows, tasks_in
from ttbench.store.store import Store, run_folders
from ttbench.strict_yaml.nodes import package_folder
from ttbench.types import ANSWERS, SCHEMA_VERSION
from ttbench.version import __version__

if TYPE_CHECKING:
    import pandas as pd


RESULTS = Path("results")


def newest(folders: Iterable[Path]) -> list[CellRecord]:
    """Each cell once under each name, from the first folder that answered it, else from the first that tried.

    Damaged cells are left out, which is said in one line.
    """
    found: dict[tuple[str, str], CellRecord] = {}
    damaged: list[str] = []
    for folder in folders:
        survey = Store(folder).survey()
        damaged += [f"{folder.name} ({cell_id[:8]})" for cell_id in survey.damaged]
        for record in survey.records:
            key = (record.cell.cell_id, record.cell.checkpoint.name)
            held = found.get(key)
            if held is None or (held.status not in ANSWERS and record.status in ANSWERS):
                found[key] = record
    say_damaged(damaged)
    return list(found.values())


def say_damaged(cells: Sequence[str]) -> None:
    """Name the damaged cells that are left out, on stderr."""
    if cells:
        console.say(f"left out, damaged: {', '.join(cells)}; the same run measures them again", style="yellow")


def say_odd(run: listing.RunView) -> None:
    """Name a run's cells that are damaged, or were ended more than once, on stderr."""
    say_damaged([entry["cell_id"][:8] for entry in run.cells if entry["status"] == "damaged"])
    say_twice(run.folder, run.twice)


def say_twice(folder: Path, cells: Sequence[str]) -> None:
    """Name the cells that more than one writer ended, and where the records are that do not stand, on stderr."""
    if cells:
        told = ", ".join(cell_id[:8] for cell_id in cells)
        console.say(
            f"ended more than once: {told}; the first answer stands, others are kept in {folder}", style="yellow"
        )


def rows_of_runs(folders: Iterable[Path]) -> pd.DataFrame:
    """The rows of several runs, each cell once."""
    folders = list(folders)
    return frame(table(newest(folders), environments=read_environments(folders)))


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
            f"{published[0].parent} holds published results, which are not mixed with runs; name only one of the two"
        )
    return read_rows(published[0])


def published_at(name: str) -> Path | None:
    """The rows in a folder of published results; None when the name is none of them."""
    folder = Path(name)
    return folder / ROWS if (folder / ROWS).is_file() and not (folder / "run.json").is_file() else None


Content = Mapping[str, str | None]  # a digest for each column of CONTENT


def rows_of(variants: Sequence[Variant], *, runs: Sequence[str], root: Path) -> list[pd.DataFrame]:
    """The rows of each side of a comparison: of its own run, of the runs named, or of all in which both were measured.

    A folder's rows come under the name that was typed. Raises UsageError where a side has none.
    """
    shared = [variant for variant in variants if "run" not in variant.choices]
    rows = rows_named(runs, root) if runs else rows_about(shared, root=root) if shared else None
    found = []
    for variant in variants:
        run = variant.choices.get("run")
        # A run's id in the rows says who measured; here it says where the cell was asked for.
        mine = rows if run is None else rows_named([run], root).assign(run_id=run)
        assert mine is not None
        found.append(_called(mine, variant))
    return found


def rows_of_all(runs: Sequence[str], *, root: Path) -> pd.DataFrame:
    """The rows of the runs named, else of all runs below `root`. Raises UsageError where there is none."""
    if runs:
        return rows_named(runs, root)
    folders = [store.folder for store in readable_runs(root)]
    if not folders:
        raise UsageError(
            f"nothing has been measured yet: no runs in {root}/; start with: {listing.FIRST_COMMAND}, or name "
            "published results: ttbench compare --run results/bench/cpu"
        )
    return rows_of_runs(folders)


def rows_about(variants: Sequence[Variant], *, root: Path) -> pd.DataFrame:
    """The rows of the runs below `root` in which these checkpoints were measured, else of the results here.

    Raises UsageError when there is nothing to read.
    """
    stores = readable_runs(root)
    published = published_rows(RESULTS)
    entries = [(store.folder, entry) for store in stores for entry in store.run["cells"]]
    names = {entry["checkpoint"] for _, entry in entries} | _names_in(published)
    if not names.intersection(variant.name for variant in variants):
        # What nobody measured here may be among the results that ship with the package.
        shipped = published_rows(package_folder("results"))
        if _names_in(shipped).intersection(variant.name for variant in variants):
            published, names = shipped, names | _names_in(shipped)
    if not stores and not published:
        raise UsageError(
            f"nothing has been measured yet: no runs in {root}/ and no results; start with: {listing.FIRST_COMMAND}"
        )
    contents = {variant.name: _content(variant.name, names) for variant in variants}
    plain = {name for name, content in contents.items() if content is None}
    weights = {content["weights_digest"] for content in contents.values() if content is not None}
    weights |= {entry.get("weights_digest") for _, entry in entries if entry["checkpoint"] in plain} - {None}
    folders = dict.fromkeys(
        folder
        for folder, entry in entries
        if entry["checkpoint"] in plain or entry.get("weights_digest", None) in weights
    )
    # Runs of schema 1 list no digests: a folder's may be among them under any name.
    folders |= dict.fromkeys(store.folder for store in stores if plain != contents.keys() and store.run["schema"] == 1)
    sources = [lambda: rows_of_runs(folders)] if folders else []
    for source in [*sources, *(partial(read_rows, path) for path in published)]:
        rows = source()
        if all(len(_rows_at(rows, name, content)) for name, content in contents.items()):
            return rows
    lacking = [name for name, content in contents.items() if content is not None or name not in names]
    missing = " and ".join(f"'{name}'" for name in lacking) or "both together"
    raise UsageError(f"no rows of {missing}; measured are: {', '.join(sorted(names)) or 'none'}")


def sources(names: Sequence[str], *, root: Path, tasks: set[str]) -> dict[str, pd.DataFrame]:
    """Rows with their origin, those of runs first: the runs and results named, else all runs, then the results.

    Rows of runs are put together; each folder of results stands for itself. Only those with rows of `tasks` are read.

    Raises UnknownNameError for a name that is neither, and UsageError when there is nothing to read.
    """
    if names:
        published = {name: path for name in names if (path := published_at(name)) is not None}
        stores = [Store(listing.find_run(name, root)) for name in names if name not in published]
    else:
        stores = readable_runs(root)
        beneath = published_rows(RESULTS) or published_rows(package_folder("results"))
        published = {str(path.parent): path for path in beneath}
    found: dict[str, pd.DataFrame] = {}
    folders = [store.folder for store in stores if any(entry["task"] in tasks for entry in store.run["cells"])]
    if folders:
        found[", ".join(map(str, folders)) if names else f"{root}/"] = rows_of_runs(folders)
    found |= {name: read_rows(path) for name, path in published.items() if not tasks.isdisjoint(tasks_in(path))}
    if not folders and not published:
        raise UsageError(
            f"nothing has been measured yet: no runs in {root}/ and no results; start with: {listing.FIRST_COMMAND}"
        )
    return found


def readable_runs(root: Path) -> list[Store]:
    """The runs below `root` whose run.json was read, newest first; the others are named on stderr."""
    found = []
    for store in map(Store, run_folders(root)):
        try:
            _ = store.run
        except StoreError as error:
            console.warn(f"left out: {error}")
        else:
            found.append(store)
    return found


def _names_in(published: Iterable[Path]) -> set[str]:
    """Checkpoints in the rows of these files."""
    return {str(name) for path in published for name in set(read_rows(path)["checkpoint"])}


def _called(rows: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """The rows; of a folder, those of its content, under the name typed. Raises UsageError where it has none."""
    content = _content(variant.name, set(rows["checkpoint"]))
    if content is None:
        return rows
    mine = _rows_at(rows, variant.name, content)
    if not len(mine):
        raise UsageError(
            f"no rows of the checkpoint in '{variant.name}' (weights {str(content['weights_digest'])[:6]}); measure it "
            f"with: ttbench run TASK --checkpoint {variant.name}"
        )
    return mine.assign(checkpoint=variant.name)


def _rows_at(rows: pd.DataFrame, name: str, content: Content | None) -> pd.DataFrame:
    """The rows of a name, or of a folder's content."""
    wanted = {"checkpoint": name} if content is None else content
    return rows.loc[equal(rows, list(wanted), list(wanted.values()))]


def _content(text: str, names: Collection[str]) -> Content | None:
    """Digests of the checkpoint in the folder that a text names; None when it is a name in the rows.

    A folder is named by a path. A bare name that rows have means those, which is said where a folder has it too.
    """
    folder = Path(text).expanduser()
    if not (folder / CONFIG).is_file():
        return None
    if os.sep not in text and text in names:
        if folder.name not in zoo_folders():
            console.say(f"'{text}' is read as the name in the rows; for the folder here write ./{text}", style="yellow")
        return None
    return digests_of(folder)


def say_age(rows: pd.DataFrame, where: str) -> None:
    """Say in one line that rows are of another schema or by another version of the package."""
    schemas = sorted({int(value) for value in rows["schema"].dropna()} - {SCHEMA_VERSION})
    versions = sorted(set(rows["ttbench"].dropna()) - {__version__}) if "ttbench" in rows else []
    said = []
    if schemas:
        older = " (they do not say which code measured them)" if 1 in schemas else ""
        said.append(f"of schema {', '.join(map(str, schemas))}{older}, where {SCHEMA_VERSION} is today's")
    if versions:
        said.append(f"by ttbench {', '.join(versions)}, where this is {__version__}")
    if said:
        console.say(f"{where}: some rows are {' and '.join(said)}; they are read as far as known", style="yellow")


def published_rows(folder: Path) -> list[Path]:
    """Every rows.parquet at or below a folder."""
    return sorted(folder.rglob(ROWS))
