"""A run's folder: one immutable file per cell, evidence beside it, one Parquet at the end.

    runs/<run_id>/run.json                  command, options, planned cells
                  environment.json          what it ran on; rows refer to it by digest
                  environments/<digest>     those of cells taken over from earlier runs
                  cells/<cell_id>.jsonl     a header line, then one line per sample: the record
                  evidence/<cell_id>.jsonl  prompts, answers, log-probabilities, tracebacks; never in rows
                  rows.parquet              derived; `Store(folder).write_rows()` makes it again from cells/

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
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ttbench.disk import sync
from ttbench.errors import StoreError
from ttbench.record import CellRecord, cell_lines, evidence_lines, now, parse_cell
from ttbench.types import (
    LASTING,
    SCHEMA_VERSION,
    Cell,
    Environment,
    Status,
    canonical_json,
    digest,
    json_bytes,
)

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
    """Read a cell's file. Raises StoreError when it is missing, of another schema, or not whole."""
    try:
        return parse_cell(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _store_error("read", path, error) from error
    except ValueError as error:
        raise StoreError(
            f"{path} is not a whole cell file ({error}); delete it and run the same command again"
        ) from error


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
            "cells": [
                {"cell_id": c.cell_id, "task": c.task, "checkpoint": c.checkpoint.name, "context_len": c.context_len}
                for c in cells
            ],
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
    def _environment(self) -> tuple[str, str]:
        data = (self.folder / "environment.json").read_bytes()
        return digest(data), json.loads(data)["machine"]

    def cell_path(self, cell_id: str) -> Path:
        return self.folder / "cells" / f"{cell_id}.jsonl"

    def read(self, cell_id: str) -> CellRecord:
        """A stored cell. Raises StoreError when it is missing or not whole."""
        return read_cell(self.cell_path(cell_id))

    def write_cell(self, record: CellRecord) -> None:
        """Store what became of a cell: evidence first, then the cell itself.

        Raises StoreError when the disk is full, ValueError or TypeError when a sample is not plain finite data.
        """
        environment, machine = self._environment
        record = dataclasses.replace(record, run_id=self.run_id, environment=environment, machine=machine)
        cell_id = record.cell.cell_id
        text = "".join(f"{line}\n" for line in cell_lines(record))
        evidence = "".join(f"{line}\n" for line in evidence_lines(record))
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
        """Status of each stored cell, by cell id."""
        return {record.cell.cell_id: record.status for record in self.records()}

    def records(self) -> Iterator[CellRecord]:
        """The stored cells in the order of the plan."""
        for cell_id in dict.fromkeys(entry["cell_id"] for entry in self.run["cells"]):
            if self.cell_path(cell_id).is_file():
                yield read_cell(self.cell_path(cell_id))

    def rows(self) -> pd.DataFrame:
        """One row per sample, one per cell without samples; see `ttbench.rows`."""
        # Late: pandas would otherwise be in the memory of every worker, which is measured.
        from ttbench.rows import frame, table

        return frame(table(self.records()))

    def write_rows(self) -> Path:
        """Write rows.parquet from the cells; it can be deleted and made again at any time."""
        from ttbench.rows import parquet_bytes, table

        path = self.folder / "rows.parquet"
        write_whole(path, parquet_bytes(table(self.records())))
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


def find_done(root: Path | str, cell_ids: Iterable[str]) -> dict[str, Path]:
    """Files of the cells that an earlier run below `root` answered. Failures and broken files are not answers.

    What was unsupported is asked again, which costs little: its data may have been fetched since.
    """
    missing = set(cell_ids)
    found: dict[str, Path] = {}
    for folder in run_folders(root):
        for cell_id in sorted(missing & {path.stem for path in (folder / "cells").glob("*.jsonl")}):
            path = folder / "cells" / f"{cell_id}.jsonl"
            # A file of another schema, or cut by a failing disk, is measured again.
            with contextlib.suppress(StoreError):
                if read_cell(path).status in LASTING:
                    found[cell_id] = path
        missing -= found.keys()
    return found


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
