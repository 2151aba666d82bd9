"""Rows: cell records as one tidy Arrow table, on disk as Parquet, in memory as a DataFrame.

One row per sample; a cell that is not ok gives exactly one row, with its status and no values. The columns of `COLUMNS`
come first with fixed types; then `param_<name>`, `choice_<name>` of the models that are there, `sample`, and the keys
and values of the tasks, with the types that the tasks declare, so that all files of a task have one schema but for
choices; the types of a task that declares none follow from all of a column's entries together. Missing is null; whole
numbers and truth values with nulls become pandas' nullable Int64 and boolean, never floats. The tasks' metrics and
figures, and the environments that rows name, travel in the schema's metadata and in `frame.attrs`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ttbench.declare import ColumnDeclaration, real, text, truth, whole
from ttbench.errors import StoreError
from ttbench.names import as_text
from ttbench.registry import TASKS
from ttbench.store.record import CellRecord
from ttbench.types import canonical_json, digest

# What travels in a schema's metadata and in the `attrs` of a DataFrame.
METRICS_KEY = b"ttbench.metrics"
CARRIED = {"metrics": METRICS_KEY, "figures": b"ttbench.figures", "environments": b"ttbench.environments"}
READ = "sequence_tokens"  # of a sample: the longest sequence that was read for it, where that is not the context
SETTINGS = ("param_", "choice_")  # how columns begin that the task's parameters, and the model's choices, have

COLUMNS: Mapping[str, ColumnDeclaration] = {
    "run_id": text("run that measured it"),
    "cell_id": text("digest of all that can change the cell's numbers: equal cells of any run have one"),
    "schema": whole("schema of the cell's file"),
    "task": text("task that measured"),
    "task_version": whole("version of the task; another version's numbers are other numbers"),
    "checkpoint": text("what the checkpoint was called: zoo name, folder or hub id"),
    "architecture": text("its architecture, by the name in `ttbench list architectures`"),
    "architecture_version": whole("version of the architecture's code"),
    "provenance": text("where it came from: zoo, local, hub, random (a size with random weights) or memory"),
    "revision": text("its commit on the hub; null for folders"),
    "weights_digest": text("digest of its weights"),
    "config_digest": text("digest of its configuration"),
    "tokenizer_digest": text("digest of its tokenizer; null: it has none"),
    "code_digest": text("digest of the sources that computed the number; null in schema 1"),
    "train_ctx": whole("its training context; null: unknown", "tokens"),
    "train_recipe": text("digest of how it was trained, without its seed; null: unknown"),
    "train_seed": whole("seed of its training; null: unknown"),
    "num_params": whole("its parameters", "parameters"),
    "num_params_non_embedding": whole("its parameters without embedding and output head", "parameters"),
    "context_len": whole("context that was asked for, in tokens of its tokenizer", "tokens"),
    "extrapolated": truth("whether its longest sequence, targets included, is beyond train_ctx; null: unknown"),
    "corpus": text("corpus that was read; null: none"),
    "corpus_digest": text("digest of the corpus's text"),
    "corpus_note": text("what a number on the corpus must not be read without"),
    "seed": whole("seed of everything that is drawn"),
    "dtype": text("floating-point type of the weights"),
    "device": text("device that it ran on, such as cpu"),
    "engine": text("engine that ran, such as eager or hf"),
    "attention": text("implementation of softmax attention; none for an architecture without it"),
    "kernel_path": text("JSON: operation -> implementation that ran"),
    "checked": text("what probes said before: passed, partly (not as far as it reads), failed, or unchecked"),
    "batch_size": whole("sequences that were read at once", "sequences"),
    "threads": whole("threads of the arithmetic"),
    "round": whole("fresh process of a timing cell, from 0"),
    "machine": text("fingerprint of the machine that it ran on"),
    "allocation": text("what the process was given of the machine: cores, processor time, memory; null: not told"),
    "software": text("timing cells: torch, Python and the variables that choose kernels"),
    "environment": text("digest of the environment that the worker recorded"),
    "ttbench": text("version of ttbench that measured it; null in schema 1"),
    "status": text("ok, or why there is no number: oom, too_long, too_short, unsupported, killed, timeout, error"),
    "reason": text("one line that explains the status; null where it is ok"),
    "started": text("when the cell began: ISO 8601, UTC"),
    "cell_s": real("wall time of the cell; none for what it took over from another cell", "s"),
    "cell_cpu_s": real("processor time of the cell", "s"),
    "load_average": real("load average of the machine over one minute, when the cell began"),
    "denormals_flushed": truth("whether the worker's arithmetic flushed denormal numbers to zero, as tried"),
}
SAMPLE: Mapping[str, ColumnDeclaration] = {"sample": whole("number of the row within its cell, from 0")}


_ARROW = {"text": pa.string(), "whole": pa.int64(), "real": pa.float64(), "truth": pa.bool_()}


def _cell_columns(record: CellRecord) -> dict[str, Any]:
    cell, checkpoint = record.cell, record.cell.checkpoint
    row = {"schema": cell.schema, "cell_id": cell.cell_id, "checkpoint": checkpoint.name}
    for name in COLUMNS:
        # What the record saw happen goes before what the cell asked for (engine, machine).
        for source in (record, cell, checkpoint):
            if name not in row and name in source.__dataclass_fields__:
                row[name] = getattr(source, name)
    row["kernel_path"] = canonical_json(dict(record.kernel_path))
    row["extrapolated"] = None if checkpoint.train_ctx is None else _reach(record) > checkpoint.train_ctx
    row |= {f"param_{name}": value for name, value in cell.params.items()}
    row |= {f"choice_{name}": value for name, value in record.choices.items() if value is not None}
    return _texts(row)


def _reach(record: CellRecord) -> int:
    """Tokens of the longest sequence: what the samples say was read, before what the plan foresaw."""
    read = [sample.values[READ] for sample in record.samples if sample.values.get(READ) is not None]
    planned = record.cell.context_len if record.cell.reach is None else record.cell.reach
    return int(max(filter(None, read), default=planned))


def _texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with names as text; paths may be none."""
    return {name: as_text(value) if isinstance(value, str) else value for name, value in row.items()}


def _rows(record: CellRecord) -> Iterator[dict[str, Any]]:
    shared = _cell_columns(record)
    if not record.samples:
        yield {**shared, "sample": 0}
    for index, sample in enumerate(record.samples):
        own = _texts({**sample.keys, **sample.values})
        taken = own.keys() & (shared.keys() | SAMPLE.keys())
        if taken:
            raise StoreError(f"task '{record.cell.task}' names a sample's column {sorted(taken)[0]!r}, which rows have")
        yield {**shared, "sample": index, **own}


def _type_of(column: str, values: Iterable[Any]) -> pa.DataType:
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.null()
    if kinds <= {bool}:
        return pa.bool_()
    if kinds <= {int}:
        return pa.int64()
    if kinds <= {int, float}:
        return pa.float64()
    if kinds == {str}:
        return pa.string()
    raise _disagreement(column, sorted(kind.__name__ for kind in kinds))


def _disagreement(column: str, kinds: Iterable[str]) -> StoreError:
    return StoreError(
        f"column '{column}' holds values of several kinds ({', '.join(kinds)}); the cells are kept: "
        "run the tasks that disagree apart, or rename the column in one of them"
    )


def read_environments(folders: Iterable[Path]) -> dict[str, str]:
    """What the cells of these runs ran on, by the digest that rows have: each file's text, checked against its name."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in (folder / "environment.json", *sorted((folder / "environments").glob("*.json"))):
            if path.is_file():
                data = path.read_bytes()
                found[digest(data)] = data.decode()
    return found


def table(records: Iterable[CellRecord], *, environments: Mapping[str, str] | None = None) -> pa.Table:
    """The rows of these records under an explicit schema.

    Args:
        records: of cells.
        environments: of `read_environments`; those that no record names are left out.

    Raises:
        StoreError: tasks disagree about a column.
    """
    records, rows = list(records), []
    metrics: dict[str, list[dict[str, Any]]] = {}
    figures: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        rows.extend(_rows(record))
        metrics[record.cell.task] = [metric.to_json() for metric in record.metrics]
        if record.figures is not None:
            figures[record.cell.task] = [figure.to_json() for figure in record.figures]
    declared = _declared(records)
    # Parameters and choices before `sample`, the tasks' own columns after it: as declared, others as they appear.
    extra = dict.fromkeys(
        (*declared, *(name for row in rows for name in row if name not in COLUMNS and name not in SAMPLE))
    )
    types: dict[str, pa.DataType] = {name: _ARROW[column.kind] for name, column in COLUMNS.items()}
    for name in (name for name in extra if name.startswith(SETTINGS)):
        types[name] = declared.get(name) or _type_of(name, (row.get(name) for row in rows))
    types |= {name: _ARROW[column.kind] for name, column in SAMPLE.items()}
    for name in (name for name in extra if not name.startswith(SETTINGS)):
        types[name] = declared.get(name) or _type_of(name, (row.get(name) for row in rows))
    named = {record.environment for record in records}
    kept = {name: text for name, text in (environments or {}).items() if name in named}
    carried = {"metrics": metrics, "figures": figures, "environments": kept}
    schema = pa.schema(list(types.items()), metadata=metadata(carried))
    arrays = [_array(name, [row.get(name) for row in rows], kind) for name, kind in types.items()]
    return pa.Table.from_arrays(arrays, schema=schema)


def _declared(records: Iterable[CellRecord]) -> dict[str, pa.DataType]:
    """What the tasks declare: whole numbers give way to real ones. Raises StoreError where two disagree otherwise."""
    kinds: dict[str, str] = {}
    for record in records:
        for name, kind in record.columns.items():
            held = kinds.setdefault(name, kind)
            if held != kind and {held, kind} != {"whole", "real"}:
                raise _disagreement(name, sorted((held, kind)))
            if held != kind:
                kinds[name] = "real"
    return {name: _ARROW[kind] for name, kind in kinds.items()}


def _array(name: str, values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        # Another version of the task, or a task that declares nothing, means something else by the name.
        raise _disagreement(name, sorted({type(value).__name__ for value in values if value is not None})) from error


def metadata(attrs: Mapping[Any, Any]) -> dict[bytes, bytes]:
    """What a file of rows carries in its schema, from the `attrs` of a DataFrame of rows."""
    return {key: canonical_json(attrs[name]).encode() for name, key in CARRIED.items() if name in attrs}


def frame(rows: pa.Table) -> pd.DataFrame:
    """The table as a DataFrame.

    `attrs["metrics"]` is {task: [Metric.to_json(), ...]}, `attrs["figures"]` alike, without the tasks that leave
    them to their metrics; `attrs["environments"]` {digest: JSON}, empty where rows were written before they carried it.
    """
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    columns = {}
    for field, column in zip(rows.schema, rows.columns, strict=True):
        mapper = nullable.get if column.null_count else None
        series = column.to_pandas(types_mapper=mapper)
        # Text without a single entry would come as objects.
        columns[field.name] = series.astype("str") if pa.types.is_string(field.type) else series
    result = pd.DataFrame(columns)
    carried = rows.schema.metadata or {}
    found = {name: json.loads(carried[key]) for name, key in CARRIED.items() if key in carried}
    result.attrs = {"metrics": {}, "environments": {}, **found}
    result.attrs["metrics"] = {task: _with_counts(task, metrics) for task, metrics in result.attrs["metrics"].items()}
    if "figures" not in found:
        result.attrs["figures"] = _todays_figures(result.attrs["metrics"])
    return result


def _built_in(task: str) -> Any:
    """The task of that name that ships with the package; None: there is none."""
    return TASKS.load(task) if task in TASKS and TASKS.entry_point(task) is None else None


def _todays_figures(tasks: Iterable[str]) -> dict[str, Any]:
    """For files from before figures travelled with rows: what the built-in tasks declare now."""
    built_in = {task: _built_in(task) for task in tasks}
    declared = {
        task: found.figures for task, found in built_in.items() if found is not None and found.figures is not None
    }
    return {task: [figure.to_json() for figure in figures] for task, figures in declared.items()}


def _with_counts(task: str, metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics with what they count: of those that were stored before they said it, what the task declares now."""
    if all(metric.get("counts") or metric["denominator"] is None for metric in metrics):
        return metrics
    today = _built_in(task)
    counts = {} if today is None else {(each.name, each.denominator): each.counts for each in today.metrics}
    return [
        {**metric, "counts": metric.get("counts") or counts.get((metric["name"], metric["denominator"]), "")}
        for metric in metrics
    ]


def parquet_bytes(rows: pa.Table) -> bytes:
    """The table as a Parquet file: zstd, and the same bytes for the same rows."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()


def read_rows(path: Path | str) -> pd.DataFrame:
    """Rows of a `rows.parquet`, as `Store.rows` gives them. Raises StoreError when it is not one."""
    try:
        # Not read_table: it would take `cells=...` folder names for partition columns.
        return frame(pq.ParquetFile(path).read())
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"cannot read rows from {path}: {error}; write them again from the run's cells") from error


def tasks_in(path: Path) -> tuple[str, ...]:
    """Tasks whose rows a `rows.parquet` holds, without reading the rows. Raises StoreError when it is not one."""
    try:
        file = pq.ParquetFile(path)
        carried = (file.schema_arrow.metadata or {}).get(METRICS_KEY)
        found = file.read(["task"]).column("task").to_pylist() if carried is None else json.loads(carried)
        return tuple(dict.fromkeys(map(str, found)))
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise StoreError(f"cannot read rows from {path}: {error}; write them again from the run's cells") from error
