"""What other tools are told of rows, before any of them is chosen: one record for each checkpoint.

A number keeps its unit and its settings, and stands at its context, which is the step of a curve. What did not end ok
is a status in words and never a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ttbench.errors import UnknownNameError
from ttbench.packages import require_extra
from ttbench.registry import EXPORTERS
from ttbench.report import summary, words
from ttbench.report.formats.number_sheets import number_sheet
from ttbench.report.words import Record
from ttbench.types import Scalar

STEP = "context_len"  # tokens; what a curve runs along
_SETTINGS = (*summary.SETTINGS, *summary.TIMING_SETTINGS, "seed")
_UNSAFE = re.compile(r"[^\w.\- /]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedNumber:
    """One number of one checkpoint."""

    key: str  # task/metric, and the settings and places that tell it from others of the metric
    context_len: int  # tokens
    value: float  # in `unit`
    low: float | None  # of its 95 % interval
    high: float | None
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedStatus:
    """A number that is not there."""

    key: str
    context_len: int  # tokens
    said: str  # status and reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedModel:
    """All that is told of one checkpoint."""

    name: str
    config: Mapping[str, Scalar | Mapping[str, Scalar]]  # of the checkpoint, and under each task's name its settings
    numbers: tuple[ExportedNumber, ...]  # by ascending context
    statuses: tuple[ExportedStatus, ...]
    table: tuple[Record, ...]  # every number and status with its columns, as `--format csv` writes them

    @property
    def units(self) -> dict[str, str]:
        """The unit of each key."""
        return {number.key: number.unit for number in self.numbers}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """A tool: what it needs, and the function that writes into a folder and returns what it wrote there."""

    extra: str  # of ttbench, which brings the packages
    packages: Mapping[str, str]  # module -> distribution
    write: Callable[[Sequence[ExportedModel], Path], Sequence[Path]]


def find_exporter(name: str) -> Exporter:
    """The exporter of a name. Raises UnknownNameError, PlugInError, or UsageError where its extra is not installed."""
    if name not in EXPORTERS:
        raise UnknownNameError(EXPORTERS.noun, name, known=EXPORTERS)
    exporter: Exporter = EXPORTERS.load(name)
    require_extra(f"an export to {name}", exporter.packages, extra=exporter.extra)
    return exporter


def exported(table: pd.DataFrame) -> list[ExportedModel]:
    """The checkpoints of a summary, with all that is told of each; what belongs to no checkpoint is left out."""
    found: dict[tuple[Scalar, ...], list[tuple[Record, Record]]] = {}
    for entry, line in zip(words.records(table), number_sheet(table).records, strict=True):
        if entry["checkpoint"] is not None:
            found.setdefault(tuple(entry.get(name) for name in summary.CONTENT[:4]), []).append((entry, line))
    return [_model(*zip(*pairs, strict=True)) for pairs in found.values()]


def _model(entries: Sequence[Record], lines: Sequence[Record]) -> ExportedModel:
    first = entries[0]
    config: dict[str, Scalar | Mapping[str, Scalar]] = {
        name: first[name] for name in summary.CHECKPOINT if first.get(name) is not None
    }
    keys = _keys(entries)
    numbers, statuses = [], []
    for entry, key in zip(entries, keys, strict=True):
        at = entry[STEP]
        if entry["value"] is not None:
            ends = {"low": entry["low"], "high": entry["high"], "unit": entry["unit"]}
            numbers.append(ExportedNumber(key=key, context_len=at, value=entry["value"], **ends))
        said = _said(entry)
        if said:
            statuses.append(ExportedStatus(key=key, context_len=at, said=said))
    for task in words.by(entries, "task"):
        config[task[0]["task"]] = _settings(task)
    return ExportedModel(
        name=first["checkpoint"],
        config=config,
        numbers=tuple(sorted(numbers, key=lambda number: number.context_len)),
        statuses=tuple(statuses),
        table=tuple(lines),
    )


def _said(entry: Record) -> str:
    """Status and reason where there is no number, or where some of its cells gave none."""
    if entry["value"] is None:
        return f"{entry['status']}: {entry['reason']}" if entry["reason"] else str(entry["status"])
    return f"ok, but {entry['num_failed']} of its cells failed" if entry["num_failed"] else ""


def _settings(entries: Sequence[Record]) -> dict[str, Scalar]:
    """The settings of a task, and where it has several of one, all of them."""
    names = [*_SETTINGS, *summary.APART, *(name for name in entries[0] if name.startswith("param_"))]
    found: dict[str, Scalar] = {}
    for name in names:
        values = list(dict.fromkeys(entry[name] for entry in entries if entry.get(name) is not None))
        if values:
            found[name.removeprefix("param_")] = values[0] if len(values) == 1 else ", ".join(map(words.plain, values))
    return found


def _keys(entries: Sequence[Record]) -> list[str]:
    """A key for each number, in letters that every tool takes; two numbers of one context never share one."""
    varying = {metric[0]["task"]: words.settings(metric)[2] for metric in words.by(entries, "task")}
    told = []
    for entry in entries:
        parts = [entry["metric"], words.told(entry, varying[entry["task"]]), *words.places(entry)]
        told.append(f"{entry['task']}/{' '.join(parts)}")
    safe: dict[str, str] = {}
    for text in told:
        if text not in safe:
            key = " ".join(_UNSAFE.sub("_", text).split())
            while key in safe.values():
                key += "_"
            safe[text] = key
    return [safe[text] for text in told]
