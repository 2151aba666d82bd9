"""Cell records as columns and as rows: in memory, and as a run's Parquet file.

Cells are collected by the slice. A slice is a fixed number of cells, so that a file has the same bytes however many
processes made it: a large run's slices are shared among processes (`ttbench.store.collector`), a small run is one.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import operator
import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ttbench.errors import StoreError
from ttbench.machine.measure import cpu_quota, num_cores
from ttbench.names import as_text
from ttbench.packages import import_path
from ttbench.store.cells import Wanted, wanted_records
from ttbench.store.files import write_whole
from ttbench.store.growing import Growing, Part, disagreement, joined, tables
from ttbench.store.record import CellRecord
from ttbench.store.rows import COLUMNS, READ, SAMPLE, in_order, metadata
from ttbench.types import Cell, Checkpoint, Figure, Metric, canonical_json

SLICE_CELLS = 2500  # cells that are collected together
_PART_ROWS = 100_000  # rows that are held as Python objects before they become arrays, and a row group of a file
_MAX_PROCESSES = 8  # each holds a slice in memory
_ARROW = {"text": pa.string(), "whole": pa.int64(), "real": pa.float64(), "truth": pa.bool_()}

# What the record saw happen goes before what the cell asked for (engine, machine).
_SOURCES = {
    name: next((source for source in (CellRecord, Cell, Checkpoint) if name in source.__dataclass_fields__), None)
    for name in COLUMNS
}


def _cell_columns(record: CellRecord) -> dict[str, Any]:
    cell, checkpoint = record.cell, record.cell.checkpoint
    own = {CellRecord: record, Cell: cell, Checkpoint: checkpoint}
    row = {name: getattr(own[source], name) for name, source in _SOURCES.items() if source is not None}
    row |= {"schema": cell.schema, "cell_id": cell.cell_id, "checkpoint": checkpoint.name}
    row["kernel_path"] = canonical_json(dict(record.kernel_path))
    row["extrapolated"] = None if checkpoint.train_ctx is None else _reach(record) > checkpoint.train_ctx
    row |= {f"param_{name}": value for name, value in cell.params.items()}
    row |= {f"choice_{name}": value for name, value in record.choices.items() if value is not None}
    return {name: as_text(value) if isinstance(value, str) else value for name, value in row.items()}


def _reach(record: CellRecord) -> int:
    """Tokens of the longest sequence: what the samples say was read, before what the plan foresaw."""
    read = [sample.values[READ] for sample in record.samples if sample.values.get(READ) is not None]
    planned = record.cell.context_len if record.cell.reach is None else record.cell.reach
    return int(max(filter(None, read), default=planned))


def _sample_columns(record: CellRecord, taken: Collection[str]) -> dict[str, list[Any]]:
    """The columns of a cell's samples, names as text. Raises StoreError for a name that rows have already."""
    columns = _columns([sample.keys for sample in record.samples])
    columns |= _columns([sample.values for sample in record.samples])
    clash = sorted(columns.keys() & {*taken, *SAMPLE})
    if clash:
        raise StoreError(f"task '{record.cell.task}' names a sample's column {clash[0]!r}, which rows have")
    for values in columns.values():
        kinds = set(map(type, values))
        if str in kinds and not (kinds == {str} and all(map(str.isascii, values))):
            values[:] = [as_text(value) if isinstance(value, str) else value for value in values]
    return columns


_VALUES = operator.methodcaller("values")


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns of rows that mostly have the same names in the same order."""
    names = tuple(rows[0]) if rows else ()
    if list(map(tuple, rows)).count(names) == len(rows):
        return dict(zip(names, map(list, zip(*map(_VALUES, rows), strict=True)), strict=True))
    found = dict.fromkeys(itertools.chain.from_iterable(rows))
    return {name: [row.get(name) for row in rows] for name in found}


class Collected:
    """Records as columns: those of cells, and those of their samples, by the part."""

    def __init__(self, records: Iterable[CellRecord] = ()) -> None:
        """Raises StoreError when tasks disagree about a column."""
        self.parts: list[tuple[Part, list[int], Part]] = []
        self._metrics: dict[str, tuple[Metric, ...]] = {}
        self._figures: dict[str, tuple[Figure, ...]] = {}
        self._kinds: dict[str, str] = {}  # of the columns that tasks declare
        self._environments: set[str] = set()
        cells, samples, counts = Growing(), Growing(), list[int]()
        waiting: list[dict[str, Any]] = []  # columns of the cells since the last part
        for record in records:
            cell, count = _cell_columns(record), max(len(record.samples), 1)
            waiting.append(cell)
            samples.add({"sample": range(count), **_sample_columns(record, cell)}, count)
            counts.append(count)
            self._note(record)
            if samples.num_rows >= _PART_ROWS:
                self._end_part(cells, waiting, counts, samples)
                waiting, counts = [], []
        if counts:
            self._end_part(cells, waiting, counts, samples)
        self._cell_types, self._sample_types = cells.types, samples.types

    def _note(self, record: CellRecord) -> None:
        self._metrics[record.cell.task] = record.metrics
        if record.figures is not None:
            self._figures[record.cell.task] = record.figures
        self._environments.add(record.environment)
        self._declare(record.columns)

    def _declare(self, columns: Mapping[str, str]) -> None:
        for name, kind in columns.items():
            held = self._kinds.setdefault(name, kind)
            if held != kind and {held, kind} != {"whole", "real"}:
                raise disagreement(name, sorted((held, kind)))
            # Whole numbers give way to real ones.
            if held != kind:
                self._kinds[name] = "real"

    def _end_part(
        self, cells: Growing, waiting: Sequence[Mapping[str, Any]], counts: list[int], samples: Growing
    ) -> None:
        fixed = {name: _ARROW[column.kind] for name, column in {**COLUMNS, **SAMPLE}.items()}
        known = fixed | {name: _ARROW[kind] for name, kind in self._kinds.items()}
        cells.add(_columns(waiting), len(waiting))
        self.parts.append((cells.part(known), counts, samples.part(known)))

    def extend(self, later: Collected) -> None:
        """Take over what was collected of the cells that follow. Raises StoreError when tasks disagree."""
        self.parts += later.parts
        self._metrics |= later._metrics
        self._figures |= later._figures
        self._environments |= later._environments
        self._declare(later._kinds)
        self._cell_types = joined(self._cell_types, later._cell_types)
        self._sample_types = joined(self._sample_types, later._sample_types)

    def schema(self, environments: Mapping[str, str]) -> pa.Schema:
        """Parameters and choices before `sample`, the tasks' own columns after it: as declared, others as they come."""
        declared = {name: _ARROW[kind] for name, kind in self._kinds.items()}
        found = {**self._cell_types, **self._sample_types}
        names = [name for name in dict.fromkeys((*declared, *found)) if name not in COLUMNS and name not in SAMPLE]
        # What is declared must hold what came undeclared, of another task or version.
        own = joined(declared, {name: found.get(name, pa.null()) for name in names})
        for name in declared:
            if own[name] != declared[name]:
                raise disagreement(name, ("real", "whole"))
        types = own | {name: _ARROW[column.kind] for name, column in {**COLUMNS, **SAMPLE}.items()}
        kept = {name: text for name, text in environments.items() if name in self._environments}
        metrics = {task: [each.to_json() for each in found] for task, found in self._metrics.items()}
        figures = {task: [each.to_json() for each in found] for task, found in self._figures.items()}
        carried = {"metrics": metrics, "figures": figures, "environments": kept}
        return pa.schema([(name, types[name]) for name in in_order(types)], metadata=metadata(carried))

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows, a part at a time; one empty table where there are none."""
        yield from tables(self.parts, schema)
        if not self.parts:
            yield schema.empty_table()


def table(records: Iterable[CellRecord], *, environments: Mapping[str, str] | None = None) -> pa.Table:
    """The rows of these records under an explicit schema.

    Args:
        records: of cells.
        environments: of `read_environments`; those that no record names are left out.

    Raises:
        StoreError: tasks disagree about a column.
    """
    collected = Collected(records)
    return pa.concat_tables(collected.tables(collected.schema(environments or {})))


def write_parquet(path: Path, wanted: Sequence[Wanted], *, environments: Mapping[str, str]) -> dict[str, str]:
    """Write the rows of planned cells as a Parquet file, a part at a time: zstd, the same bytes for the same rows.

    Returns what was given from segments: cell id -> digest of its text. Raises StoreError as `table`, when a cell is
    damaged, or when the file cannot be written.
    """
    slices = [wanted[start : start + SLICE_CELLS] for start in range(0, len(wanted), SLICE_CELLS)]
    collected, shown = Collected(), dict[str, str]()
    with contextlib.closing(_collected_by(num_processes(len(wanted)), slices)) as made:
        for part, given in made:
            collected.extend(part)
            shown |= given
    schema = collected.schema(environments)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for rows in collected.tables(schema):
            writer.write_table(rows)
    write_whole(path, buffer.getvalue())
    return shown


def collect_slice(wanted: Sequence[Wanted]) -> tuple[Collected, dict[str, str]]:
    """What some planned cells hold, and which of it is from segments. Raises StoreError as `write_parquet`."""
    shown: dict[str, str] = {}
    return Collected(wanted_records(wanted, shown)), shown


def num_processes(num_cells: int) -> int:
    """Processes that collect a run of so many cells: one for each two slices, as far as there is processor time."""
    num_slices = -(-num_cells // SLICE_CELLS)
    return max(1, min(int(cpu_quota() or num_cores()), num_slices // 2, _MAX_PROCESSES))


def _collected_by(processes: int, slices: Sequence[Sequence[Wanted]]) -> Generator[tuple[Collected, dict[str, str]]]:
    """What `collect_slice` gives of each slice, in order: made here, or by processes of which each takes every n-th."""
    if processes == 1:
        yield from map(collect_slice, slices)
        return
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(_Collector(slices[first::processes])) for first in range(processes)]
        threads = stack.enter_context(ThreadPoolExecutor(max_workers=processes))
        # First of all when this ends, whatever the reason: threads end when the processes that they read from do.
        stack.callback(lambda: [collector.kill() for collector in running])
        told = [queue.SimpleQueue[Any]() for _ in running]
        for collector, answers in zip(running, told, strict=True):
            threads.submit(collector.tell, answers)
        for index in range(len(slices)):
            answer = told[index % processes].get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer


class _Collector:
    """A process that collects slices: asked once, it answers them in turn."""

    def __init__(self, share: Sequence[Sequence[Wanted]]) -> None:
        """Start it. Raises OSError when the machine lets nobody start one."""
        self._share = share
        answers, theirs = os.pipe()
        self._answers = os.fdopen(answers, "rb")
        try:
            self._process = subprocess.Popen(
                # -P: the current folder must not shadow modules.
                [sys.executable, "-P", "-m", "ttbench.store.collector", str(theirs)],
                stdin=subprocess.PIPE,
                # Not for the answers: modules may print while they are imported.
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs],
                env={**os.environ, "PYTHONPATH": import_path()},
                # Ctrl-C is for the process that was asked, and ends this one through it.
                start_new_session=True,
            )
        except BaseException:
            self._answers.close()
            raise
        finally:
            os.close(theirs)

    def tell(self, answers: queue.SimpleQueue[Any]) -> None:
        """Ask, and put an answer for each slice into the queue, or the error that ended it."""
        assert self._process.stdin is not None
        try:
            with self._process.stdin as requests:
                pickle.dump(self._share, requests, protocol=pickle.HIGHEST_PROTOCOL)
            for _ in self._share:
                answers.put(pickle.load(self._answers))
        # What cannot be read back has many names, and whoever waits for the answer must not wait for ever.
        except Exception as error:
            self.kill()
            found = StoreError(
                f"a process that collected rows ended early, with exit code {self._process.wait()} (a negative one is "
                f"the signal that ended it); the cells are kept: the same command collects them again"
            )
            found.__cause__ = error
            answers.put(found)

    def kill(self) -> None:
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._answers.close()
        # Waits, and closes the pipe to it, which may hold what nobody reads any more.
        with contextlib.suppress(BrokenPipeError), self._process:
            self.kill()
