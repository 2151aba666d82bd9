"""The numbers of a summary as a sheet: what `ttbench show --format` prints and `ttbench figures --format` writes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ttbench.report import words
from ttbench.report.formats.writing import Printed, RecordSheet
from ttbench.report.table import EXTRAPOLATED, NOISY, PARTLY, UNCHECKED, marks_of
from ttbench.report.words import Record, Scale

_HEAD, _ENDS = ("task", "metric", "checkpoint"), ("value", "low", "high")
_TAIL = (*_ENDS, "unit", "method", "num_clusters", "status", "reason", "extrapolated", "noisy", "checked")
NOTES = {
    EXTRAPOLATED: "beyond the training context",
    NOISY: "noisy",
    UNCHECKED: "unchecked",
    PARTLY: "partly probed",
}


def number_sheet(summary: pd.DataFrame) -> RecordSheet:
    """Every number of `ttbench.report.table.tabulate`, of each metric a table."""
    entries = words.records(summary)
    axes = dict.fromkeys(axis for entry in entries for axis in entry["axes"].split(",") if axis)
    _, _, varying = words.settings(entries) if entries else ([], [], [])
    names = [*_HEAD, *(name for name in varying if name not in axes), *axes, *_TAIL]
    records = [{name: entry.get(name) for name in names} for entry in entries]
    return RecordSheet(
        kind="number", records=records, printed=[_table(part) for part in words.by(entries, "task", "metric")]
    )


def _table(entries: Sequence[Record]) -> Printed:
    scale = words.of_metric(entries)
    constant, asked, varying = words.settings(entries)
    axes = [name for name in entries[0]["axes"].split(",") if name != "context_len"]
    settings = [name for name in varying if name not in axes]
    heads = ["checkpoint", *map(setting_head, settings), "context (tokens)", *map(words.axis, axes)]
    rows = [
        [
            plain(entry["checkpoint"]),
            *(setting_cell(name, entry.get(name)) for name in settings),
            plain(entry["context_len"]),
            *(plain(entry[name]) for name in axes),
            *(scaled(entry[name], scale) for name in _ENDS),
            _note(entry),
        ]
        for entry in entries
    ]
    title = ", ".join([f"{entries[0]['task']}: {words.title(entries[0], scale.unit)}", *constant, *asked])
    return Printed(title=title, heads=[*heads, *(in_unit(name, scale) for name in _ENDS), "notes"], rows=rows)


def _note(entry: Record) -> str:
    """Why there is no number or no interval, and what the number must not be read without."""
    if entry["value"] is None:
        return f"{entry['status']}{': ' + entry['reason'] if entry['reason'] else ''}"
    found = [NOTES[mark] for mark in marks_of(entry)]
    if entry["low"] is None and entry["reason"]:
        found.append(entry["reason"])
    return "; ".join(found)


def in_unit(head: str, scale: Scale) -> str:
    """The head of a column of numbers with their unit: `low (ms)`."""
    return f"{head} ({scale.unit})" if scale.unit else head


def scaled(value: float | None, scale: Scale) -> str:
    """A number as it stands under such a head."""
    return "" if value is None else scale.text(value)


def plain(value: object) -> str:
    """A name, a count or a place on an axis."""
    return "" if value is None else words.plain(value)


def setting_head(name: str) -> str:
    """What a column of settings is called."""
    return words.axis(name.removeprefix("param_").removesuffix("_digest"))


def setting_cell(name: str, value: object) -> str:
    """A setting in its column; of a digest the letters that captions give."""
    told = words.setting(name, value)
    return told.removeprefix(setting_head(name)).strip()
