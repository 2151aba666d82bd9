"""Rows to a table: `summarise` makes the numbers, `render` puts them on a terminal, with a sentence beneath.

    perplexity · corpus code · float32 · cpu
                       trained     512      1k     32k
    bits per byte (lower is better)
      transformer           2k   1.461   1.434   3.105*
                                ±0.118  ±0.117  ±0.120      95% interval
      ttt-linear            2k   1.585   1.551  too_long    a status, never a gap
      bzip2 -9                   2.053   2.053   2.053      what any user could have had for nothing
    At 2k tokens ttt-linear needs 0.119 bits per byte more than transformer (95% interval 0.112 to 0.126, ...).

A metric that has axes beside the context, measured at one context only, has its last axis as columns: strategies down
and domains across. Marks are characters, so that they survive a pipe: * beyond the training context, ~ noisy.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from ttbench.report import summary, words
from ttbench.report.columns import Part, all_rows
from ttbench.report.comparison.compare import all_pairs, compare_pairs
from ttbench.report.comparison.seeds import NOT_KNOWN, first_sides, is_moved, trained_again
from ttbench.report.comparison.sentences import sentences
from ttbench.report.comparison.variants import newest_of, twins
from ttbench.report.drawing.figures import headlines
from ttbench.report.notes import task_notes
from ttbench.report.overview import as_table, overview
from ttbench.report.tidy import tidy
from ttbench.report.words import Record, Scale
from ttbench.types import Metric, Scalar

EXTRAPOLATED, NOISY, UNCHECKED, PARTLY, NOT_RUN = "*", "~", "!", "?", "-"
LEGEND = {
    EXTRAPOLATED: words.BEYOND,
    NOISY: "noisy: the quartiles of the repeats are more than 10% of the median apart",
    UNCHECKED: words.UNCHECKED,
    PARTLY: words.PARTLY,
}
_STYLES = {"oom": "yellow", "too_long": "yellow", "too_short": "yellow", "unsupported": "yellow"}


def summarise(rows: pd.DataFrame, *, every_pair: bool = False) -> pd.DataFrame:
    """`tabulate`, and `attrs["comparisons"]`: checkpoints compared in pairs, as records, which `render` words.

    `attrs["training_noise"]` is a sentence on what chance of training does to them, or that this is not known; empty
    where no difference is shown that it could make.

    Of trainings that differ in their seed alone the first is compared; the others tell its training noise.

    Args:
        every_pair: of many checkpoints too, which are too many to read; else see `all_pairs`.
    """
    table = tabulate(rows)
    names = first_sides(rows, table.attrs["trained_again"])
    older = {text: newest for text in names if (newest := newest_of(text, names)) is not None}
    names = [text for text in names if text not in older]
    pairs = all_pairs(names, most=len(names)) if every_pair else all_pairs(names)
    # what older code measured is held against the newest code of the same checkpoint, and takes no pair from others
    pairs += [(newest, text) for text, newest in older.items()]
    table.attrs["notes"] += [
        f"'{newest}' is compared by its newest code, {text} by older code" for text, newest in older.items()
    ]
    compared = compare_pairs(rows, pairs)
    table.attrs["comparisons"] = words.Carried(words.records(compared))
    noise = compared.attrs.get("training_noise", NOT_KNOWN)
    wins = [each for each in table.attrs["comparisons"] if each["verdict"] in (summary.A_BETTER, summary.B_BETTER)]
    silent = noise == NOT_KNOWN and not any(map(is_moved, wins))
    table.attrs["training_noise"] = "" if silent else words.sentence(noise)
    return table


def _is_reference(part: Part, task: str, metric: Metric, declared: Sequence[Metric]) -> bool:
    return summary.is_reference(metric, declared) and summary.is_shared(part, task, metric)


def tabulate(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per metric, line and point, tidy and sorted as declared; missing values are null, never NaN.

    Columns: task, metric, label, unit, better, statistic; checkpoint and its digests (null for a reference such as a
    compressor, which belongs to the corpus); settings and `param_*`; the axes, `context_len` first; value, low, high
    (95 %), method, num_clusters, num_samples, num_failed (cells), num_outliers, status, reason, extrapolated, noisy,
    and checked where rows say what probes found.
    `attrs["metrics"]` and `attrs["figures"]` are those of the rows; `attrs["trained_again"]` are the checkpoints that
    another one was trained as, but for the seed; `attrs["notes"]` says this, and which names stand for one checkpoint.

    Raises:
        UsageError: the rows carry no metric declarations.
    """
    metrics = summary.metrics_of(rows)
    part = all_rows(rows)
    found = [
        summary.record(group)
        for task, declared in metrics.items()
        for metric in declared
        for group in summary.groups(part, task, metric, reference=_is_reference(part, task, metric, declared))
    ]
    table = tidy(found)
    table.attrs["metrics"] = rows.attrs["metrics"]
    table.attrs["figures"] = rows.attrs.get("figures", {})
    table.attrs["task_notes"] = task_notes(rows)
    table.attrs["trained_again"] = again = trained_again(rows)
    seeds = [f"{name} is {first} trained again with another seed" for name, first in again.items()]
    table.attrs["notes"] = [*twins(rows), *seeds]
    return table


def render(table: pd.DataFrame) -> Group:
    """A summary as a rich renderable, fitted to the width it is printed at."""
    entries = words.records(table)
    comparisons, notes = table.attrs.get("comparisons", []), table.attrs.get("task_notes", {})
    tasks = dict.fromkeys(entry["task"] for entry in entries)
    first = overview(entries, headlines(table))
    return Group(
        # a row per model, where there is more than one number to put beside it
        *([as_table(first), Text()] if first is not None and len(first.columns) > 1 else []),
        *(
            TaskTable(
                [entry for entry in entries if entry["task"] == task],
                sentences([entry for entry in comparisons if entry["task"] == task]),
                notes.get(task, []),
            )
            for task in tasks
        ),
        *(words.Paragraph(note) for note in table.attrs.get("notes", ())),
        *([words.Paragraph(table.attrs["training_noise"])] if table.attrs.get("training_noise") else []),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a section: a checkpoint under some settings, or a reference."""

    name: str
    ours: bool  # a checkpoint, not a reference
    trained: str
    cells: Mapping[Scalar, Sequence[Text]]  # column -> number, and the interval beneath it


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumns:
    """What stands across."""

    axis: str
    corner: str  # above the names: what is the same in all columns
    heads: Mapping[Scalar, str]  # value of the axis -> heading


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One metric."""

    title: Text
    columns: TableColumns
    lines: Sequence[Line]
    notes: Sequence[str]


class TaskTable:
    """The table of one task: metrics as sections, lines in them; in blocks when too wide."""

    def __init__(self, entries: Sequence[Record], sentences: Sequence[str], notes: Sequence[str] = ()) -> None:
        self.task, self.sentences, self.notes = entries[0]["task"], sentences, notes
        contexts = sorted({entry["context_len"] for entry in entries if entry["context_len"] is not None})
        heads: dict[Scalar, str] = {context_len: words.context(context_len) for context_len in contexts}
        self.contexts = TableColumns(axis="context_len", corner="", heads=heads)
        self.constant, self.asked, self.varying = words.settings(entries)
        self.marks = {mark for entry in entries for mark in marks_of(entry)}
        ranked = [part for part in words.by(entries, "metric") if part[0]["checkpoint"] is not None]
        beneath = [part for part in words.by(entries, "metric") if part[0]["checkpoint"] is None]
        self.rests, self.intervals = _rests(entries), _intervals(entries)
        self.room = 80  # letters across, of the terminal
        self.sections = []
        for part in ranked:
            # a reference stands beneath the first metric that it can be read against
            mine = [other for other in beneath if _can_be_read_against(other, part)]
            beneath = [other for other in beneath if other not in mine]
            self.sections.append(self._section(part, mine))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.room = options.max_width
        asked = ["asked for " + ", ".join(self.asked)] if self.asked else []
        yield Text(" · ".join([self.task, *self.constant, *asked]), style="bold")
        for columns, sections in groupby(self.sections, lambda section: section.columns):
            mine = list(sections)
            for block in self._blocks(mine, columns, options.max_width):
                yield Text()
                yield from self._block(mine, columns, block)
        yield Text()
        notes = [f"{mark} {LEGEND[mark]}" for mark in LEGEND if mark in self.marks]
        notes += [*self.notes, *self.rests, *self.intervals]
        if self.sentences and self.intervals:
            notes.append(
                "differences are judged in pairs, on the same targets, by their own intervals: a difference can be "
                "shown although the intervals of the two numbers overlap"
            )
        notes += dict.fromkeys(note for section in self.sections for note in section.notes)
        for note in notes:
            yield words.Paragraph(note, "dim")
        if self.sentences:
            yield Text()
        for sentence in self.sentences:
            yield words.Paragraph(sentence)
        yield Text()

    def _section(self, entries: Sequence[Record], beneath: Sequence[Sequence[Record]]) -> Section:
        first, everything = entries[0], [entry for part in (entries, *beneath) for entry in part]
        scale, columns = words.of_metric(everything), self._columns(everything)
        parts = [part for found in (entries, *beneath) for part in self._split(found, columns.axis)]
        return Section(
            title=Text(words.title(first, scale.unit), style="bold"),
            columns=columns,
            lines=[self._line(part, scale, columns.axis) for part in parts],
            notes=list(dict.fromkeys(_notes(entries))),
        )

    def _columns(self, entries: Sequence[Record]) -> TableColumns:
        """The contexts; the last axis of several where there is one context, and all cells have a place on it."""
        axes = _extra_axes(entries[0])
        contexts = {entry["context_len"] for entry in entries}
        if not axes or len(contexts) > 1 or any(entry[axes[-1]] is None for entry in entries):
            return self.contexts
        corner = f"at {words.context(contexts.pop())}, {words.axis(axes[-1])}:"
        heads = {entry[axes[-1]]: words.plain(entry[axes[-1]]) for entry in entries}
        return TableColumns(axis=axes[-1], corner=corner, heads=heads)

    def _split(self, entries: Sequence[Record], across: str) -> list[list[Record]]:
        axes = [name for name in _extra_axes(entries[0]) if name != across]
        return words.by(entries, "checkpoint", *self.varying, *axes)

    def _line(self, entries: Sequence[Record], scale: Scale, across: str) -> Line:
        first = entries[0]
        return Line(
            name=words.line_name({**first, across: None}, self.varying),
            ours=first["checkpoint"] is not None,
            trained="" if first["train_ctx"] is None else words.context(first["train_ctx"]),
            cells={entry[across]: _cell(entry, scale) for entry in entries},
        )

    def _blocks(self, sections: Sequence[Section], columns: TableColumns, width: int) -> Iterator[dict[Scalar, int]]:
        """Columns that fit beside the names, with the width of each, in as many tables as it takes."""
        block: dict[Scalar, int] = {}
        for value, head in columns.heads.items():
            cells = [line.cells.get(value, _NO_CELL) for section in sections for line in section.lines]
            wide = 2 + max(len(head) + 1, *(text.cell_len for cell in cells for text in cell))
            if block and self._left + sum(block.values()) + wide > width:
                yield block
                block = {}
            block[value] = wide
        yield block

    @property
    def _names(self) -> int:
        """Width of the column of names."""
        # names of checkpoints decide; those of references are wrapped
        longest = max((len(line.name) for section in self.sections for line in section.lines if line.ours), default=0)
        corner = max((len(section.columns.corner) for section in self.sections), default=0)
        return 2 + max(min(max(longest, 18), 30, max(self.room - 26, 12)), corner)

    @property
    def _left(self) -> int:
        return self._names + 8

    def _block(
        self, sections: Sequence[Section], columns: TableColumns, widths: Mapping[Scalar, int]
    ) -> Iterator[Text]:
        head = Text(f"  {columns.corner}".ljust(self._names) + "trained".rjust(8), style="dim")
        for value, wide in widths.items():
            head.append((columns.heads[value] + " ").rjust(wide), style="not dim bold")
        yield head
        for section in sections:
            yield section.title
            for line in section.lines:
                yield from self._rows(line, widths)

    def _rows(self, line: Line, widths: Mapping[Scalar, int]) -> Iterator[Text]:
        cells = [line.cells.get(value, _NO_CELL) for value in widths]
        names = textwrap.wrap(line.name, self._names - 2) or [""]
        for row in range(max(len(names), *(len(cell) for cell in cells))):
            name = ("  " if row == 0 else "    ") + names[row] if row < len(names) else ""
            text = Text(name.ljust(self._names) + (line.trained if row == 0 else "").rjust(8), no_wrap=True)
            for cell, wide in zip(cells, widths.values(), strict=True):
                entry = cell[row] if row < len(cell) else Text()
                text.append(" " * (wide - entry.cell_len))
                text.append_text(entry)
            yield text


_NO_CELL = (Text(NOT_RUN + " ", style="dim"),)


def _can_be_read_against(reference: Sequence[Record], entries: Sequence[Record]) -> bool:
    """Whether they have one unit and axes, and parameters in common: one question's chance is not another's."""
    if _kind(reference) != _kind(entries):
        return False
    names = [name for name in reference[0] if name.startswith("param_")]
    asked = {tuple(entry.get(name) for name in names) for entry in entries}
    return any(tuple(entry[name] for name in names) in asked for entry in reference)


def _kind(entries: Sequence[Record]) -> tuple[Any, ...]:
    return entries[0]["unit"], entries[0]["axes"]


def _extra_axes(entry: Record) -> list[str]:
    return [name for name in entry["axes"].split(",") if name != "context_len"]


def marks_of(entry: Record) -> str:
    """Characters behind a number, each explained beneath the table."""
    marks = (EXTRAPOLATED if entry["extrapolated"] else "") + (NOISY if entry["noisy"] else "")
    return marks + {summary.UNCHECKED: UNCHECKED, summary.PARTLY: PARTLY}.get(entry.get("checked") or "", "")


def _cell(entry: Record, scale: Scale) -> list[Text]:
    """The number with its marks, and its interval beneath it; the status of a cell that has no number."""
    if entry["value"] is None:
        return [Text(entry["status"] + " ", style=_STYLES.get(entry["status"], "bold red"))]
    marks = marks_of(entry)
    style = "italic" if entry["extrapolated"] else ""
    cell = [Text(scale.text(entry["value"]) + (marks or " "), style=style)]
    if entry["low"] is not None:
        cell.append(Text(words.interval(entry, scale) + " ", style="dim"))
    return cell


def _notes(entries: Sequence[Record]) -> Iterator[str]:
    """Why cells have no number or no interval, and which of them lost rounds."""
    for part in words.by([entry for entry in entries if entry["status"] != "ok"], "status", "reason"):
        first = part[0]
        yield f"{_listed(part)}: {first['status']}{': ' + first['reason'] if first['reason'] else ''}"
    for entry in entries:
        if entry["status"] == "ok" and entry["num_failed"]:
            yield f"{_listed([entry])}: {entry['num_failed']} of its cells failed"
    without = [entry for entry in entries if entry["status"] == "ok" and entry["low"] is None]
    for part in words.by(without, "label", "reason", "method"):
        first = part[0]
        some = len(part) < len(entries)
        places = [f"{entry['checkpoint'] or ''} at {words.context(entry['context_len'])}".strip() for entry in part]
        where = f" ({', '.join(dict.fromkeys(places))})" if some and first["method"] != summary.EXACT else ""
        yield f"{first['label']}{where}: {'' if first['method'] == summary.EXACT else 'no interval, '}{first['reason']}"


def _listed(entries: Sequence[Record]) -> str:
    """Which cells these are, checkpoints of the same contexts together: `a and b at 1k, 4k; c at 4k`."""
    contexts: dict[str, list[int]] = {}
    for entry in entries:
        contexts.setdefault(entry["checkpoint"] or entry["label"], []).append(entry["context_len"])
    names: dict[str, list[str]] = {}
    for name, lengths in contexts.items():
        names.setdefault(", ".join(map(words.context, sorted(set(lengths)))), []).append(name)
    return "; ".join(f"{' and '.join(found)} at {places}" for places, found in names.items())


def _rests(entries: Sequence[Record]) -> list[str]:
    """How much text, how many trials or rounds each number was made from, in one line."""
    made: dict[str, list[str]] = {}
    for part in words.by([entry for entry in entries if entry["value"] is not None], "metric"):
        if part[0]["statistic"] != words.COUNT:
            made.setdefault(words.basis(part), []).append(part[0]["label"])
    told = [f"{rests}{_of(labels) if len(made) > 1 else ''}" for rests, labels in made.items()]
    return [f"each number rests on {'; '.join(told)}"] if told else []


def _intervals(entries: Sequence[Record]) -> list[str]:
    """How the intervals beneath the numbers were made, in one line."""
    parts = words.by([entry for entry in entries if entry["low"] is not None], "method")
    made = [f"{part[0]['method']}{_of(e['label'] for e in part) if len(parts) > 1 else ''}" for part in parts]
    return [f"95% intervals beneath the numbers, each for its number alone: {'; '.join(made)}"] if made else []


def _of(labels: Iterable[str]) -> str:
    """Metrics in brackets; their labels hold commas."""
    return f" ({' · '.join(dict.fromkeys(labels))})"
