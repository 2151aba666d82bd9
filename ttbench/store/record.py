"""The result of a cell, written as JSON lines: a header, one line per sample, and a checksum of both.

Torch-free, and free of pandas: workers, whose memory is measured, write records.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import marshal
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from ttbench.types import (
    INT64,
    READABLE,
    SCHEMA_VERSION,
    Cell,
    ColumnType,
    Figure,
    Metric,
    Sample,
    Scalar,
    Status,
    digest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """What became of a cell, as its file says it."""

    cell: Cell
    status: Status
    reason: str | None  # one line; None when ok
    started: str  # ISO 8601, UTC
    cell_s: float  # wall seconds
    cell_cpu_s: float | None  # processor seconds; None when the worker did not live to tell
    load_average: float | None  # of the machine over one minute, at the start
    engine: str  # that really ran
    kernel_path: Mapping[str, str]  # op -> implementation that really ran
    metrics: tuple[Metric, ...]  # the task's declarations
    samples: tuple[Sample, ...]  # empty unless ok; evidence is not read back
    figures: tuple[Figure, ...] | None = None  # the task's declarations; None: its metrics say what is drawn
    checked: str | None = None  # passed | partly | failed | unchecked; None: the task scores nothing
    columns: Mapping[str, ColumnType] = field(default_factory=dict)  # the task's declarations, parameters included
    corpus_note: str | None = None  # what a number on the corpus must not be read without; None: nothing
    denormals_flushed: bool | None = None  # by the worker's arithmetic, as tried; None when no torch was loaded
    setup_s: float | None = None  # wall seconds of `cell_s` before the engine, the corpus and the tokenizer were open
    choices: Mapping[str, Scalar] = field(default_factory=dict)  # of the model and the engine, by name
    run_id: str = ""  # of the run that measured it; filled in by the store
    environment: str = ""  # digest; filled in by the store
    machine: str = ""  # fingerprint; filled in by the store
    allocation: str | None = None  # of the process that measured; filled in by the store, None where not told
    ttbench: str | None = None  # version of the package; filled in by the store, None in schema 1
    evidence_digest: str | None = None  # of the evidence's file; filled in by the store, None when there is none
    evidence: tuple[Mapping[str, Any], ...] = field(default=())  # beyond the samples': tracebacks, stderr


def now() -> str:
    """The time in ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _plain(value: Any) -> Any:
    """JSON's last resort: numpy scalars and arrays as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"samples hold text, numbers, truth values and None; got {type(value).__name__}")


def _line(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain)


def cell_text(record: CellRecord) -> str:
    """A cell's file. Raises ValueError or TypeError when a sample is not plain finite data that rows can hold."""
    header = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    for absent in ("evidence", "samples"):
        del header[absent]
    header |= {
        "schema": SCHEMA_VERSION,
        "cell_id": record.cell.cell_id,
        "cell": record.cell.to_json(),
        "kernel_path": dict(record.kernel_path),
        "choices": dict(record.choices),
        "metrics": _declarations(record.metrics),
        "figures": None if record.figures is None else _declarations(record.figures),
        "num_samples": len(record.samples),
    }
    lines = [_line(header)]
    free = all(name.startswith("param_") for name in record.columns)
    for index, sample in enumerate(record.samples):
        if not free:
            require_declared(record.cell.task, record.columns, sample)
        keys = {name: _stored(value, f"sample {index}", name) for name, value in sample.keys.items()}
        values = {name: _stored(value, f"sample {index}", name) for name, value in sample.values.items()}
        words = [name for name, value in values.items() if isinstance(value, str)]
        if words:
            raise TypeError(f"sample {index} has text in '{words[0]}', where a number belongs: {values[words[0]]!r}")
        lines.append(_line({"sample": index, "keys": keys, "values": values}))
    text = "\n".join(lines) + "\n"
    return text + _line({"checksum": digest(text)}) + "\n"


_told: dict[int, tuple[object, list[dict[str, Any]]]] = {}


def _declarations(declared: tuple[Metric, ...] | tuple[Figure, ...]) -> list[dict[str, Any]]:
    """A task's metrics or figures as plain data, made once: all of its records hold the same ones."""
    held = _told.get(id(declared))
    if held is None:
        # With what it is the data of, whose address is so not given to another.
        held = _told[id(declared)] = (declared, [each.to_json() for each in declared])
    return held[1]


def _stored(value: Any, where: str, name: str) -> Any:
    """A sample's entry as Python's own. Raises ValueError or TypeError for what rows cannot hold."""
    if value is None or type(value) is str:
        return value
    value = value if value is None or isinstance(value, str | bool | int | float) else _plain(value)
    if not (value is None or isinstance(value, str | bool | int | float)):
        raise TypeError(f"{where} holds {type(value).__name__} in '{name}'; samples hold single values")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} holds a number that is not finite: '{name}' is {value}")
    if isinstance(value, int) and value not in INT64:
        raise ValueError(f"{where} holds a number beyond 64 bits: '{name}' is {value}")
    return value


_TYPES: Mapping[ColumnType, tuple[type, ...]] = {
    "text": (str,),
    "whole": (int,),
    "real": (int, float),
    "truth": (bool,),
}


def require_declared(task: str, columns: Mapping[str, ColumnType], sample: Sample) -> None:
    """Raise ValueError where a sample has a column, or a type, that the task does not declare."""
    if all(name.startswith("param_") for name in columns):
        return
    for name, value in {**sample.keys, **sample.values}.items():
        kind = columns.get(name)
        if kind is None:
            raise ValueError(f"task '{task}' gives column '{name}', which its `columns` do not declare")
        plain = value.tolist() if hasattr(value, "tolist") else value
        if plain is not None and (not isinstance(plain, _TYPES[kind]) or (isinstance(plain, bool) and kind != "truth")):
            raise ValueError(f"task '{task}' gives {plain!r} in column '{name}', declared as {kind}")


def evidence_lines(record: CellRecord) -> Iterator[str]:
    """The lines of a cell's evidence; `sample` is None for what belongs to the whole cell."""
    for index, sample in enumerate(record.samples):
        if sample.evidence:
            yield _line({"sample": index, **sample.evidence})
    for entry in record.evidence:
        yield _line({"sample": None, **entry})


def parse_cell(text: str, *, cell_id: str) -> CellRecord:
    """The record that a cell's file holds.

    Args:
        text: the file.
        cell_id: what the file is called by; a cell under another's name is none.

    Raises ValueError when the file is damaged, misplaced, or of a schema that is not read.
    """
    # Not splitlines: text in keys may hold other line separators.
    head, *rest = text[:-1].split("\n") if text.endswith("\n") else [""]
    try:
        header = _parsed(head)
        schema = header.pop("schema")
        if schema not in READABLE:
            raise ValueError(f"it is of schema {schema}, and this version of ttbench reads {READABLE[-1]}")
        if schema > 1:
            last = rest.pop() if rest else ""
            if _parsed(last) != {"checksum": digest(text[: len(text) - len(last) - 1])}:
                raise ValueError("its checksum is another one")
        if header.pop("num_samples") != len(rest):
            raise ValueError("samples are missing")
        header["cell"] = cell = Cell.from_json({**header["cell"], "schema": schema})
        if not header.pop("cell_id") == cell.cell_id == cell_id:
            raise ValueError("its cell is not the one that its name says")
        header["metrics"] = _declared(Metric, marshal.dumps(header["metrics"], _PLAIN))
        figures = header.get("figures")
        header["figures"] = None if figures is None else _declared(Figure, marshal.dumps(figures, _PLAIN))
        # Where a checksum vouches for the lines, they are parsed together, which is three times as fast.
        lines = _parsed(f"[{','.join(rest)}]") if schema > 1 else [_parsed(line) for line in rest]
        samples = tuple(Sample(keys=line["keys"], values=line["values"]) for line in lines)
        return CellRecord(**header, samples=samples)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


_PLAIN = 2  # the last version of marshal without references, so that equal data have equal bytes


@functools.lru_cache(maxsize=256)
def _declared(kind: type[Metric] | type[Figure], data: bytes) -> Any:
    """What a task declares, from what this process marshalled; made once, since thousands of cells say the same."""
    return tuple(kind.from_json(each) for each in marshal.loads(data))


def _parsed(line: str) -> Any:
    """JSON as it was written: NaN and infinity, which Python would read, are damage. Raises ValueError."""
    # Bytes of a file's name that are no UTF-8 are escapes of half a character each, which only Python's parser takes.
    if "\\ud" in line or "\\uD" in line:
        return _DECODER.decode(line)
    # Late: workers write records, and their memory is measured.
    from pydantic_core import from_json

    return from_json(line, allow_inf_nan=False)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} stands where a number belongs")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
