"""Tables that a reader sorts and filters: all numbers, all paired comparisons, all samples, as columns and plain rows.

A page carries them as data. A column shows the text of another entry of its row where `shown` names one, and sorts by
its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ttbench.report import words
from ttbench.report.comparison.sentences import effect
from ttbench.report.page.charts import interval_text, remarks, value_text
from ttbench.report.page.markup import spelled
from ttbench.report.tidy import TAIL
from ttbench.report.words import Record
from ttbench.store.rows import COLUMNS, SETTINGS

SAMPLE, CELL, RECIPE = "sample", "cell_id", "recipe"
LETTERS = 8  # of a cell's id, as `ttbench show` prints it
_OF_SAMPLES = ("checkpoint", "corpus", "context_len", "seed", "engine", "dtype", "round", "status", CELL, SAMPLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One table as data."""

    columns: Sequence[Mapping[str, Any]]  # title, numeric, shown (place of the text in a row), choose, style
    rows: Sequence[Sequence[Any]]

    def to_json(self) -> dict[str, Any]:
        return {"columns": list(self.columns), "rows": list(self.rows)}


def _column(
    title: str, *, numeric: bool = False, shown: int | None = None, choose: bool = False, style: str = ""
) -> dict[str, Any]:
    return {"title": title, "numeric": numeric, "shown": shown, "choose": choose, "style": style}


def numbers_of(entries: Sequence[Record]) -> Listing:
    """Every number of one task: what it is, how sure, what it rests on, and all that must be known beside it."""
    rows = []
    for part in words.by(entries, "metric"):
        scale = words.of_metric(part)
        _, _, varying = words.settings(part)
        for entry in part:
            where = ", ".join(words.places(entry))
            line = entry["checkpoint"] or ""
            rows.append(
                [
                    spelled(entry["label"]),
                    spelled(line) if entry["checkpoint"] is not None else "(reference)",
                    spelled(", ".join(filter(None, (words.told(entry, varying), where)))),
                    entry["context_len"],
                    _finite(entry["value"]),
                    spelled(interval_text(entry, scale)),
                    entry["better"],
                    "" if entry["value"] is None else words.basis([entry]),
                    "; ".join(remarks(entry)),
                    spelled(entry["method"] or ""),
                    spelled(value_text(entry, scale)),
                    "" if entry["context_len"] is None else words.context(entry["context_len"]),
                ]
            )
    columns = [
        _column("metric", choose=True),
        _column("checkpoint", choose=True),
        _column("setting"),
        _column("context", numeric=True, shown=11),
        _column("value", numeric=True, shown=10),
        _column("95% interval", style="tight"),
        _column("better"),
        _column("rests on", style="broad"),
        _column("caveats", style="wide"),
        _column("interval by"),
    ]
    return Listing(columns=columns, rows=rows)


def comparisons_of(entries: Sequence[Record]) -> Listing:
    """Every paired comparison of one task, with its verdict or why there is none."""
    # where nothing could be compared there are no columns for effects
    entries = [{**dict.fromkeys(TAIL), **entry} for entry in entries]
    rows = []
    for part in words.by(entries, "metric"):
        _, _, varying = words.settings(part)
        for entry in part:
            made = entry["effect"] is not None
            told = ", ".join(filter(None, (words.told(entry, varying), *words.places(entry))))
            context_len = entry["context_len"]
            rows.append(
                [
                    spelled(entry["label"]),
                    spelled(entry["a"]),
                    spelled(entry["b"]),
                    spelled(told),
                    context_len,
                    _finite(entry["effect"]),
                    spelled(_verdict(entry)),
                    words.basis([entry]) if made and entry["num_clusters"] is not None else "",
                    spelled(_why(entry)),
                    spelled(f"{'a / b' if entry['kind'] == 'ratio' else 'a - b'}: {effect(entry)}") if made else "",
                    "" if context_len is None else words.context(context_len),
                ]
            )
    columns = [
        _column("metric", choose=True),
        _column("a", choose=True),
        _column("b", choose=True),
        _column("setting"),
        _column("context", numeric=True, shown=10),
        _column("effect (95% interval)", numeric=True, shown=9),
        _column("verdict", choose=True),
        _column("rests on", style="broad"),
        _column("why, and caveats", style="wide"),
    ]
    return Listing(columns=columns, rows=rows)


def _verdict(entry: Record) -> str:
    """`transformer better`: the verdict with the names in place of a and b."""
    winner = {"a better": "a", "b better": "b"}.get(entry["verdict"])
    return f"{entry[winner]} better" if winner else str(entry["verdict"])


def _why(entry: Record) -> str:
    found = [entry["reason"]] if entry["reason"] else []
    if entry["extrapolated"] is True:
        found.append("beyond a training context")
    found += [
        f"{name} scored {entry[f'checked_{name}']}" for name in "ab" if entry.get(f"checked_{name}") in words.CHECKED
    ]
    if (entry["num_points"] or 1) > 1:
        found.append(f"interval holds for {entry['num_points']} comparisons together")
    return "; ".join(map(str, found))


def samples_of(rows: pd.DataFrame) -> tuple[Listing, dict[str, Any]]:
    """Every row of one task, and what is the same in all of them; the last two entries of a row are its cell and place.

    Columns are what tells rows apart. Names of other columns keep their underscores: they are those of `rows.parquet`.
    """
    entries = words.records(rows)
    names = [name for name in entries[0] if name not in (RECIPE, "run_id")] if entries else []
    own = [name for name in names if name in _OF_SAMPLES or not (name in COLUMNS or name.startswith(SETTINGS))]
    asked = [name for name in names if name.startswith(SETTINGS)]
    values = {name: [entry[name] for entry in entries] for name in (*own, *asked)}
    several = {name: len(set(map(repr, column))) > 1 for name, column in values.items()}
    same = {name: _plain(column[0]) for name, column in values.items() if not several[name] and column[0] is not None}
    told = [name for name in _OF_SAMPLES if name in several and (several[name] or name in ("checkpoint", CELL, SAMPLE))]
    told += [name for name in (*own, *asked) if several[name] and name not in told]
    columns = [
        _column(
            {CELL: "cell", SAMPLE: "sample"}.get(name, name),
            numeric=_is_numeric(values[name]),
            choose=name in ("checkpoint", "corpus"),
        )
        for name in told
    ]
    made = []
    for index, entry in enumerate(entries):
        cells = [entry[CELL][:LETTERS] if name == CELL else _plain(values[name][index]) for name in told]
        made.append([*cells, entry[CELL], entry[SAMPLE]])
    return Listing(columns=columns, rows=made), same


def recipes_of(rows: pd.DataFrame) -> dict[str, Any]:
    """From what a sample can be made again, by cell and place: `{cell: {place: recipe}}`."""
    found: dict[str, Any] = {}
    if RECIPE in rows:
        for cell, place, text in zip(rows[CELL], rows[SAMPLE], rows[RECIPE], strict=True):
            if isinstance(text, str):
                found.setdefault(str(cell), {})[str(int(place))] = _recipe(text)
    return found


def _recipe(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_numeric(values: Iterable[Any]) -> bool:
    return all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)


def _plain(value: Any) -> Any:
    """A value as JSON has it: six digits, text without hidden letters."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return _finite(float(f"{value:.6g}"))
    return value if isinstance(value, int) else spelled(value)


def _finite(value: float | None) -> float | None:
    """JSON has neither infinities nor NaN."""
    return value if value is not None and abs(value) < float("inf") else None
