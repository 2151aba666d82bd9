"""One point of a comparison: how a stands to b, with an interval of any level; and the verdict of judged intervals.

    documents, trials     a - b over shared targets, from sums
    perplexities          a / b, from the same sums
    rounds                a / b of geometric means over shared rounds
    counts                a / b, exact

The effect is made of the two values that are printed beside it, and of nothing else. `families` judges points together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttbench.report import summary
from ttbench.report.comparison.pairing import Shared, pair
from ttbench.report.statistics import stats
from ttbench.report.statistics.stats import Estimate
from ttbench.report.summary import A_BETTER, B_BETTER, DIFFERENCE, EXACT, NOT_JUDGED, NOT_SHOWN, RATIO, TOO_SMALL
from ttbench.types import Metric, Scalar

POSITIVE_ONLY = "a ratio needs positive numbers"
LARGEST = math.log(1e100)  # of a ratio of perplexities that is told; one of hundreds of digits says nothing


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
    joint_p: float | None = None  # of this point in its family; None: not judged in one
    level: float | None = None  # of the interval
    num_points: int | None = None  # comparisons of the family


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """One point that can be compared: sums over shared targets, or the numbers of each shared round."""

    metric: Metric
    targets: Shared | None = None
    rounds: tuple[Sequence[float], Sequence[float]] = ((), ())
    corpus: Scalar = None  # digest of what was read: equal labels of documents mean one document within it

    @property
    def counted(self) -> bool:
        """Whether it is made of counts, or of highest values without rounds, which have no interval."""
        return self.metric.statistic == "count" or (self.metric.statistic == "max" and self.targets is not None)

    def documents(self) -> dict[Hashable, tuple[float, float]]:
        """Sum of a - b and of the denominators for each independent document, haystack or trial."""
        shared = self.targets
        assert shared is not None
        labels, places = np.unique([repr(unit) for unit in shared.units], return_inverse=True)
        sums = stats.cluster_sums((shared.a - shared.b, shared.denominator), places)
        found = zip(labels.tolist(), *(column.tolist() for column in sums), strict=True)
        # a document in which nothing was counted says nothing
        return {(self.corpus, label): (difference, over) for label, difference, over in found if over > 0}

    def logs(self) -> np.ndarray:
        """Logarithm of a / b in each round."""
        return np.log(self.rounds[0]) - np.log(self.rounds[1])


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
    for name, sums in zip(names, (shared.a, shared.b), strict=True):
        if not np.isfinite(sums).all():
            return f"{name}: a target is scored as infinite, so that no mean of it can be compared"
    log_ratio = _rate(shared.a - shared.b, shared) * metric.scale
    if metric.statistic == "exp_ratio" and abs(log_ratio) >= LARGEST:
        return f"their ratio, e to the power of {log_ratio:,.0f}, is too far from 1 to be told"
    if metric.statistic in ("max", "count") and min(shared.a.max(), shared.b.max()) * metric.scale <= 0:
        return POSITIVE_ONLY
    return Ready(metric=metric, targets=shared, corpus=one.line.get("corpus_digest"))


def with_ends(estimate: Estimate, low: float, high: float, *, metric: Metric) -> Estimate:
    """An estimate with the ends of its interval on the scale that is printed; none where one is too large to tell."""
    logs = [end * metric.scale for end in (low, high)]
    if metric.statistic == "exp_ratio" and max(map(abs, logs)) >= LARGEST:
        powers = " to ".join(f"{log:,.0f}" for log in logs)
        reason = f"its interval, e to the power of {powers}, is too wide to be told"
        return replace(estimate, low=None, high=None, method="none", reason=reason)
    number = number_of(metric)
    return replace(estimate, low=number(low), high=number(high))


def effect_of(ready: Ready, *, level: float | None) -> Effect:
    """How a stands to b, with an interval of this level; None: of sums, without one."""
    if ready.targets is None:
        assert level is not None
        return _effect_of_rounds(ready, level=level)
    if ready.metric.statistic in ("max", "count"):
        return _effect_of_highest(ready.metric, ready.targets)
    return _effect_of_sums(ready, ready.targets, level=level)


def _effect_of_sums(ready: Ready, shared: Shared, *, level: float | None) -> Effect:
    metric = ready.metric
    if level is None:
        made = Estimate(value=_rate(shared.a - shared.b, shared), num_clusters=len(ready.documents()))
    else:
        paired = stats.paired_proportion_difference if metric.statistic == "proportion" else stats.paired_difference
        made = paired(
            shared.a, shared.b, shared.denominator, clusters=shared.clusters, level=level, noun=summary.noun_of(metric)
        )
    number = number_of(metric)
    estimate = replace(made, value=number(made.value))
    if made.low is not None and made.high is not None:
        estimate = with_ends(estimate, made.low, made.high, metric=metric)
    total = float(shared.denominator.sum())
    return Effect(
        kind=RATIO if metric.statistic == "exp_ratio" else DIFFERENCE,
        estimate=estimate,
        value_a=number(float(shared.a.sum()) / total),
        value_b=number(float(shared.b.sum()) / total),
        num_pairs=len(shared.a),
        p=sign_flips(ready),
        num_counted=total,
    )


def _rate(values: np.ndarray, shared: Shared) -> float:
    sums = stats.cluster_sums((values, shared.denominator), shared.clusters)
    return float(sums[0].sum() / sums[1].sum())


def sign_flips(ready: Ready) -> float:
    """p of the point alone, from sums over shared targets: its documents could as well have had the other sign."""
    shared = ready.targets
    assert shared is not None
    return stats.sign_flip_test(shared.a - shared.b, clusters=shared.clusters)


def number_of(metric: Metric) -> Callable[[float], float]:
    """How a rate, or a difference of rates, becomes what is printed."""
    if metric.statistic == "exp_ratio":
        return lambda rate: stats.ratio_of(rate * metric.scale)
    return lambda rate: rate * metric.scale


def _effect_of_highest(metric: Metric, shared: Shared) -> Effect:
    """The highest of both over the same targets; a declared count is exact, and anything else has no interval."""
    value_a, value_b = (float(values.max()) * metric.scale for values in (shared.a, shared.b))
    method, reason = (EXACT, None) if metric.statistic == "count" else ("none", "a highest value has no interval")
    made = Estimate(value=_over(value_a, value_b), method=method, num_clusters=len(shared.a), reason=reason)
    return Effect(kind=RATIO, estimate=made, value_a=value_a, value_b=value_b, num_pairs=len(shared.a), p=None)


def _over(a: float, b: float) -> float:
    """a / b, whose reciprocal is b / a bit for bit."""
    return a / b if a >= b else 1 / (b / a)


def _effect_of_rounds(ready: Ready, *, level: float) -> Effect:
    """The ratio of the geometric means over shared rounds, which is the geometric mean of the ratios."""
    a, b = ready.rounds
    if ready.metric.statistic == "count":
        value_a, value_b, p = max(a), max(b), None
        made = Estimate(value=_over(value_a, value_b), method=EXACT, num_clusters=len(a))
    else:
        value_a, value_b = (stats.estimate_rounds(values).value for values in (a, b))
        logs = ready.logs()
        made, p = stats.estimate_logs(logs, level=level).map(stats.ratio_of), stats.log_test(logs)
    return Effect(kind=RATIO, estimate=made, value_a=value_a, value_b=value_b, num_pairs=len(a), p=p)


def shown(effect: Effect) -> int:
    """-1 or 1 where a is shown to be less or more than b, 0 where nothing is shown.

    A difference is shown when its interval leaves out "none" and its joint p is below 0.05; a count is exact.
    """
    none, made = (1.0 if effect.kind == RATIO else 0.0), effect.estimate
    low, high = (made.value, made.value) if made.method == EXACT else (made.low, made.high)
    if low is None or high is None or low <= none <= high:
        return 0
    if effect.joint_p is not None and not effect.joint_p < 1 - stats.LEVEL:
        return 0
    return -1 if high < none else 1


def verdict_of(metric: Metric, effect: Effect) -> str:
    """Who is better, if a difference is shown and large enough to matter."""
    made, way = effect.estimate, shown(effect)
    if made.method != EXACT and made.low is None:
        return NOT_JUDGED
    if way == 0:
        return NOT_SHOWN
    if made.method == EXACT:
        values = abs(effect.value_a), abs(effect.value_b)
        size = max(values) / min(values) - 1
    else:
        size = max(made.value, 1 / made.value) - 1 if effect.kind == RATIO else abs(made.value)
    if size < metric.smallest_effect:
        return TOO_SMALL
    return A_BETTER if (way < 0) == (metric.better == "lower") else B_BETTER


def least_to_be_shown(effect: Effect, *, level: float) -> float | None:
    """The smallest difference that an interval as wide would show four times in five; None without an interval."""
    made = effect.estimate
    if made.low is None or made.high is None:
        return None
    if effect.kind == RATIO:
        return math.exp(stats.detectable(math.log(made.high / made.low) / 2, level=level))
    return stats.detectable((made.high - made.low) / 2, level=level)
