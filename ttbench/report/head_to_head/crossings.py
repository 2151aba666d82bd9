"""Where one checkpoint overtakes another as the context grows: times, bytes, bits against the context length.

A crossing is told only where one checkpoint is shown to be ahead at a shorter context and the other at a longer one,
each by more than training noise, as far as that is known.
Between the two, the interval of the effect (its logarithm where it is a ratio) is drawn as straight lines over the
logarithm of the context; the crossing's interval is where it holds "none". The intervals of the points hold together,
so that this one holds in 95 of 100 as far as the effect runs straight between two measured contexts. Counts are exact:
they have no interval, but the two contexts between which they cross.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ttbench.report import words
from ttbench.report.comparison.seeds import is_within
from ttbench.report.summary import A_BETTER, B_BETTER, EXACT, NOT_COMPARABLE, RATIO, TOO_SMALL

MOST_PAIRS = 6  # without a crossing, named in one sentence
Points = Sequence[tuple[float, float]]  # logarithm of the context, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """What one metric of two checkpoints says under one set of settings, from its shortest to its longest context."""

    task: str
    metric: str
    label: str
    unit: str
    settings: str  # what tells it from others of the metric, in words
    first: str  # ahead before the crossing; without one, the first of the pair
    then: str  # ahead after it
    shortest: int  # tokens, compared
    longest: int  # tokens, compared
    context_len: float | None = None  # tokens at which they cross; None: no crossing is shown
    low: float | None = None  # tokens; of a count the contexts between which it lies
    high: float | None = None  # tokens
    exact: bool = False  # of a count

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def crossings(entries: Sequence[words.Record]) -> Iterator[Crossing]:
    """Every crossing that is shown; for a pair without one, one entry that says so. Needs two contexts at least."""
    able = [
        entry
        for entry in entries
        if entry["axes"] == "context_len" and entry["restates"] is None and entry["verdict"] != NOT_COMPARABLE
    ]
    for metric in words.by(able, "task", "metric"):
        _, _, varying = words.settings(metric)
        for pair in words.by(metric, "a", "b", *varying):
            if len({entry["context_len"] for entry in pair}) > 1 and pair[0]["statistic"] not in ("max", "exp_ratio"):
                yield from _of_pair(sorted(pair, key=lambda e: e["context_len"]), words.told(pair[0], varying))


def _of_pair(points: Sequence[words.Record], settings: str) -> Iterator[Crossing]:
    first = points[0]
    shared: dict[str, Any] = {name: first[name] for name in ("task", "metric", "label", "unit")}
    shared |= {"settings": settings, "shortest": first["context_len"], "longest": points[-1]["context_len"]}
    shown = [(index, way) for index, way in enumerate(map(_ahead, points)) if way]
    turns = [(one, two) for one, two in itertools.pairwise(shown) if one[1] != two[1]]
    if not turns:
        yield Crossing(**shared, first=first["a"], then=first["b"])
    for (start, way), (end, _) in turns:
        names = (first["a"], first["b"])[:: 1 if way < 0 else -1]
        at, low, high = _where([points[start], *_bounded(points[start + 1 : end]), points[end]])
        exact = points[start]["method"] == EXACT
        if exact:
            low, high = float(points[start]["context_len"]), float(points[end]["context_len"])
        yield Crossing(**shared, first=names[0], then=names[1], context_len=at, low=low, high=high, exact=exact)


def _ahead(entry: words.Record) -> int:
    """-1 where a is shown to be ahead, 1 where b is, however little; 0 where nothing is, or training noise reaches."""
    sd = entry.get("training_sd")
    if entry["verdict"] == TOO_SMALL and (sd is None or not is_within(entry, sd)):
        less = entry["effect"] < (1 if entry["kind"] == RATIO else 0)
        return -1 if less == (entry["better"] == "lower") else 1
    return {A_BETTER: -1, B_BETTER: 1}.get(entry["verdict"], 0)


def _bounded(points: Sequence[words.Record]) -> list[words.Record]:
    return [entry for entry in points if entry["low"] is not None or entry["method"] == EXACT]


def _where(points: Sequence[words.Record]) -> tuple[float, float, float]:
    """Tokens at which the effect is none, and the ends of where its interval holds none.

    Args:
        points: by ascending context; the effect is shown on one side of none at the first, on the other at the last.
    """
    scale: Callable[[float], float] = math.log if points[0]["kind"] == RATIO else float
    turn = 1.0 if scale(points[0]["effect"]) > 0 else -1.0
    places = [math.log(entry["context_len"]) for entry in points]

    def line(name: str) -> list[tuple[float, float]]:
        values = [entry["effect"] if entry[name] is None else entry[name] for entry in points]
        return [(place, turn * scale(value)) for place, value in zip(places, values, strict=True)]

    # turned so that the effect falls from above none to below it
    near, far = ("low", "high") if turn > 0 else ("high", "low")
    low = _first_root(line(near))
    high = -_first_root([(-place, -value) for place, value in reversed(line(far))])
    return math.exp(_first_root(line("effect"))), math.exp(low), math.exp(high)


def _first_root(points: Points) -> float:
    """Where straight lines through the points, of which the first lies above 0, first come down to 0."""
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        if y > 0 >= next_y:
            return x + (next_x - x) * y / (y - next_y)
    raise AssertionError("the last point lies below 0")


def tokens(number: float) -> str:
    """6.1k, 512, 16k: a whole length as contexts are written, another one with two digits."""
    if math.isclose(number, round(number), rel_tol=1e-9):
        return words.context(round(number))
    for size, letter in ((words.M, "m"), (words.K, "k")):
        if number >= size:
            return f"{words.significant(number / size)}{letter}"
    return f"{number:.0f}"


def sentences(found: Sequence[Crossing]) -> list[str]:
    """Each crossing as a sentence, and the pairs without one together for each metric and its contexts."""
    said = [_sentence(one) for one in found if one.context_len is not None]
    without = [one for one in found if one.context_len is None]
    keys = dict.fromkeys((one.label, one.settings, one.shortest, one.longest) for one in without)
    for key in keys:
        mine = [one for one in without if (one.label, one.settings, one.shortest, one.longest) == key]
        pairs = ", ".join(f"{one.first} and {one.then}" for one in mine)
        pairs = pairs if len(mine) <= MOST_PAIRS else f"{len(mine)} pairs; --json has them"
        head = ", ".join(filter(None, key[:2]))
        said.append(f"{head}: no crossing shown from {words.context(key[2])} to {words.context(key[3])} ({pairs}).")
    return said


def _sentence(one: Crossing) -> str:
    assert one.context_len is not None
    assert one.low is not None
    assert one.high is not None
    ahead = {"s": "faster", "bytes": "smaller"}.get(one.unit, "better")
    low, high = tokens(one.low), tokens(one.high)
    sure = f"counted: between {low} and {high}" if one.exact else f"95% interval {low} to {high}"
    where = ", ".join(filter(None, (one.label, one.settings)))
    return f"{one.then} is {ahead} than {one.first} from {tokens(one.context_len)} tokens ({sure}; {where})."
