"""One point of a comparison: how a stands to b, with the interval that judges it.

    documents, trials     a - b over shared targets, from sums
    perplexities          a / b, from the same sums
    rounds                a / b of geometric means over shared rounds
    counts                a / b, exact

The effect is made of the two values that are printed beside it, and of nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ttbench.report import summary
from ttbench.report.comparison.pairing import Shared, pair
from ttbench.report.statistics import stats
from ttbench.report.statistics.stats import Estimate
from ttbench.report.summary import A_BETTER, B_BETTER, DIFFERENCE, EXACT, NOT_JUDGED, NOT_SHOWN, RATIO, TOO_SMALL
from ttbench.types import Metric

POSITIVE_ONLY = "a ratio needs positive numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """How a stands to b at one point."""

    kind: str
    estimate: Estimate
    value_a: float
    value_b: float
    num_pairs: int
    p: float | None  # of this point alone
    num_counted: float | None = None  # bytes, tokens, trials ... that both were measured on


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """One point that can be compared: sums over shared targets, or the numbers of each shared round."""

    metric: Metric
    targets: Shared | None = None
    rounds: tuple[Sequence[float], Sequence[float]] = ((), ())


def ready_to_compare(
    one: summary.RowGroup, two: summary.RowGroup, *, free: Collection[str], names: tuple[str, str]
) -> Ready | str:
    """What is compared at one point, or the reason why nothing is; `names` are the two sides as they were asked for."""
    for name, group in zip(names, (one, two), strict=True):
        if not len(group.rows):
            return f"{name}: {group.ended[0]}"
    metric = one.metric
    if summary.is_timing(metric):
        a, b = summary.rounds(one.rows, metric), summary.rounds(two.rows, metric)
        labels = sorted(a.keys() & b.keys())
        if not labels:
            return "no shared rounds"
        pairs = [a[label] for label in labels], [b[label] for label in labels]
        return Ready(metric=metric, rounds=pairs) if min(map(min, pairs)) > 0 else POSITIVE_ONLY
    if set(one.rows.values("seed")) != set(two.rows.values("seed")):
        return "the seeds differ, and each draws targets of its own"
    same_tokenizer = one.line["tokenizer_digest"] == two.line["tokenizer_digest"]
    if summary.is_per_token(metric) and not same_tokenizer:
        return "the tokenizers differ, and a number per token ranks tokenizers; compare bits per byte"
    shared = pair(one, two, free=free)
    if shared is None:
        return "no shared targets"
    if metric.statistic in ("max", "count") and min(shared.a.max(), shared.b.max()) * metric.scale <= 0:
        return POSITIVE_ONLY
    return Ready(metric=metric, targets=shared)


def effect_of(ready: Ready, *, level: float) -> Effect:
    """How a stands to b, with an interval of this level."""
    if ready.targets is None:
        return _effect_of_rounds(ready.metric, *ready.rounds, level=level)
    if ready.metric.statistic in ("max", "count"):
        return _effect_of_highest(ready.metric, ready.targets)
    return _effect_of_sums(ready.metric, ready.targets, level=level)


def _effect_of_sums(metric: Metric, shared: Shared, *, level: float) -> Effect:
    paired = stats.paired_proportion_difference if metric.statistic == "proportion" else stats.paired_difference
    made = paired(
        shared.a, shared.b, shared.denominator, clusters=shared.clusters, level=level, noun=summary.noun_of(metric)
    )

    def number(rate: float) -> float:
        return math.exp(rate * metric.scale) if metric.statistic == "exp_ratio" else rate * metric.scale

    total = float(shared.denominator.sum())
    return Effect(
        kind=RATIO if metric.statistic == "exp_ratio" else DIFFERENCE,
        estimate=made.map(number),
        value_a=number(float(shared.a.sum()) / total),
        value_b=number(float(shared.b.sum()) / total),
        num_pairs=len(shared.a),
        p=stats.sign_flip_test(shared.a - shared.b, clusters=shared.clusters),
        num_counted=total,
    )


def _effect_of_highest(metric: Metric, shared: Shared) -> Effect:
    """The highest of both over the same targets; a declared count is exact, and anything else has no interval."""
    value_a, value_b = (float(values.max()) * metric.scale for values in (shared.a, shared.b))
    method, reason = (EXACT, None) if metric.statistic == "count" else ("none", "a highest value has no interval")
    made = Estimate(value=value_a / value_b, method=method, num_clusters=len(shared.a), reason=reason)
    return Effect(kind=RATIO, estimate=made, value_a=value_a, value_b=value_b, num_pairs=len(shared.a), p=None)


def _effect_of_rounds(metric: Metric, a: Sequence[float], b: Sequence[float], *, level: float) -> Effect:
    """The ratio of the geometric means over shared rounds, which is the geometric mean of the ratios."""
    if metric.statistic == "count":
        value_a, value_b, p = max(a), max(b), None
        made = Estimate(value=value_a / value_b, method=EXACT, num_clusters=len(a))
    else:
        value_a, value_b = (stats.estimate_rounds(values).value for values in (a, b))
        ratios = [one / two for one, two in zip(a, b, strict=True)]
        made, p = stats.estimate_rounds(ratios, level=level), stats.log_ratio_test(ratios)
    return Effect(kind=RATIO, estimate=made, value_a=value_a, value_b=value_b, num_pairs=len(a), p=p)


def verdict_of(metric: Metric, effect: Effect) -> str:
    """What the interval says, and whether the effect is large enough to matter; a count is its own interval."""
    none, made = (1.0 if effect.kind == RATIO else 0.0), effect.estimate
    if made.method == EXACT:
        low = high = made.value
    elif made.low is None or made.high is None:
        return NOT_JUDGED
    else:
        low, high = made.low, made.high
    if low <= none <= high:
        return NOT_SHOWN
    size = max(made.value, 1 / made.value) - 1 if effect.kind == RATIO else abs(made.value)
    if size < metric.smallest_effect:
        return TOO_SMALL
    return A_BETTER if (made.value < none) == (metric.better == "lower") else B_BETTER


def least_to_be_shown(effect: Effect, *, level: float) -> float | None:
    """The smallest difference that an interval as wide would show four times in five; None without an interval."""
    made = effect.estimate
    if made.low is None or made.high is None:
        return None
    if effect.kind == RATIO:
        return math.exp(stats.detectable(math.log(made.high / made.low) / 2, level=level))
    return stats.detectable((made.high - made.low) / 2, level=level)
