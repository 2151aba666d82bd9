"""Which cells of a baseline a run has under the same settings. What it lacks is told by name, and nothing is skipped.

The rounds of a timing cell are one cell here. A cell is told by task, checkpoint, context and settings; weights and
code are what a gate is there to judge, so they may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ttbench.report import words
from ttbench.report.columns import Part, all_rows
from ttbench.report.gate.lines import CHANGED, ENDED, LOST, NEW, GateLine
from ttbench.types import Scalar

PLACE = ("task", "checkpoint", "context_len")
SETTINGS = (
    "task_version",
    "corpus",
    "corpus_digest",
    "seed",
    "dtype",
    "device",
    "engine",
    "attention",
    "batch_size",
)
# Of settings that are looked at together: the first that differs is told, and explains the other.
EXPLAINS = {"corpus_digest": "corpus"}

# How often a time is taken, which is no setting of what is timed.
REPEATS = "param_rounds"

CellKey = tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SameCells:
    """The rows of baseline and run in cells that both have, and a line for each other cell."""

    baseline: pd.DataFrame  # ok rows only
    candidate: pd.DataFrame
    lines: tuple[GateLine, ...]
    telling: Mapping[str, Sequence[str]]  # task -> settings that differ between its cells


def match_cells(baseline: pd.DataFrame, candidate: pd.DataFrame) -> SameCells:
    """Pair the cells of two tables of rows; each side's rows are those of matched cells that ended ok."""
    names = list(dict.fromkeys([*_settings_of(baseline), *_settings_of(candidate)]))
    before, after = _cells(baseline, names), _cells(candidate, names)
    telling = _telling(before)
    lines: list[GateLine] = []
    kept: list[CellKey] = []
    for key, part in before.items():
        if key not in after:
            lines.append(_missing(key, [other for other in after if _place(other) == _place(key)], telling))
            continue
        ended = _ended(key, part, after[key], telling)
        lines += ended
        if _has_number(part) and _has_number(after[key]):
            kept.append(key)
    lines += [_line(key, telling, NEW, "not in the baseline") for key in after if key not in before]
    return SameCells(
        baseline=_rows(baseline, before, kept),
        candidate=_rows(candidate, after, kept),
        lines=tuple(lines),
        telling=telling,
    )


def _settings_of(rows: pd.DataFrame) -> list[str]:
    return [*SETTINGS, *(str(name) for name in rows.columns if str(name).startswith("param_") and name != REPEATS)]


def _cells(rows: pd.DataFrame, names: Sequence[str]) -> dict[CellKey, Part]:
    """The rows of each cell, its rounds together."""
    return {tuple(key.items()): part for key, part in all_rows(rows).split([*PLACE, *names])}


def _place(key: CellKey) -> CellKey:
    return key[: len(PLACE)]


def _telling(cells: Collection[CellKey]) -> dict[str, list[str]]:
    """Settings in which the cells of a task differ, so that they tell one from another."""
    found: dict[str, list[str]] = {}
    for task in dict.fromkeys(dict(key)["task"] for key in cells):
        mine = [dict(key) for key in cells if dict(key)["task"] == task]
        names = [name for name in mine[0] if name not in PLACE and name not in EXPLAINS]
        found[str(task)] = [name for name in names if len({each[name] for each in mine}) > 1]
    return found


def _line(key: CellKey, telling: Mapping[str, Sequence[str]], verdict: str, reason: str) -> GateLine:
    cell = dict(key)
    return GateLine(
        rule="cell",
        verdict=verdict,
        task=str(cell["task"]),
        checkpoint=str(cell["checkpoint"]),
        settings={name: cell[name] for name in telling.get(str(cell["task"]), ())},
        point={"context_len": cell["context_len"]},
        reason=reason,
    )


def _missing(key: CellKey, others: Sequence[CellKey], telling: Mapping[str, Sequence[str]]) -> GateLine:
    """A cell of the baseline that the run does not have: under other settings, or not at all."""
    if not others:
        return _line(key, telling, LOST, "the run does not have this cell")
    nearest = min((list(_differences(key, other)) for other in others), key=len)
    return _line(key, telling, CHANGED, "; ".join(nearest))


def _differences(before: CellKey, after: CellKey) -> Iterator[str]:
    """In which settings two cells differ, from the baseline's to the run's."""
    one, two = dict(before), dict(after)
    for name in one:
        if one[name] == two[name] or (name in EXPLAINS and one[EXPLAINS[name]] != two[EXPLAINS[name]]):
            continue
        pair = [_value(name, side[name]) for side in (one, two)]
        if name == "corpus_digest":
            yield f"the text of corpus {one['corpus']} changed: {pair[0]} → {pair[1]}"
        elif name == "task_version":
            yield f"the baseline is of version {pair[0]} of the task, the run of version {pair[1]}"
        else:
            yield f"{name.removeprefix('param_').replace('_', ' ')} changed: {pair[0]} → {pair[1]}"


def _value(name: str, value: Scalar) -> str:
    if value is None:
        return "none"
    return str(value)[:8] if name == "corpus_digest" else words.plain(value)


def _has_number(part: Part) -> bool:
    return bool((part.values("status") == "ok").any())


def _ended(key: CellKey, before: Part, after: Part, telling: Mapping[str, Sequence[str]]) -> Iterator[GateLine]:
    """A line where the run's cell ended in a way in which the baseline's did not."""
    one, two = _statuses(before), _statuses(after)
    if set(one) == {"ok"} == set(two) or set(two) <= set(one):
        return
    if set(two) == {"ok"}:
        yield _line(key, telling, NEW, f"has a number, where the baseline has {_told(one)}")
        return
    reason = next((text for text in after.values("reason") if text is not None), None)
    told = f"{_told(two)}, where the baseline has {_told(one)}"
    yield _line(key, telling, ENDED, f"{told}: {reason}" if reason else told)


def _statuses(part: Part) -> Counter[Scalar]:
    """How often its rounds ended in each way."""
    return Counter(part.once(["cell_id", "status"]).values("status").tolist())


def _told(statuses: Mapping[Scalar, int]) -> str:
    many = sum(statuses.values()) > 1
    return ", ".join(f"{number} x {status}" if many else str(status) for status, number in statuses.items())


def _rows(rows: pd.DataFrame, cells: Mapping[CellKey, Part], kept: Sequence[CellKey]) -> pd.DataFrame:
    places = np.concatenate([np.empty(0, dtype=int), *(cells[key].places for key in kept)])
    found = rows.iloc[np.sort(places)]
    found = found.loc[(found["status"] == "ok").to_numpy(dtype=bool)] if len(found) else found
    found.attrs = rows.attrs
    return found
