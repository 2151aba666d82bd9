"""Rows: cell records as one tidy Arrow table, on disk as Parquet, in memory as a DataFrame.

One row per sample; a cell that is not ok gives exactly one row, with its status and no values. The columns of `COLUMNS`
come first with fixed types; then `param_<name>`, `choice_<name>` of the models that are there, `sample`, and the keys
and values of the tasks, with the types that the tasks declare, so that all files of a task have one schema but for
choices; the types of a task that declares none follow from all of a column's entries together. Missing is null; whole
numbers and truth values with nulls become pandas' nullable Int64 and boolean, never floats. The tasks' metrics and
figures, and the environments that rows name, travel in the schema's metadata and in `frame.attrs`.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ttbench.declare import ColumnDeclaration, real, text, truth, whole
from ttbench.errors import StoreError
from ttbench.registry import TASKS
from ttbench.store.growing import joined
from ttbench.types import READABLE, canonical_json, digest

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


def read_environments(folders: Iterable[Path]) -> dict[str, str]:
    """What the cells of these runs ran on, by the digest that rows have: each file's text, checked against its name."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in (folder / "environment.json", *sorted((folder / "environments").glob("*.json"))):
            if path.is_file():
                data = path.read_bytes()
                # What is no text is damaged, and no row names its digest.
                with contextlib.suppress(UnicodeDecodeError):
                    found[digest(data)] = data.decode()
    return found


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


def in_order(names: Iterable[str]) -> list[str]:
    """Columns as rows have them: parameters and choices before `sample`, the tasks' own after it."""
    given = dict.fromkeys(names)
    own = [name for name in given if name not in COLUMNS and name not in SAMPLE]
    settings = [name for name in own if name.startswith(SETTINGS)]
    values = [name for name in own if not name.startswith(SETTINGS)]
    return [
        *(name for name in COLUMNS if name in given),
        *settings,
        *(name for name in SAMPLE if name in given),
        *values,
    ]


def arrow(rows: pd.DataFrame) -> pa.Table:
    """The DataFrame as the table that `frame` makes it of again."""
    bare = rows.copy(deep=False)
    # metrics, figures and environments go into the schema under keys of their own, not into pandas' notes
    bare.attrs = {}
    found = pa.Table.from_pandas(bare, preserve_index=False)
    fields = [
        pa.field(field.name, pa.string() if pa.types.is_large_string(field.type) else field.type)
        for field in found.schema
    ]
    return found.cast(pa.schema(fields)).replace_schema_metadata(metadata(rows.attrs))


def together(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of several files as those of one, in the order given; a column that a part lacks is missing in its rows.

    Raises StoreError when the parts disagree about the type of a column, or about a task's metrics or figures.
    """
    carried: dict[str, dict[str, Any]] = {name: {} for name in CARRIED}
    types: dict[str, pa.DataType] = {}
    held = [arrow(part) for part in parts]
    for part, rows in zip(parts, held, strict=True):
        types = joined(types, {field.name: field.type for field in rows.schema})
        for name, known in carried.items():
            for key, value in part.attrs.get(name, {}).items():
                if known.setdefault(key, value) != value:
                    raise StoreError(f"rows of '{key}' were measured with other {name}; measure the older ones again")
    # What is null in one part, or whole numbers where another has real ones, takes the type of both.
    found = pa.concat_tables(held, promote_options="permissive")
    return frame(found.select(in_order(types)).replace_schema_metadata(metadata(carried)))


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
        found = frame(pq.ParquetFile(path).read())
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"cannot read rows from {path}: {error}; write them again from the run's cells") from error
    _require_readable(found, path)
    return found


def _require_readable(found: pd.DataFrame, path: Path | str) -> None:
    """Raise StoreError for rows of a later schema, which would be misread, and for a table that holds no rows."""
    schemas = [] if "schema" not in found else sorted({int(value) for value in found["schema"].dropna()})
    if "task" not in found:
        raise StoreError(f"{path} holds no rows of ttbench: they do not say which task measured them")
    if schemas and schemas[-1] not in READABLE:
        raise StoreError(
            f"{path} holds rows of schema {schemas[-1]}, and this version of ttbench reads {READABLE[-1]}; "
            "read them with the version that wrote them, or a later one"
        )


def tasks_in(path: Path) -> tuple[str, ...]:
    """Tasks whose rows a `rows.parquet` holds, without reading the rows. Raises StoreError when it is not one."""
    try:
        file = pq.ParquetFile(path)
        carried = (file.schema_arrow.metadata or {}).get(METRICS_KEY)
        found = file.read(["task"]).column("task").to_pylist() if carried is None else json.loads(carried)
        return tuple(dict.fromkeys(map(str, found)))
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise StoreError(f"cannot read rows from {path}: {error}; write them again from the run's cells") from error
