"""A run's folder: one immutable file per cell, evidence beside it, one Parquet at the end.

    runs/<run_id>/run.json                  command, options, planned cells with the names asked for
                  environment.json          what the process that began the run ran on
                  environments/<digest>     what its workers ran on, each its own; rows refer to them by digest
                  cells/<cell_id>.jsonl     a header line, one line per sample, a checksum: the record
                  evidence/<cell_id>.jsonl  prompts, answers, log-probabilities, tracebacks; never in rows
                  others/<cell_id>.<writer> records of cells that had one already, with their evidence
                  rows.parquet              derived; `Store(folder).write_rows()` makes it again from cells/

A record is never replaced or removed. Where two writers bring one cell to an end (a task that a scheduler believed
dead wrote late), the first record keeps its place, and the second is kept beside it and reported. An answer that comes
after a failure, or after a file that is damaged, stands in its stead.

A worker on another node writes with `Store(folder, environment=measure.environment())`: each record then refers to the
environment of the process that made it.

A cell that an earlier run measured keeps its file, which says who measured it, when and under which name; the run that
takes it over shows it under the name asked for there. A file that does not agree with its checksum, its own name or the
cell in it is damaged: it answers nothing, and what is shown goes on without it.

A file is written whole or not at all, see `ttbench.store.files`. Evidence is written before its cell, so a cell that
exists is complete. No pandas, pyarrow or torch at import: workers, whose memory is measured, use this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.errors import StoreError
from ttbench.machine.disk import sync
from ttbench.store.cells import Ends, others, read_cell, read_ends
from ttbench.store.files import link_or_copy, make_folder, store_error, write_new, write_whole, writer_name
from ttbench.store.record import CellRecord, cell_text, evidence_lines, now
from ttbench.types import LASTING, SCHEMA_VERSION, Cell, Environment, Status, canonical_json, digest, json_bytes

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a run's folder holds."""

    records: tuple[CellRecord, ...]
    damaged: Mapping[str, StoreError]  # by cell id
    others: Mapping[str, tuple[CellRecord, ...]] = field(default_factory=dict)  # records that do not stand, by cell id


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
    """An open run folder. `create` makes one; several processes, on several nodes, may write to it."""

    def __init__(self, folder: Path | str, *, environment: Environment | None = None) -> None:
        """Open a run's folder; raises StoreError when it is none.

        Args:
            environment: of the process that will write cells, from `ttbench.machine.measure.environment`; None: the
                one of the process that began the run.
        """
        self.folder = Path(folder)
        self._given = environment
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
            raise store_error("make", folder, error) from error
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
        return cls(folder, environment=environment)

    @property
    def run_id(self) -> str:
        return self.folder.name

    @cached_property
    def run(self) -> Mapping[str, Any]:
        """What run.json says."""
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))

    @cached_property
    def environment(self) -> Environment:
        """What the process that writes here runs on."""
        if self._given is not None:
            return self._given
        return Environment.from_json(json.loads((self.folder / "environment.json").read_text(encoding="utf-8")))

    @cached_property
    def _environment(self) -> dict[str, str | None]:
        """What a record says of its writer's environment, once that is stored."""
        begun = self.folder / "environment.json"
        data = begun.read_bytes() if self._given is None else json_bytes(canonical_json(self._given.to_json()))
        name, known = digest(data), json.loads(data)
        if digest(begun.read_bytes()) != name:
            # Others on the same machine write the same text under the same name.
            write_new(self.folder / "environments" / f"{name}.json", data)
        told = {key: known.get(key) for key in ("machine", "ttbench", "allocation")}
        return {"environment": name, **told}

    def cell_path(self, cell_id: str) -> Path:
        return self.folder / "cells" / f"{cell_id}.jsonl"

    def has(self, cell_id: str) -> bool:
        """Whether a cell was brought to an end here, whatever became of it."""
        return self.cell_path(cell_id).is_file()

    def read(self, cell_id: str) -> CellRecord:
        """A stored cell, under the first name asked for here. Raises StoreError when it is missing or damaged."""
        ends = read_ends([self.cell_path(cell_id), *others(self.folder).get(cell_id, ())])
        if not ends.records:
            assert ends.error is not None
            raise ends.error
        record = ends.records[0]
        entries = (entry for entry in self.run["cells"] if entry["cell_id"] == cell_id)
        return next((_asked(record, entry) for entry in entries), record)

    def write_cell(self, record: CellRecord) -> bool:
        """Store what became of a cell: evidence first, then the cell itself; whether it was the first to end it.

        A record that is there already is left alone, and this one is kept in `others/`.

        Raises StoreError when the disk is full, ValueError or TypeError when a sample is not plain finite data.
        """
        cell_id = record.cell.cell_id
        evidence = "".join(f"{line}\n" for line in evidence_lines(record))
        kept = {"evidence_digest": digest(evidence) if evidence else None, "run_id": self.run_id, **self._environment}
        text = cell_text(dataclasses.replace(record, **kept))
        if evidence and not write_new(self.folder / "evidence" / f"{cell_id}.jsonl", json_bytes(evidence)):
            # Of a record that was there before, or of a writer that was killed before it wrote its record.
            write_new(self.folder / "evidence" / f"{cell_id}.{kept['evidence_digest']}.jsonl", json_bytes(evidence))
        if write_new(self.cell_path(cell_id), json_bytes(text)):
            return True
        make_folder(self.folder / "others")
        write_new(self.folder / "others" / f"{cell_id}.{writer_name()}.jsonl", json_bytes(text))
        return False

    def evidence_path(self, record: CellRecord) -> Path:
        """Where the evidence of a record is, if it has any."""
        cell_id = record.cell.cell_id
        own = self.folder / "evidence" / f"{cell_id}.{record.evidence_digest}.jsonl"
        return own if own.is_file() else self.folder / "evidence" / f"{cell_id}.jsonl"

    def adopt(self, path: Path) -> None:
        """Take over a cell of an earlier run, its evidence and environment too: by links, or copies across devices."""
        source = Store(path.parent.parent)
        record = read_cell(path)
        cell_id = record.cell.cell_id
        evidence = source.evidence_path(record)
        if evidence.is_file():
            link_or_copy(evidence, self.folder / "evidence" / f"{cell_id}.jsonl")
        name = f"{record.environment}.json"
        for origin in (source.folder / "environments" / name, source.folder / "environment.json"):
            target = self.folder / "environments" / name
            if origin.is_file() and not target.exists() and digest(origin.read_bytes()) == record.environment:
                link_or_copy(origin, target)
        link_or_copy(path, self.cell_path(cell_id))

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
        found: dict[str, Ends] = {}
        records = []
        names = {(entry["cell_id"], entry["checkpoint"]): entry for entry in self.run["cells"]}
        beside = others(self.folder)
        for entry in names.values():
            cell_id = entry["cell_id"]
            if cell_id not in found:
                paths = [path for path in (self.cell_path(cell_id),) if path.is_file()]
                found[cell_id] = read_ends([*paths, *beside.get(cell_id, ())])
            if found[cell_id].records:
                records.append(_asked(found[cell_id].records[0], entry))
        return Survey(
            records=tuple(records),
            damaged={cell_id: ends.error for cell_id, ends in found.items() if ends.error and not ends.records},
            others={cell_id: ends.records[1:] for cell_id, ends in found.items() if ends.records[1:]},
        )

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
                raise store_error("make", folder, error) from error
        except OSError as error:
            raise store_error("make", folder, error) from error
    raise AssertionError("unreachable")


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
        raise store_error("delete", folder, error) from error


def find_done(root: Path | str, cell_ids: Iterable[str]) -> dict[str, Path]:
    """Files of the cells that an earlier run below `root` answered. Failures and damaged files are not answers.

    What was unsupported is asked again, which costs little: its data may have been fetched since.
    """
    missing = set(cell_ids)
    found: dict[str, Path] = {}
    for folder in run_folders(root):
        beside = others(folder)
        stored = {path.stem for path in (folder / "cells").glob("*.jsonl")}
        for cell_id in sorted(missing & (stored | beside.keys())):
            for path in (folder / "cells" / f"{cell_id}.jsonl", *beside.get(cell_id, ())):
                # A file that was copied, changed or cut is measured again.
                with contextlib.suppress(StoreError):
                    if cell_id not in found and read_cell(path).status in LASTING:
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
