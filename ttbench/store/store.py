"""A run's folder: one immutable file per cell, evidence beside it, one Parquet at the end.

    runs/<run_id>/run.json                  command, options, planned cells with the names asked for
                  environment.json          what it ran on; rows refer to it by digest
                  environments/<digest>     those of cells taken over from earlier runs
                  cells/<cell_id>.jsonl     a header line, one line per sample, a checksum: the record
                  evidence/<cell_id>.jsonl  prompts, answers, log-probabilities, tracebacks; never in rows
                  rows.parquet              derived; `Store(folder).write_rows()` makes it again from cells/

A cell that an earlier run measured keeps its file, which says who measured it, when and under which name; the run that
takes it over shows it under the name asked for there. A file that does not agree with its checksum, its own name or the
cell in it is damaged: it answers nothing, and what is shown goes on without it.

A file is written whole or not at all: temporary file, fsync, rename, fsync of the folder. Evidence is
written before its cell, so a cell that exists is complete. No pandas, pyarrow or torch at import: workers, whose memory
is measured, use this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ttbench.errors import StoreError
from ttbench.machine.disk import sync
from ttbench.store.record import CellRecord, cell_text, evidence_lines, now, parse_cell
from ttbench.types import LASTING, SCHEMA_VERSION, Cell, Environment, Status, canonical_json, digest, json_bytes

if TYPE_CHECKING:
    import pandas as pd

_FULL = (errno.ENOSPC, errno.EDQUOT)
_temporary = itertools.count()


def write_whole(path: Path, data: bytes) -> None:
    """Create `path` with `data`, or leave nothing. An existing file is replaced whole.

    Raises StoreError when the folder cannot be written or the disk is full.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.{next(_temporary)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise _store_error("write", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def new_file(path: Path) -> BinaryIO:
    """Open a file for writing as it goes, for logs. Raises StoreError when it cannot be made."""
    try:
        return open(path, "wb")
    except OSError as error:
        raise _store_error("write", path, error) from error


def _store_error(verb: str, path: Path, error: OSError) -> StoreError:
    if error.errno in _FULL:
        return StoreError(
            f"cannot {verb} {path}: no space left on the device; finished cells are kept: free some space, "
            "then run the same command again"
        )
    return StoreError(f"cannot {verb} {path}: {error.strerror or error}; choose another folder with --out")


def read_cell(path: Path) -> CellRecord:
    """Read a cell's file. Raises StoreError when it is missing, damaged, misplaced or of an unknown schema."""
    try:
        return parse_cell(path.read_text(encoding="utf-8"), cell_id=path.stem)
    except OSError as error:
        raise _store_error("read", path, error) from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged or not a cell's file ({error}); the same run measures it again") from error


def read_evidence(path: Path, record: CellRecord) -> list[dict[str, Any]]:
    """The evidence of a cell, one entry per line; empty where none was kept. Raises StoreError when it is damaged."""
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}; the row stands without it") from error
    # Cells of schema 1 do not say what their evidence was.
    if record.cell.schema > 1 and record.evidence_digest != (digest(text) if text else None):
        raise StoreError(f"{path} is not the evidence that its cell was stored with; the row stands without it")
    # Not splitlines: answers may hold other line separators.
    return [json.loads(line) for line in text.split("\n") if line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a run's folder holds."""

    records: tuple[CellRecord, ...]
    damaged: Mapping[str, StoreError]  # by cell id


_STAMP_LEN = len("20000101-000000-")
# Fields of a checkpoint that belong to the request, not to what was measured.
ASKED = ("name", "path", "provenance", "revision")


def _planned(cell: Cell) -> dict[str, Any]:
    """A cell as run.json lists it."""
    asked = {name: getattr(cell.checkpoint, name) for name in ASKED}
    head = {"cell_id": cell.cell_id, "task": cell.task, "checkpoint": asked.pop("name")}
    return {**head, "context_len": cell.context_len, "weights_digest": cell.checkpoint.weights_digest, **asked}


def _asked(record: CellRecord, entry: Mapping[str, Any]) -> CellRecord:
    """A record under the name and place asked for in the run that lists it."""
    asked = {"name": entry["checkpoint"], **{name: entry[name] for name in ASKED if name in entry}}
    return dataclasses.replace(record, cell=record.cell.named_as(**asked))


class Store:
    """An open run folder. `create` makes one; several processes may write to it, each cell once."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not (self.folder / "run.json").is_file():
            raise StoreError(f"{self.folder} is not a run's folder: it has no run.json; see: ttbench list runs")

    @classmethod
    def create(
        cls,
        root: Path | str,
        *,
        name: str,
        command: str,
        options: Mapping[str, Any],
        cells: Sequence[Cell],
        environment: Environment,
    ) -> Store:
        """Make `root/<run_id>/`; the run id is unique even among runs started at the same moment."""
        folder = _new_folder(Path(root), name)
        try:
            for part in ("cells", "evidence", "environments", "workers"):
                (folder / part).mkdir()
        except OSError as error:
            raise _store_error("make", folder, error) from error
        write_whole(folder / "environment.json", json_bytes(canonical_json(environment.to_json())))
        run = {
            "schema": SCHEMA_VERSION,
            "run_id": folder.name,
            "command": command,
            "options": dict(options),
            "started": now(),
            "cells": [_planned(cell) for cell in cells],
        }
        write_whole(folder / "run.json", json_bytes(json.dumps(run, indent=1, ensure_ascii=False) + "\n"))
        return cls(folder)

    @property
    def run_id(self) -> str:
        return self.folder.name

    @cached_property
    def run(self) -> Mapping[str, Any]:
        """What run.json says."""
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))

    @cached_property
    def _environment(self) -> dict[str, str]:
        """What a record says of the run's environment."""
        data = (self.folder / "environment.json").read_bytes()
        known = json.loads(data)
        return {"environment": digest(data), "machine": known["machine"], "ttbench": known["ttbench"]}

    def cell_path(self, cell_id: str) -> Path:
        return self.folder / "cells" / f"{cell_id}.jsonl"

    def read(self, cell_id: str) -> CellRecord:
        """A stored cell, under the first name asked for here. Raises StoreError when it is missing or damaged."""
        record = read_cell(self.cell_path(cell_id))
        entries = (entry for entry in self.run["cells"] if entry["cell_id"] == cell_id)
        return next((_asked(record, entry) for entry in entries), record)

    def write_cell(self, record: CellRecord) -> None:
        """Store what became of a cell: evidence first, then the cell itself.

        Raises StoreError when the disk is full, ValueError or TypeError when a sample is not plain finite data.
        """
        cell_id = record.cell.cell_id
        evidence = "".join(f"{line}\n" for line in evidence_lines(record))
        kept = {"evidence_digest": digest(evidence) if evidence else None, "run_id": self.run_id, **self._environment}
        text = cell_text(dataclasses.replace(record, **kept))
        if evidence:
            write_whole(self.folder / "evidence" / f"{cell_id}.jsonl", json_bytes(evidence))
        write_whole(self.cell_path(cell_id), json_bytes(text))

    def adopt(self, path: Path) -> None:
        """Take over a cell of an earlier run, its evidence and environment too: by links, or copies across devices."""
        source = path.parent.parent
        record = read_cell(path)
        evidence = source / "evidence" / path.name
        if evidence.is_file():
            _link(evidence, self.folder / "evidence" / path.name)
        for origin in (source / "environments" / f"{record.environment}.json", source / "environment.json"):
            target = self.folder / "environments" / f"{record.environment}.json"
            if origin.is_file() and not target.exists() and digest(origin.read_bytes()) == record.environment:
                _link(origin, target)
        _link(path, self.cell_path(path.stem))

    def done(self) -> dict[str, Status]:
        """Status of each stored cell that can be read, by cell id."""
        return {record.cell.cell_id: record.status for record in self.survey().records}

    def records(self) -> Iterator[CellRecord]:
        """The stored cells in the order of the plan, once under each name. Raises StoreError at one that is damaged."""
        found = self.survey()
        yield from found.records
        for error in found.damaged.values():
            raise error

    def survey(self) -> Survey:
        """The stored cells in the order of the plan, once under each name asked for, and those that are damaged."""
        read: dict[str, CellRecord] = {}
        damaged: dict[str, StoreError] = {}
        records = []
        names = {(entry["cell_id"], entry["checkpoint"]): entry for entry in self.run["cells"]}
        for entry in names.values():
            cell_id = entry["cell_id"]
            if cell_id not in read and cell_id not in damaged and self.cell_path(cell_id).is_file():
                try:
                    read[cell_id] = read_cell(self.cell_path(cell_id))
                except StoreError as error:
                    damaged[cell_id] = error
            if cell_id in read:
                records.append(_asked(read[cell_id], entry))
        return Survey(records=tuple(records), damaged=damaged)

    def rows(self) -> pd.DataFrame:
        """One row per sample, one per cell without samples; see `ttbench.store.rows`."""
        # Late: pandas would otherwise be in the memory of every worker, which is measured.
        from ttbench.store.rows import frame, read_environments, table

        return frame(table(self.records(), environments=read_environments([self.folder])))

    def write_rows(self) -> Path:
        """Write rows.parquet from the cells; it can be deleted and made again at any time."""
        from ttbench.store.rows import parquet_bytes, read_environments, table

        path = self.folder / "rows.parquet"
        write_whole(path, parquet_bytes(table(self.records(), environments=read_environments([self.folder]))))
        return path


def _new_folder(root: Path, name: str) -> Path:
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}"
    for attempt in itertools.count(1):
        folder = root / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            # mkdir fails when the name is taken: two runs can never share a folder.
            folder.mkdir()
            sync(root)
            return folder
        except FileExistsError as error:
            if not folder.is_dir():
                raise _store_error("make", folder, error) from error
        except OSError as error:
            raise _store_error("make", folder, error) from error
    raise AssertionError("unreachable")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_suffix(".tmp")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _store_error("write", target, error) from error


def run_folders(root: Path | str) -> list[Path]:
    """The run folders below `root`, newest first."""
    root = Path(root)
    if not root.is_dir():
        return []
    # By time, then by the number that tells runs of one second apart: -10 comes after -2.
    names = sorted(
        (path.parent.name for path in root.glob("*/run.json")), key=lambda name: (name[:15], len(name), name)
    )
    return [root / name for name in reversed(names)]


def delete_run(folder: Path) -> None:
    """Delete a run's folder. Raises StoreError when that is not allowed, or it is no run's."""
    Store(folder)
    try:
        # First what makes it a run, so that what is cut off half-way is none.
        (folder / "run.json").unlink()
        shutil.rmtree(folder)
    except OSError as error:
        raise _store_error("delete", folder, error) from error


def find_done(root: Path | str, cell_ids: Iterable[str]) -> dict[str, Path]:
    """Files of the cells that an earlier run below `root` answered. Failures and damaged files are not answers.

    What was unsupported is asked again, which costs little: its data may have been fetched since.
    """
    missing = set(cell_ids)
    found: dict[str, Path] = {}
    for folder in run_folders(root):
        for cell_id in sorted(missing & {path.stem for path in (folder / "cells").glob("*.jsonl")}):
            path = folder / "cells" / f"{cell_id}.jsonl"
            # A file that was copied, changed or cut is measured again.
            with contextlib.suppress(StoreError):
                if read_cell(path).status in LASTING:
                    found[cell_id] = path
        missing -= found.keys()
    return found


def find_finished(root: Path | str, cells: Sequence[Cell], *, name: str) -> Store | None:
    """The newest run below `root` of this name that has these cells, no others, all answered; None: there is none.

    A run with an answer that is asked again each time, such as `unsupported`, is not finished.
    """
    wanted = sorted(canonical_json(_planned(cell)) for cell in cells)
    for folder in run_folders(root):
        called = folder.name[_STAMP_LEN:]
        if called != name and re.fullmatch(rf"{re.escape(name)}-[0-9]+", called) is None:
            continue
        store = Store(folder)
        if sorted(canonical_json(entry) for entry in store.run["cells"]) != wanted:
            continue
        survey = store.survey()
        statuses = [record.status for record in survey.records]
        if not survey.damaged and len(statuses) == len(wanted) and set(LASTING).issuperset(statuses):
            return store
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A run that answered cells, as their files say it."""

    run_id: str
    date: str  # ISO 8601, UTC, of the first of them
    num_cells: int


def origins(paths: Iterable[Path]) -> list[Origin]:
    """Which runs measured the cells in these files, newest first."""
    started: dict[str, list[str]] = {}
    for path in paths:
        record = read_cell(path)
        started.setdefault(record.run_id, []).append(record.started)
    found = [Origin(run_id=run, date=min(dates)[:10], num_cells=len(dates)) for run, dates in started.items()]
    return sorted(found, key=lambda origin: (origin.date, origin.run_id), reverse=True)


def timings(root: Path | str, *, machine: str, tasks: Iterable[str]) -> list[tuple[Cell, float]]:
    """Cells of these tasks measured on this machine with their wall seconds, newest first, for the plan's estimate.

    Seconds in which a process opened its engine and corpus are not among them.
    """
    tasks = set(tasks)
    found: dict[str, tuple[Cell, float]] = {}
    for folder in run_folders(root):
        for path in sorted((folder / "cells").glob("*.jsonl")):
            if path.stem in found:
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(path, encoding="utf-8") as file:
                header = json.loads(file.readline())
                if header["status"] == "ok" and header["machine"] == machine and header["cell"]["task"] in tasks:
                    own_s = max(0.0, header["cell_s"] - (header.get("setup_s") or 0.0))
                    found[path.stem] = (Cell.from_json(header["cell"]), own_s)
    return list(found.values())
