"""A run's folder: one immutable file per cell, evidence beside it, one Parquet at the end.

    runs/<run_id>/run.json                  command, options, planned cells with the names asked for
                  environment.json          what the process that began the run ran on
                  environments/<digest>     what its workers ran on, each its own; rows refer to them by digest
                  cells/<cell_id>.jsonl     a header line, one line per sample, a checksum: the record
                  evidence/<cell_id>.jsonl  prompts, answers, log-probabilities, tracebacks; never in rows
                  others/<cell_id>.<writer> records of cells that had one already
                  segments/<writer>.*       cells and evidence as each writer appends them, in runs of more than `MANY`
                  taken/<writer>.*          those of earlier runs whose answers were taken over
                  settled                   of such a run, once rows were made: the digest of each cell that stands
                  rows.parquet              derived; `Store(folder).write_rows()` makes it again

A record is never replaced or removed. Where two writers bring one cell to an end (a task that a scheduler believed
dead wrote late), the first record keeps its place, and the second is kept beside it and reported. An answer that comes
after a failure, or after a file that is damaged, stands in its stead.

A process on another node writes with `Store(folder, environment=measure.environment())`: each record then refers to the
environment of the process that made it. It needs the folder under any path, and a name for its segment only where a
process that follows it on the same node is to write there after it (`segment=`). Threads that write at once take a
`writer()` each. Nothing is locked, and no file is written by two: see `ttbench.store.segments`.

A cell that an earlier run measured keeps its file, which says who measured it, when and under which name; the run that
takes it over shows it under the name asked for there. A file that does not agree with its checksum, its own name or the
cell in it is damaged: it answers nothing, and what is shown goes on without it.

A file is written whole or not at all, see `ttbench.store.files`. Evidence is written before its cell, so a cell that
exists is complete. No pandas, pyarrow or torch at import: workers, whose memory is measured, use this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.errors import StoreError
from ttbench.store import segments
from ttbench.store.cells import (
    ASKED,
    Ends,
    Holdings,
    Place,
    Survey,
    Wanted,
    cell_id_of,
    named,
    read_cell,
    standing,
    wanted_records,
)
from ttbench.store.files import link_or_copy, make_folder, store_error, write_new, write_whole, writer_name
from ttbench.store.folders import new_folder, read_environment, read_run, run_folders, run_of, runs_of
from ttbench.store.record import CellRecord, cell_text, evidence_lines, now
from ttbench.types import LASTING, SCHEMA_VERSION, Cell, Environment, Status, canonical_json, digest, json_bytes

if TYPE_CHECKING:
    import pandas as pd


MANY = 1000  # cells of a run, beyond which a file for each of them is too many for a folder
_STAMP_LEN = len("20000101-000000-")


def _planned(cell: Cell) -> dict[str, Any]:
    """A cell as run.json lists it."""
    asked = {name: getattr(cell.checkpoint, name) for name in ASKED}
    head = {"cell_id": cell.cell_id, "task": cell.task, "checkpoint": asked.pop("name")}
    return {**head, "context_len": cell.context_len, "weights_digest": cell.checkpoint.weights_digest, **asked}


class Store:
    """An open run folder. `create` makes one; several processes, on several nodes, may write to it."""

    def __init__(
        self, folder: Path | str, *, environment: Environment | None = None, segment: str | None = None
    ) -> None:
        """Open a run's folder; raises StoreError when it is none.

        Args:
            environment: of the process that will write cells, from `ttbench.machine.measure.environment`; None: the
                one of the process that began the run.
            segment: that it appends to in a run of many cells; None: one that nobody else has.
        """
        self.folder = Path(folder)
        self._given = environment
        self.segment = segment or writer_name()
        self._taken: set[Path] = set()  # indexes and environments that were taken over
        self._listed = segments.Listed(self.folder)
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
        segmented: bool | None = None,
    ) -> Store:
        """Make `root/<run_id>/`; the run id is unique even among runs started at the same moment.

        `segmented`: whether cells go into segments; None: where there are more than `MANY`.
        """
        folder = new_folder(Path(root), name)
        try:
            large = len(cells) > MANY if segmented is None else segmented
            for part in ("cells", "evidence", "environments", "workers", *(["segments"] if large else [])):
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
        }
        listed = ",\n  ".join(canonical_json(_planned(cell)) for cell in cells)
        head = json.dumps(run, indent=1, ensure_ascii=False)[:-2]
        write_whole(folder / "run.json", json_bytes(f'{head},\n "cells": [\n  {listed}\n ]\n}}\n'))
        return cls(folder, environment=environment)

    @property
    def run_id(self) -> str:
        return self.folder.name

    @cached_property
    def run(self) -> Mapping[str, Any]:
        """What run.json says. Raises StoreError when it is damaged."""
        return read_run(self.folder)

    @cached_property
    def environment(self) -> Environment:
        """What the process that writes here runs on."""
        if self._given is not None:
            return self._given
        return Environment.from_json(read_environment(self.folder))

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

    @cached_property
    def segmented(self) -> bool:
        """Whether cells are appended to segments."""
        return (self.folder / "segments").is_dir()

    def writer(self) -> Store:
        """The same run for another writer in this process, with a segment of its own."""
        return Store(self.folder, environment=self._given)

    def has(self, cell_id: str) -> bool:
        """Whether a cell was brought to an end by any writer, whatever became of it; of many cells ask `cell_ids`."""
        return self.cell_path(cell_id).is_file() or bool(self._listed.entries(cell_id))

    def cell_ids(self) -> list[str]:
        """The cells that something is held of."""
        return sorted(Holdings(self.folder).cell_ids)

    def read(self, cell_id: str) -> CellRecord:
        """A stored cell, under the first name asked for here. Raises StoreError when it is missing or damaged."""
        # While a run grows, the indexes are not read again for each of its cells.
        entries = self._listed.entries(cell_id)
        found = None if len(entries) == 1 else standing(Holdings(self.folder).places(cell_id))
        place = entries[0] if len(entries) == 1 else self.cell_path(cell_id)
        record = read_cell(place) if found is None else found[1]
        asked = (entry for entry in self.run["cells"] if entry["cell_id"] == cell_id)
        return next((named(record, entry) for entry in asked), record)

    def write_cell(self, record: CellRecord) -> None:
        """Store what became of a cell: evidence first, then the cell itself.

        A record that is there already is left alone, and this one is kept beside it.

        Raises StoreError when the disk is full, ValueError or TypeError when a sample is not plain finite data.
        """
        cell_id = record.cell.cell_id
        evidence = "".join(f"{line}\n" for line in evidence_lines(record))
        kept = {"evidence_digest": digest(evidence) if evidence else None, "run_id": self.run_id, **self._environment}
        text = cell_text(dataclasses.replace(record, **kept))
        if self.segmented:
            segments.append(
                self.folder / "segments",
                self.segment,
                cell_id=cell_id,
                status=record.status,
                ended=now(),
                environment=str(kept["environment"]),
                text=json_bytes(text),
                told=json_bytes(evidence),
            )
            return
        if evidence and not write_new(self.folder / "evidence" / f"{cell_id}.jsonl", json_bytes(evidence)):
            # Of a record that was there before, or of a writer that was killed before it wrote its record.
            write_new(self.folder / "evidence" / f"{cell_id}.{kept['evidence_digest']}.jsonl", json_bytes(evidence))
        if not write_new(self.cell_path(cell_id), json_bytes(text)):
            make_folder(self.folder / "others")
            write_new(self.folder / "others" / f"{cell_id}.{writer_name()}.jsonl", json_bytes(text))

    def evidence_path(self, record: CellRecord) -> Path | segments.Stretch:
        """Where the evidence of a record is, if it has any."""
        cell_id = record.cell.cell_id
        for entry in self._listed.entries(cell_id):
            with contextlib.suppress(OSError):
                if entry.evidence is not None and digest(entry.evidence.read_bytes()) == record.evidence_digest:
                    return entry.evidence
        own = self.folder / "evidence" / f"{cell_id}.{record.evidence_digest}.jsonl"
        return own if own.is_file() else self.folder / "evidence" / f"{cell_id}.jsonl"

    def adopt(self, place: Place) -> None:
        """Take over a cell of an earlier run, its evidence and environment too: by links, or copies across devices.

        Of a cell in a segment, a run that has segments takes over the whole segment, others the cell alone.
        """
        source = run_of(place)
        if isinstance(place, segments.IndexEntry) and self.segmented:
            self._adopt_environment(source, place.environment)
            if place.index not in self._taken:
                segments.take_over(place.index, self.folder)
            self._taken.add(place.index)
            return
        record = read_cell(place)
        cell_id = record.cell.cell_id
        evidence = Store(source).evidence_path(record)
        self._adopt_environment(source, record.environment)
        target = self.folder / "evidence" / f"{cell_id}.jsonl"
        if isinstance(evidence, segments.Stretch):
            write_new(target, evidence.read_bytes())
        elif evidence.is_file():
            link_or_copy(evidence, target)
        if isinstance(place, segments.IndexEntry):
            write_new(self.cell_path(cell_id), place.read_bytes())
        else:
            link_or_copy(place, self.cell_path(cell_id))

    def _adopt_environment(self, source: Path, name: str) -> None:
        target = self.folder / "environments" / f"{name}.json"
        if target in self._taken:
            return
        self._taken.add(target)
        for origin in (source / "environments" / target.name, source / "environment.json"):
            if origin.is_file() and not target.exists() and digest(origin.read_bytes()) == name:
                link_or_copy(origin, target)

    def done(self) -> dict[str, Status]:
        """Status of each planned cell that is stored and can be read, by cell id, in the order of the plan."""
        held = Holdings(self.folder)
        planned = dict.fromkeys(entry["cell_id"] for entry in self.run["cells"])
        found: dict[str, Status] = {cell_id_of(place): status for place, status in held.statuses(planned)}
        return {cell_id: found[cell_id] for cell_id in planned if cell_id in found}

    def twice(self) -> tuple[str, ...]:
        """Ids of the planned cells that more than one record is kept of."""
        held = Holdings(self.folder)
        return tuple(dict.fromkeys(e["cell_id"] for e in self._entries() if len(held.places(e["cell_id"])) > 1))

    def records(self) -> Iterator[CellRecord]:
        """The stored cells in the order of the plan, once under each name. Raises StoreError at one that is damaged.

        One is in memory at a time.
        """
        return wanted_records(self._wanted(), {})

    def _wanted(self) -> list[Wanted]:
        held = Holdings(self.folder)
        return [(entry, held.places(entry["cell_id"])) for entry in self._entries()]

    def _entries(self) -> Iterable[Mapping[str, Any]]:
        """The planned cells, once under each name."""
        return {(entry["cell_id"], entry["checkpoint"]): entry for entry in self.run["cells"]}.values()

    def survey(self) -> Survey:
        """The stored cells in the order of the plan, once under each name asked for, and those that are damaged."""
        found, records, held = dict[str, Ends](), list[CellRecord](), Holdings(self.folder)
        for entry in self._entries():
            cell_id = entry["cell_id"]
            if cell_id not in found:
                found[cell_id] = held.ends(cell_id)
            if found[cell_id].records:
                records.append(named(found[cell_id].records[0], entry))
        return Survey(
            records=tuple(records),
            damaged={cell_id: ends.error for cell_id, ends in found.items() if ends.error and not ends.records},
            others={cell_id: ends.records[1:] for cell_id, ends in found.items() if ends.records[1:]},
        )

    def rows(self) -> pd.DataFrame:
        """One row per sample, one per cell without samples; see `ttbench.store.rows`."""
        # Late: pandas would otherwise be in the memory of every worker, which is measured.
        from ttbench.store.collected import table
        from ttbench.store.rows import frame, read_environments

        return frame(table(self.records(), environments=read_environments([self.folder])))

    def write_rows(self) -> Path:
        """Write rows.parquet from the cells; it can be deleted and made again at any time."""
        from ttbench.store.collected import write_parquet
        from ttbench.store.rows import read_environments

        path = self.folder / "rows.parquet"
        shown = write_parquet(path, self._wanted(), environments=read_environments([self.folder]))
        if self.segmented:
            lines = (f"{cell_id}\t{found}\n" for cell_id, found in shown.items())
            write_whole(self.folder / "settled", "".join(lines).encode())
        return path


def delete_run(folder: Path) -> None:
    """Delete a run's folder. Raises StoreError when that is not allowed, or it is no run's."""
    Store(folder)
    try:
        # First what makes it a run, so that what is cut off half-way is none.
        (folder / "run.json").unlink()
        shutil.rmtree(folder)
    except OSError as error:
        raise store_error("delete", folder, error) from error


def find_done(root: Path | str, cell_ids: Iterable[str]) -> dict[str, Place]:
    """Where the cells are that an earlier run below `root` answered. Failures and damaged files are not answers.

    What was unsupported is asked again, which costs little: its data may have been fetched since.
    """
    missing = set(cell_ids)
    found: dict[str, Place] = {}
    for folder in run_folders(root):
        held = Holdings(folder)
        # What was copied, changed or cut is measured again.
        for place, status in held.statuses(sorted(missing & held.cell_ids)):
            if status in LASTING:
                found[cell_id_of(place)] = place
        missing -= found.keys()
    return found


def find_finished(
    root: Path | str, cells: Sequence[Cell], *, name: str, done: Mapping[str, Place] | None = None
) -> Store | None:
    """The newest run below `root` of this name that has these cells, no others, all answered; None: there is none.

    A run with an answer that is asked again each time, such as `unsupported`, is not finished. `done`, of
    `find_done`, is not looked at again.
    """
    wanted, ids = [_planned(cell) for cell in cells], {cell.cell_id for cell in cells}
    for folder in run_folders(root):
        called = folder.name[_STAMP_LEN:]
        if called != name and re.fullmatch(rf"{re.escape(name)}-[0-9]+", called) is None:
            continue
        store = Store(folder)
        try:
            planned = store.run["cells"]
            # In the order of the plan, or in another.
            counts = (Counter(map(canonical_json, each)) for each in (planned, wanted))
            if len(planned) != len(wanted) or (planned != wanted and next(counts) != next(counts)):
                continue
        except (StoreError, AttributeError, TypeError, ValueError):
            # Not the list that was written: the run is none of these cells'.
            continue
        if done is not None and ids <= done.keys() and runs_of(map(done.__getitem__, ids)) == {folder}:
            return store
        found = store.done()
        if len(found) == len(ids) and set(LASTING).issuperset(found.values()):
            return store
    return None
