"""The number that decides a claim, from the rows of one candidate, with an interval of any level.

Every number is told twice: as people read it (a difference, a ratio, a slope), and as `favour`, on a line where 0 is
"none" and more is more in favour of the claim; of ratios the favour is a logarithm. A rule is a region of favours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ttbench.report import summary, words
from ttbench.report.claims.candidates import Candidate, CandidateLine, Numbers
from ttbench.report.claims.claim import Claim, PrimaryCell, Rule
from ttbench.report.comparison.effects import POSITIVE_ONLY, Ready, effect_of, ready_to_compare
from ttbench.report.comparison.families import lacks
from ttbench.report.statistics import fits, stats
from ttbench.report.statistics.stats import Estimate
from ttbench.report.summary import EXACT, RATIO

NOT_FINITE, NOT_POSITIVE = "its numbers are not all finite", "its numbers are not all positive"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimNumber:
    """A number with its interval."""

    kind: str  # difference, ratio, slope, curvature
    estimate: Estimate
    noun: str  # of what the interval is over: document, round ...
    value_a: float | None = None
    value_b: float | None = None
    unit: str = "1"

    @property
    def exact(self) -> bool:
        return self.estimate.method == EXACT

    def ends(self) -> tuple[float, float] | None:
        """Both ends of the interval; of a count the number itself; None without one."""
        made = self.estimate
        if self.exact:
            return made.value, made.value
        return None if made.low is None or made.high is None else (made.low, made.high)


Measure = Callable[[float], ClaimNumber]  # by the level of the interval


def measure_of(claim: Claim, candidate: Candidate) -> Measure | str:
    """How the claim's number is made of a candidate, or why it cannot be."""
    statistic = claim.cell.statistic
    if statistic == "comparison":
        return _comparison(claim.cell, candidate)
    if statistic == "spread":
        return _spread(claim.cell, candidate)
    if statistic == "number":
        return _number(claim.cell, candidate)
    return _fit(claim.cell, candidate)


def favour_of(value: float, kind: str, cell_direction: str | None, reference: float | None) -> float:
    """A number on the line of favours; where no direction is claimed, more is only more."""
    if kind == RATIO:
        place = math.log(value) - math.log(1.0 if reference is None else reference)
    else:
        place = value - (reference or 0.0)
    return -place if cell_direction == "lower" else place


def region(rule: Rule, kind: str) -> tuple[float, float]:
    """The open interval of favours for which the claim is true; of `constant` it holds 0 alone."""
    margin = math.log1p(rule.margin) if kind == RATIO else rule.margin
    if rule.kind == "superior":
        return margin, math.inf
    if rule.kind == "non-inferior":
        return -margin, math.inf
    return -margin, margin


def _comparison(cell: PrimaryCell, candidate: Candidate) -> Measure | str:
    line_b = candidate.b
    assert line_b is not None
    assert cell.b is not None
    at_a, at_b = (line.numbers[at] for line, at in zip((candidate.a, line_b), candidate.contexts, strict=True))
    metric = at_a[cell.metric].metric
    names = (candidate.a.told(), line_b.told())
    if cell.a.plus or cell.b.plus:
        sums = [
            _rounds(at, [cell.metric, *party.plus], name, combine=sum)
            for at, party, name in ((at_a, cell.a, names[0]), (at_b, cell.b, names[1]))
        ]
        for made in sums:
            if isinstance(made, str):
                return made
        ready: Ready | str = _ready_rounds(sums[0], sums[1], metric)  # type: ignore[arg-type]  # no text is left
    else:
        apart = {"context_len"} if cell.a.context != cell.b.context else set()
        free = {*cell.a.axes, *cell.b.axes, *apart}
        ready = ready_to_compare(at_a[cell.metric], at_b[cell.metric], free=free, names=names)
    if isinstance(ready, str):
        return ready
    if not _finite(ready):
        return NOT_FINITE
    lacking = lacks(ready)
    if lacking is not None:
        return lacking

    def measured(level: float) -> ClaimNumber:
        effect = effect_of(ready, level=level)
        return ClaimNumber(
            kind=effect.kind,
            estimate=effect.estimate,
            noun=summary.noun_of(metric),
            value_a=effect.value_a,
            value_b=effect.value_b,
            unit=metric.unit,
        )

    return measured


def _finite(ready: Ready) -> bool:
    """Whether all numbers that would be compared are finite."""
    targets = ready.targets
    parts = ready.rounds if targets is None else (targets.a, targets.b, targets.denominator)
    return all(bool(np.isfinite(np.asarray(part, dtype=np.float64)).all()) for part in parts)


def _ready_rounds(a: Mapping[int, float], b: Mapping[int, float], metric: summary.Metric) -> Ready | str:
    labels = sorted(a.keys() & b.keys())
    if not labels:
        return "no shared rounds"
    pairs = [a[label] for label in labels], [b[label] for label in labels]
    return Ready(metric=metric, rounds=pairs) if min(map(min, pairs)) > 0 else POSITIVE_ONLY


def _rounds(
    numbers: Numbers, names: Sequence[str], told: str, *, combine: Callable[[list[float]], float]
) -> dict[int, float] | str:
    """One number for each round that all of these metrics have, or why there is none."""
    lacking = [name for name in names if name not in numbers]
    if lacking:
        return f"{told} has no rows of {' and '.join(lacking)}"
    if not all(summary.is_timing(numbers[name].metric) for name in names):
        return f"{' and '.join(names)} are not made from rounds"
    # what is divided by a time of zero is told below, as a number that is not finite
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [summary.rounds(numbers[name].rows, numbers[name].metric) for name in names]
    labels = sorted(set.intersection(*(set(each) for each in found)))
    if not all(math.isfinite(value) for each in found for value in each.values()):
        return NOT_FINITE
    return {label: combine([each[label] for each in found]) for label in labels} if labels else "no shared rounds"


def _number(cell: PrimaryCell, candidate: Candidate) -> Measure | str:
    """A number of the line itself, multiplied and divided by others of its rounds."""
    names = [cell.metric, *cell.times, *cell.over]
    num_over = len(cell.over)

    def combine(values: list[float]) -> float:
        above, below = values[: len(values) - num_over], values[len(values) - num_over :]
        return math.prod(above) / math.prod(below) if all(value > 0 for value in values) else math.nan

    numbers = candidate.a.numbers[candidate.contexts[0]]
    made = _rounds(numbers, names, candidate.a.told(), combine=combine)
    if isinstance(made, str):
        return made
    values = np.array(list(made.values()))
    if not (values > 0).all():
        return NOT_POSITIVE
    own = np.array(list(summary.rounds(numbers[cell.metric].rows, numbers[cell.metric].metric).values()))
    if len(names) > 1 and _alike(values) and not _alike(own):
        # The times differ and are gone from the product: what is left was counted, and is the same in every round.
        counted = Estimate(value=float(values[0]), method=EXACT, num_clusters=len(values))
        return lambda _: ClaimNumber(kind=RATIO, estimate=counted, noun=summary.ROUND)
    return lambda level: ClaimNumber(
        kind=RATIO, estimate=stats.estimate_rounds(values, level=level), noun=summary.ROUND
    )


def _alike(values: np.ndarray) -> bool:
    """Whether positive values are equal but for rounding."""
    return bool(np.ptp(np.log(values)) <= 1e-9)


def _spread(cell: PrimaryCell, candidate: Candidate) -> Measure | str:
    """The largest over the smallest of a count at several contexts: 1 says that it is constant."""
    groups = [candidate.a.numbers[context][cell.metric] for context in candidate.contexts]
    metric = groups[0].metric
    if metric.statistic != "count":
        return f"{metric.name} is no count, so nothing shows that it is constant; use rule equivalent"
    values = [summary.estimate(group.rows, metric).value for group in groups]
    if not all(0 < value < math.inf for value in values):
        return NOT_POSITIVE
    made = Estimate(value=max(values) / min(values), method=EXACT, num_clusters=len(values))
    return lambda _: ClaimNumber(
        kind=RATIO, estimate=made, noun="context", value_a=max(values), value_b=min(values), unit=metric.unit
    )


def _fit(cell: PrimaryCell, candidate: Candidate) -> Measure | str:
    """The slope or the curvature of a line over its contexts, round by round."""
    made = _costs(candidate.a, cell.metric, candidate.contexts)
    if isinstance(made, str):
        return made
    if (
        cell.statistic == "curvature"
        and len(candidate.contexts) <= fits.MIN_CURVATURE_CONTEXTS
        and not _from_below(cell)
    ):
        return f"{len(candidate.contexts)} contexts bound a curvature from below only; this rule needs 3"
    fit = fits.slopes if cell.statistic == "slope" else fits.curvatures
    values = fit(candidate.contexts, made)
    unit = candidate.a.numbers[candidate.contexts[0]][cell.metric].metric.unit
    return lambda level: ClaimNumber(
        kind=cell.statistic, estimate=fits.mean_of_rounds(values, level=level), noun=summary.ROUND, unit=unit
    )


def _from_below(cell: PrimaryCell) -> bool:
    """Whether a bound from below is enough: the claim is that a number is higher."""
    return cell.direction == "higher"


def _costs(line: CandidateLine, name: str, contexts: Sequence[int]) -> np.ndarray | str:
    """The costs of each shared round at each context, [R, T], or why there are none."""
    by_context = [_rounds(line.numbers[context], [name], line.told(), combine=sum) for context in contexts]
    for made in by_context:
        if isinstance(made, str):
            return made
    found: list[dict[int, float]] = by_context  # type: ignore[assignment]  # no text is left
    labels = sorted(set.intersection(*(set(each) for each in found)))
    if not labels:
        return f"no round of {line.told()} at all of {', '.join(map(words.context, contexts))}"
    costs = np.array([[each[label] for each in found] for label in labels])
    return costs if costs.min() > 0 else NOT_POSITIVE
