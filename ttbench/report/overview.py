"""One row per model: the metrics that are drawn against the context, each at one context, with its interval.

Quality stands at the longest context that all models were trained for, timings and memory at the longest of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from ttbench.report import words
from ttbench.report.words import Record, Scale

# Settings that tell numbers of one model apart, as columns do; all others make rows of their own.
_ACROSS = ("corpus", "corpus_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class OverviewColumn:
    """One column of an overview."""

    task: str
    label: str  # of the metric
    told: str  # the settings that tell its columns apart
    better: str
    context_len: int  # tokens
    scale: Scale
    cells: Mapping[str, Record]  # by row; a row without a cell was not measured
    extrapolated: bool  # beyond the training context of some model

    @property
    def title(self) -> str:
        """The metric, its unit, and the settings: `needles retrieved, %, corpus kjv`."""
        unit = "" if self.scale.unit == self.label else self.scale.unit
        return ", ".join(filter(None, (self.label, unit, self.told)))

    @property
    def where(self) -> str:
        """The context, and which way is better."""
        return f"at {words.context(self.context_len)}, {self.better} is better"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Models and what was measured of them."""

    rows: tuple[str, ...]  # names of models, with the settings that tell them apart
    columns: tuple[OverviewColumn, ...]


def overview(entries: Sequence[Record], metrics: Sequence[tuple[str, str]]) -> Overview | None:
    """What stands side by side of these metrics, (task, name); None for one model alone, or without numbers.

    Args:
        entries: lines of a summary.
        metrics: in the order of the columns.
    """
    parts = [_of_models(entries, task, name) for task, name in metrics]
    parts = [part for part in parts if part]
    varying = list(dict.fromkeys(name for part in parts for name in words.settings(part)[2]))
    apart = [name for name in varying if not _is_across(name)]
    across = [name for name in varying if _is_across(name)]
    rows = tuple(dict.fromkeys(_row(entry, apart) for part in parts for entry in part))
    columns = [_column(part, apart, across) for found in parts for part in words.by(found, *across)]
    columns = [column for column in columns if column is not None]
    return Overview(rows=rows, columns=tuple(columns)) if len(rows) > 1 and columns else None


def _of_models(entries: Sequence[Record], task: str, name: str) -> list[Record]:
    return [
        entry
        for entry in entries
        if (entry["task"], entry["metric"]) == (task, name)
        and entry["checkpoint"] is not None
        and entry["axes"] == "context_len"
    ]


def _is_across(name: str) -> bool:
    return name in _ACROSS or name.startswith("param_")


def _row(entry: Record, apart: Sequence[str]) -> str:
    return f"{entry['checkpoint']} {words.told({**dict.fromkeys(apart), **entry}, apart)}".rstrip()


def _column(part: Sequence[Record], apart: Sequence[str], across: Sequence[str]) -> OverviewColumn | None:
    made = [entry for entry in part if entry["value"] is not None]
    if not made:
        return None
    context_len = _context_len(made, len({_row(entry, apart) for entry in made}))
    here = [entry for entry in part if entry["context_len"] == context_len]
    return OverviewColumn(
        task=part[0]["task"],
        label=part[0]["label"],
        told=words.told({**dict.fromkeys(across), **part[0]}, across),
        better=part[0]["better"],
        context_len=context_len,
        scale=words.of_metric(here),
        cells={_row(entry, apart): entry for entry in here},
        extrapolated=any(entry["extrapolated"] is True for entry in here),
    )


def _context_len(made: Sequence[Record], num_rows: int) -> int:
    """The context with numbers of most models: of several, the longest inside training; of timings, the longest."""
    points = words.by(made, "context_len")
    fullest = max(map(len, points))
    whole = [part for part in points if len(part) == min(fullest, num_rows)]
    inside = [part for part in whole if not any(entry["extrapolated"] is True for entry in part)]
    timed = made[0]["cluster"] == "round"
    return max(part[0]["context_len"] for part in (whole if timed or not inside else inside))


def as_table(found: Overview) -> Table:
    """An overview for a terminal: a line per model, with the interval beneath each number."""
    table = Table(box=None, title="all models side by side", title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("")
    for column in found.columns:
        head = Text(column.title)
        head.append(f"\n{column.where}{', * beyond training' if column.extrapolated else ''}", "dim")
        table.add_column(head, justify="right")
    for row in found.rows:
        table.add_row(row, *(_cell(column.cells.get(row), column.scale) for column in found.columns))
    return table


def _cell(entry: Record | None, scale: Scale) -> Text:
    if entry is None:
        return Text("-", style="dim")
    if entry["value"] is None:
        return Text(entry["status"])
    mark = ("*" if entry["extrapolated"] else "") + words.CHECKED.get(entry.get("checked") or "", ("", ""))[0]
    cell = Text(scale.text(entry["value"]) + mark)
    if entry["low"] is not None:
        cell.append(f"\n{words.interval(entry, scale)}", style="dim")
    return cell
