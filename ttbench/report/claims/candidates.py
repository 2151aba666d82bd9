"""Which rows could decide a claim: pairs of numbers (or lines of numbers) that are of its two parties.

A source is one set of rows, a run or a folder of results; rows of two sources are never pooled. Of a pair of weights
that several sources have measured, the first source that can say something counts. Trainings of one model that differ
in their seed are each held against others, never against each other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ttbench.report import summary, words
from ttbench.report.claims.claim import Claim, Party, PrimaryCell, Scope
from ttbench.report.columns import all_rows
from ttbench.report.comparison import seeds
from ttbench.report.summary import RowGroup
from ttbench.types import NO_ATTENTION, Metric, Scalar

SAME_SIZE = 0.1  # parameters that differ by at most this share are one size
MIN_CONTEXTS = 2  # of what is said about contexts
Key = tuple[tuple[str, Scalar], ...]
Numbers = Mapping[str, RowGroup]  # metric -> its rows at one context of one line


class RowSource:
    """The rows of a run or of a folder of results, with their numbers made at first use."""

    def __init__(self, name: str, rows: pd.DataFrame) -> None:
        self.name = name
        self.metrics = summary.metrics_of(rows)
        # pandas copies what `attrs` hold at every access of a column
        bare = rows.copy(deep=False)
        bare.attrs = {}
        self._rows = all_rows(bare)
        self._groups: dict[tuple[str, str], list[RowGroup]] = {}
        self._trainings = seeds.recipes_of(bare)
        self._named = rows
        self._spreads: list[seeds.SeedSpread] | None = None

    def recipe(self, line: CandidateLine) -> str | None:
        """What the weights of a line were trained by, where its rows say so."""
        training = self._trainings.get(str(line.weights))
        return None if training is None else training[0]

    def training_sd(self, cell: PrimaryCell, *sides: tuple[CandidateLine, int]) -> float | None:
        """Standard deviation that other seeds give a difference of lines at their contexts; None: not known.

        Two settings of one training have none.
        """
        if len({line.weights for line, _ in sides}) < len(sides):
            return None
        if self._spreads is None:
            self._spreads = seeds.spreads(self._named)
        metric = {"task": cell.task, "metric": cell.metric}
        places = [{**line.settings, **line.places, **metric, "context_len": at} for line, at in sides]
        found = [
            seeds.sd_at(place, self.recipe(line), self._spreads) for (line, _), place in zip(sides, places, strict=True)
        ]
        return None if None in found else math.hypot(*(sd for sd in found if sd is not None))

    def groups(self, task: str, metric: Metric) -> list[RowGroup]:
        """All numbers of a metric that have rows."""
        key = (task, metric.name)
        if key not in self._groups:
            self._groups[key] = [group for group in summary.groups(self._rows, task, metric) if len(group.rows)]
        return self._groups[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateLine:
    """One checkpoint under one set of settings, at one place of the other axes: its rows by context."""

    checkpoint: str
    settings: Mapping[str, Scalar]
    places: Mapping[str, Scalar]  # axis, but for the context -> place
    numbers: Mapping[int, Numbers]  # by context, ascending

    def told(self) -> str:
        """The checkpoint, and its place on other axes: `transformer, strategy prompt`."""
        return ", ".join(
            [self.checkpoint, *(f"{words.axis(axis)} {words.plain(at)}" for axis, at in self.places.items())]
        )

    def first(self, column: str) -> Scalar:
        """A column that is the same in all rows of the line."""
        rows = next(iter(next(iter(self.numbers.values())).values())).rows
        return rows.first(column)

    @property
    def weights(self) -> Scalar:
        return self.settings["weights_digest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What could decide a claim: a line of a, one of b, their contexts, and why they are outside of its scope."""

    source: str
    a: CandidateLine
    b: CandidateLine | None
    contexts: tuple[int, ...]  # of a comparison that of a, then that of b; else all that count
    outside: tuple[tuple[str, str], ...]  # what, and how, puts it outside of the scope; empty: nothing
    training_sd: float | None = None  # of the difference of a and b, where rows of other seeds tell it

    @property
    def key(self) -> tuple[Scalar, ...]:
        """Equal for the same checkpoints in several sources."""
        b = () if self.b is None else (self.b.weights, *self.b.places.values())
        return (self.a.weights, *self.a.places.values(), *b)


NO_ROWS = "no rows of"


def find(claim: Claim, source: RowSource) -> list[Candidate] | str:
    """Every candidate among the rows of one source, or why there is none."""
    cell = claim.cell
    declared = source.metrics.get(cell.task)
    if declared is None:
        return f"no rows of task {cell.task}"
    names = _metrics_needed(cell)
    known = {metric.name: metric for metric in declared}
    lacking = [name for name in names if name not in known]
    if lacking:
        return f"rows of {cell.task} have no metric {' and no '.join(lacking)} (an older version of the task)"
    lines = _lines(source, cell, [known[name] for name in names])
    ones, others = (
        [line for line in lines if party is not None and _is_of(line, party, cell)] for party in (cell.a, cell.b)
    )
    missing = [party_told(party) for party, mine in ((cell.a, ones), (cell.b, others)) if party and not mine]
    if missing:
        return " and ".join(f"{NO_ROWS} {party}" for party in missing)
    if cell.b is None:
        found = [_alone(claim, source.name, line) for line in ones]
        kept = [each for each in found if not isinstance(each, str)]
        return kept or next(each for each in found if isinstance(each, str))
    pairs = [(one, two) for one, two in itertools.product(ones, others) if _comparable(one, two, cell, source)]
    if not pairs:
        both = f"{party_told(cell.a)} and {party_told(cell.b)}"
        return f"no pair of {both} measured under the same settings{_sameness(cell)}"
    paired = [_together(claim, source, one, two) for one, two in pairs]
    return [each for each in paired if each is not None] or "the two were measured at no context in common"


def _metrics_needed(cell: PrimaryCell) -> list[str]:
    parties = [party for party in (cell.a, cell.b) if party is not None]
    return [*dict.fromkeys((cell.metric, *cell.times, *cell.over, *(name for party in parties for name in party.plus)))]


def _lines(source: RowSource, cell: PrimaryCell, metrics: Sequence[Metric]) -> list[CandidateLine]:
    """The lines of the cell's metric; the other metrics stand beside it at the same place, or at all places."""
    by_metric: dict[str, dict[tuple[Key, Key, int], RowGroup]] = {}
    for metric in metrics:
        found = by_metric.setdefault(metric.name, {})
        for group in source.groups(cell.task, metric):
            places = tuple((axis, at) for axis, at in group.point.items() if axis != "context_len")
            context = group.point["context_len"]
            assert isinstance(context, int)
            found[tuple(group.line.items()), places, context] = group
    lines: dict[tuple[Key, Key], dict[int, Numbers]] = {}
    for (line, places, context), group in by_metric[cell.metric].items():
        others = {
            name: mine.get((line, places, context), mine.get((line, (), context))) for name, mine in by_metric.items()
        }
        numbers = {cell.metric: group, **{name: other for name, other in others.items() if other is not None}}
        lines.setdefault((line, places), {})[context] = numbers
    return [
        CandidateLine(
            checkpoint=str(dict(line)["checkpoint"]),
            settings=dict(line),
            places=dict(places),
            numbers=dict(sorted(numbers.items())),
        )
        for (line, places), numbers in lines.items()
    ]


def _is_of(line: CandidateLine, party: Party, cell: PrimaryCell) -> bool:
    wanted = {"architecture": party.architecture, "checkpoint": party.checkpoint, "attention": party.attention}
    if any(values and words.plain(line.settings.get(name)) not in values for name, values in wanted.items()):
        return False
    if any(words.plain(line.settings.get(name)) not in values for name, values in cell.where.items()):
        return False
    return all(words.plain(line.places.get(axis)) in values for axis, values in party.axes.items())


def _comparable(one: CandidateLine, two: CandidateLine, cell: PrimaryCell, source: RowSource) -> bool:
    """Whether two lines were measured alike, but for what their parties ask to differ, and share what they must."""
    assert cell.b is not None
    if one is two and cell.a.context == cell.b.context:
        return False
    if one.weights != two.weights and (recipe := source.recipe(one)) is not None and recipe == source.recipe(two):
        return False
    if cell.same == "checkpoint" and one.weights != two.weights:
        return False
    if cell.same == "size" and not _same_size(one, two):
        return False
    free = {*summary.CONTENT, "architecture_version"}
    attention = {one.settings["attention"], two.settings["attention"]}
    if NO_ATTENTION in attention or (cell.a.attention and cell.b.attention):
        free.add("attention")
    names = (one.settings.keys() | two.settings.keys()) - free
    if any(one.settings.get(name) != two.settings.get(name) for name in names):
        return False
    axes = (one.places.keys() | two.places.keys()) - (cell.a.axes.keys() & cell.b.axes.keys())
    return all(one.places.get(axis) == two.places.get(axis) for axis in axes)


def _same_size(one: CandidateLine, two: CandidateLine) -> bool:
    sizes = [line.first("num_params") for line in (one, two)]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return False
    return max(sizes) <= min(sizes) * (1 + SAME_SIZE)  # type: ignore[type-var,operator]  # both are numbers


def _together(claim: Claim, source: RowSource, one: CandidateLine, two: CandidateLine) -> Candidate | None:
    """A pair at the contexts of the claim, else at the nearest that both have; None where there are none."""
    cell = claim.cell
    assert cell.b is not None
    wanted = (cell.a.context or cell.context, cell.b.context or cell.context)
    factor = 1.0 if wanted[0] is None or wanted[1] is None else wanted[1] / wanted[0]
    pairs = [(first, round(first * factor)) for first in one.numbers if round(first * factor) in two.numbers]
    pairs = [(first, second) for first, second in pairs if not (one is two and first == second)]
    if not pairs:
        return None
    lines = ((one, 0), (two, 1))

    def untold(pair: tuple[int, int]) -> bool:
        return any(_untrained(claim.scope, line, pair[place]) for line, place in lines)

    trained = [pair for pair in pairs if not untold(pair)] or pairs
    best = max(trained) if wanted[0] is None else min(trained, key=_far_from(wanted[0]))
    outside = [*_outside(claim.scope, [one, two])]
    if wanted[0] is not None and best[0] != wanted[0]:
        outside.append(("context", f"{words.context(best[0])} for {words.context(wanted[0])}"))
    said = [_untrained(claim.scope, line, best[place]) for line, place in lines]
    outside += [("training context", text) for text in dict.fromkeys(said) if text]
    return Candidate(
        source=source.name,
        a=one,
        b=two,
        contexts=best,
        outside=tuple(outside),
        training_sd=source.training_sd(cell, (one, best[0]), (two, best[1])),
    )


def _far_from(context: int) -> Callable[[tuple[int, int]], float]:
    """How far, by its ratio, the first of two contexts is from one."""
    return lambda pair: abs(math.log(pair[0] / context))


def _alone(claim: Claim, source: str, line: CandidateLine) -> Candidate | str:
    """One line with the contexts that count, or why it has too few."""
    cell, outside = claim.cell, [*_outside(claim.scope, [line])]
    if cell.statistic == "number":
        wanted = cell.context
        best = max(line.numbers) if wanted is None else min(line.numbers, key=lambda c: abs(math.log(c / wanted)))
        if wanted is not None and best != wanted:
            outside.append(("context", f"{words.context(best)} for {words.context(wanted)}"))
        return Candidate(source=source, a=line, b=None, contexts=(best,), outside=tuple(outside))
    contexts = tuple(context for context in line.numbers if context >= cell.least_context)
    if len(contexts) < MIN_CONTEXTS:
        at = ", ".join(map(words.context, contexts)) or "no context"
        return f"{line.told()} was measured at {at}; {MIN_CONTEXTS} contexts from {cell.least_context} on are needed"
    said = [_untrained(claim.scope, line, context) for context in contexts]
    outside += [("training context", text) for text in dict.fromkeys(said) if text]
    return Candidate(source=source, a=line, b=None, contexts=contexts, outside=tuple(outside))


def _outside(scope: Scope, lines: Sequence[CandidateLine]) -> Iterator[tuple[str, str]]:
    """What puts lines outside of a scope, whatever the context."""
    least, most = scope.least_params, scope.most_params
    for line in lines if least is not None or most is not None else ():
        size = line.first("num_params")
        if not isinstance(size, int):
            yield "size", f"of {line.checkpoint} unknown"
        elif size < (least or 0) or size > (most or size):
            yield "size", f"{words.significant(size / 1e6)} M"
    for name, allowed in (("corpus", scope.corpora), ("device", scope.devices)):
        found = dict.fromkeys(words.plain(line.settings.get(name)) for line in lines)
        yield from ((name, value) for value in found if allowed and value not in allowed)


def _untrained(scope: Scope, line: CandidateLine, context: int) -> str:
    """The training context of a line where it is not as the scope asks for; empty: it is."""
    train_ctx = line.settings.get("train_ctx")
    if scope.trained == "any":
        return ""
    if not isinstance(train_ctx, int):
        return "unknown"
    wrong = context > train_ctx or (scope.trained == "at" and context != train_ctx)
    return words.context(train_ctx) if wrong else ""


def party_told(party: Party) -> str:
    """A party in words: `architecture ttt-linear or ttt-mlp, strategy lora`."""
    named = {"architecture": party.architecture, "checkpoint": party.checkpoint, "attention": party.attention}
    found = {name: values for name, values in {**named, **party.axes}.items() if values}
    return ", ".join(f"{words.axis(name)} {' or '.join(values)}" for name, values in found.items()) or "any checkpoint"


def _sameness(cell: PrimaryCell) -> str:
    return {"anything": "", "size": " with equal numbers of parameters", "checkpoint": " of one checkpoint"}[cell.same]
