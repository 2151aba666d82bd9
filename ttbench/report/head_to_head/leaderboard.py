"""Who leads, as far as that is shown: the places that each checkpoint may have on each metric at one context.

A checkpoint's best place is one behind all that are shown to be better than it, its worst place one before all that it
is shown to be better than. Where nothing is shown all share all places. Quality is told at the longest context that all
were trained for, timings and bytes at the longest context of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ttbench.report import words
from ttbench.report.summary import A_BETTER, B_BETTER, NOT_COMPARABLE, NOT_JUDGED, ROUND

COST = {"s", "bytes"}  # units of what a checkpoint takes rather than of what it gives


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardPlace:
    """One checkpoint on one metric."""

    name: str
    value: float  # over the targets that it shares with most others
    best: int  # place, from 1
    worst: int
    better_than: tuple[str, ...]  # shown
    worse_than: tuple[str, ...]  # shown
    open: tuple[str, ...]  # could not be compared with, or not be judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One metric under one set of settings at one context."""

    task: str
    metric: str
    label: str
    unit: str
    better: str
    statistic: str
    settings: str  # what tells it from others of the metric, in words
    context_len: int  # tokens
    is_cost: bool  # seconds or bytes
    extrapolated: bool  # beyond the training context of some
    places: tuple[BoardPlace, ...]  # the best value first

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def boards(entries: Sequence[words.Record]) -> list[Board]:
    """A leaderboard for each metric that is made by context alone and restates no other, as declared."""
    found = []
    for metric in words.by([entry for entry in entries if is_ranked(entry)], "task", "metric"):
        _, _, varying = words.settings(metric)
        for part in words.by(metric, *varying):
            able = [entry for entry in part if entry["verdict"] != NOT_COMPARABLE]
            if able:
                at = reference(able)
                here = [entry for entry in part if entry["context_len"] == at]
                found.append(_board(here, words.told(part[0], varying)))
    return found


def is_ranked(entry: words.Record) -> bool:
    """Whether a comparison is of a metric that ranks checkpoints at each context."""
    return entry["axes"] == "context_len" and entry["restates"] is None and entry["statistic"] != "exp_ratio"


def reference(able: Sequence[words.Record]) -> int:
    """The context with most comparisons, the longest of several: inside training for quality, of all for timings."""
    points = words.by(able, "context_len")
    fullest = max(map(len, points))
    whole = [part for part in points if len(part) == fullest]
    inside = [part for part in whole if not any(entry["extrapolated"] is True for entry in part)]
    timed = able[0]["cluster"] == ROUND
    return max(part[0]["context_len"] for part in (whole if timed or not inside else inside))


def _board(here: Sequence[words.Record], settings: str) -> Board:
    first = here[0]
    values = shared_values(here)
    places = [_place(name, value, here, num=len(values)) for name, value in values.items()]
    places.sort(key=lambda place: (place.value if first["better"] == "lower" else -place.value, place.name))
    return Board(
        **{name: first[name] for name in ("task", "metric", "label", "unit", "better", "statistic", "context_len")},
        settings=settings,
        is_cost=first["unit"] in COST and first["better"] == "lower",
        extrapolated=any(entry["extrapolated"] is True for entry in here),
        places=tuple(places),
    )


def shared_values(here: Sequence[words.Record]) -> dict[str, float]:
    """Each checkpoint's number at one point, over the targets that it shares with another: of several, over most."""
    found: dict[str, tuple[int, float]] = {}
    for entry in here:
        for side in ("a", "b"):
            if entry[f"value_{side}"] is not None:
                mine = entry["num_pairs"], entry[f"value_{side}"]
                if entry[side] not in found or mine[0] > found[entry[side]][0]:
                    found[entry[side]] = mine
    return {name: value for name, (_, value) in found.items()}


def _place(name: str, value: float, here: Sequence[words.Record], *, num: int) -> BoardPlace:
    over, under, unknown = [], [], []
    for entry in here:
        if name in (entry["a"], entry["b"]):
            other = entry["b"] if entry["a"] == name else entry["a"]
            better = A_BETTER if entry["a"] == name else B_BETTER
            if entry["verdict"] in (NOT_COMPARABLE, NOT_JUDGED):
                unknown.append(other)
            elif entry["verdict"] in (A_BETTER, B_BETTER):
                (over if entry["verdict"] == better else under).append(other)
    return BoardPlace(
        name=name,
        value=value,
        best=1 + len(under),
        worst=num - len(over),
        better_than=tuple(over),
        worse_than=tuple(under),
        open=tuple(unknown),
    )


def relation(here: Sequence[words.Record]) -> Mapping[str, set[str]]:
    """Each checkpoint's name with those that it is shown to be better than at one point."""
    found: dict[str, set[str]] = {entry[side]: set() for entry in here for side in ("a", "b")}
    for one, two in _wins(here):
        found[one].add(two)
    return found


def _wins(here: Sequence[words.Record]) -> Iterator[tuple[str, str]]:
    for entry in here:
        if entry["verdict"] == A_BETTER:
            yield entry["a"], entry["b"]
        elif entry["verdict"] == B_BETTER:
            yield entry["b"], entry["a"]
