"""The statistics of comparison: intervals and tests in which the document, not the token, is the unit. Torch-free.

Tokens of one document resemble each other, trials in one haystack share its text, repeats in one process share its
memory. So every number here is made from *clusters* (documents, haystacks, processes), and an interval never shrinks
because a cluster was looked at twice.

    ratio of sums      10 clusters and more    inverted sign flips and studentised bootstrap (`clusters.py`)
    proportion         5 clusters and more     Wilson (1927), on the effective number of trials
    rounds             3 rounds and more       geometric mean, Student's t on the logarithms
    paired a - b       the ratio of sums of the differences; Newcombe's (1998) interval for proportions;
                       of rounds the ratio a / b of each

With fewer there is none, and the estimate says why. How often each holds the truth is in results/calibration, written
by `make calibration`. All generators are local and seeded.
Letters: G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

# scipy.stats takes half a second of every command to import, and asks these functions itself
from scipy import special

from ttbench.report.statistics import clusters as clustered
from ttbench.report.statistics.clusters import Floats

LEVEL = 0.95  # of every interval, unless asked otherwise
MIN_CLUSTERS = 10  # below: no interval of a ratio
MIN_PROPORTION_CLUSTERS = 5
MIN_COMPARED_PROPORTION = 6  # clusters: with five no sign pattern has p below 0.05
MIN_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number, its interval, and how it was made; `low` and `high` are None together, and then `reason` says why."""

    value: float
    low: float | None = None
    high: float | None = None
    method: str = "none"
    num_clusters: int = 0  # documents, haystacks or rounds: the independent units
    reason: str | None = None

    def map(self, function: Callable[[float], float]) -> Estimate:
        """The same estimate on another scale, by an increasing function."""
        low, high = (None if x is None else float(function(x)) for x in (self.low, self.high))
        return replace(self, value=float(function(self.value)), low=low, high=high)


def counted(number: int, noun: str) -> str:
    """`1 round`, `3 rounds`, `12,288 bytes` (whose noun has no other form)."""
    return f"{number:,} {noun}{'' if number == 1 or noun.endswith('s') else 's'}"


def too_few(number: int, noun: str, least: int) -> str:
    """Why there is no interval."""
    return f"{counted(number, noun)}; an interval needs {least}"


def family_level(num_points: int, *, level: float = LEVEL) -> float:
    """Level of each interval at which all of a family hold together at `level` (Bonferroni)."""
    return 1 - (1 - level) / max(num_points, 1)


def cluster_sums(values: Sequence[ArrayLike], clusters: ArrayLike | None) -> list[Floats]:
    """Sum each column of `values` (each [N]) over equal labels: one array [G] per column, in order of the labels.

    Without clusters every observation is its own.
    """
    columns = [np.asarray(column, dtype=np.float64) for column in values]
    if clusters is None:
        return columns
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    return [np.bincount(index.ravel(), weights=column).astype(np.float64) for column in columns]


# Ratios of sums


def estimate_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    level: float = LEVEL,
    noun: str = "document",
) -> Estimate:
    """sum(numerator) / sum(denominator), with an interval over clusters.

    Args:
        numerator, denominator: [N], such as nats and bytes of each window; denominators are not negative.
        clusters: [N] labels; equal labels are not independent. None: each observation stands for itself.
        seed: of the resamples.
        level: coverage asked of the interval.
        noun: what a cluster is, for the reason.

    Raises:
        ValueError: the denominators sum to zero or less.
    """
    a, b = cluster_sums((numerator, denominator), clusters)
    if b.sum() <= 0:
        raise ValueError(f"the denominators must have a positive sum; got {b.sum()}")
    made = Estimate(value=float(a.sum() / b.sum()), num_clusters=len(a))
    # a cluster in which nothing was counted says nothing
    a, b = a[b > 0], b[b > 0]
    if len(a) < MIN_CLUSTERS:
        return replace(made, num_clusters=len(a), reason=too_few(len(a), noun, MIN_CLUSTERS))
    if not np.isfinite(a).all():
        return replace(made, num_clusters=len(a), reason=f"not all {noun}s have a finite number")
    low, high = (float(end[0]) for end in clustered.ratio_intervals(a[None], b[None], seed=seed, level=level))
    if math.isinf(low) or math.isinf(high):
        return replace(made, num_clusters=len(a), reason=unbounded(len(a), noun, level))
    return replace(made, low=low, high=high, method=clustered.METHOD, num_clusters=len(a))


def unbounded(num_clusters: int, noun: str, level: float) -> str:
    """Why as many clusters as an interval needs bound none."""
    if (1 - level) * clustered.num_patterns(num_clusters) < 1:
        return f"{counted(num_clusters, noun)} cannot bear {100 * level:.5g}%, which so many points at once ask for"
    return f"too few of {counted(num_clusters, noun)} differ to bound the rest"


# Proportions


def wilson(successes: float, num_trials: float, *, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion; both counts may be fractional (effective trials)."""
    z = float(special.ndtri((1 + level) / 2))
    share = successes / num_trials
    centre = share + z * z / (2 * num_trials)
    spread = z * math.sqrt(max(share * (1 - share), 0) / num_trials + z * z / (4 * num_trials**2))
    scale = 1 + z * z / num_trials
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def effective_trials(successes: ArrayLike, trials: ArrayLike) -> float:
    """Trials that would tell as much if they were independent, from sums by cluster, [G] each.

    The design effect is the linearised variance over clusters divided by that of independent trials. Half a cluster
    of nothing but successes and half a cluster of nothing but failures are added before it is taken: near 0 and 1 the
    data cannot show how alike the trials of a cluster are, and then each cluster counts as one trial.
    """
    y, m = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    size = m.mean()
    weight = np.r_[np.ones(len(y)), 0.5, 0.5]
    y, m, num_trials = np.r_[y, size, 0.0], np.r_[m, size, size], m.sum()
    total = np.sum(weight * m)
    share = np.sum(weight * y) / total
    design_effect = np.sum(weight * (y - share * m) ** 2) / (total * share * (1 - share))
    return float(num_trials / max(design_effect, 1.0))


def estimate_proportion(
    successes: ArrayLike,
    trials: ArrayLike | None = None,
    *,
    clusters: ArrayLike | None = None,
    level: float = LEVEL,
    noun: str = "haystack",
) -> Estimate:
    """sum(successes) / sum(trials) with Wilson's interval, on the effective number of trials when they are clustered.

    Args:
        successes: [N], each between 0 and its trials; fractions allowed (a tie of k scores 1/k).
        trials: [N]; None: one each.
        clusters: [N] labels; equal labels are not independent. None: each observation stands for itself.
        level: coverage asked of the interval.
        noun: what a cluster is, for the reason.

    Raises:
        ValueError: no trials, or successes outside 0 .. trials.
    """
    y = np.asarray(successes, dtype=np.float64)
    m = np.ones_like(y) if trials is None else np.asarray(trials, dtype=np.float64)
    if m.sum() <= 0 or np.any(y < 0) or np.any(y > m * (1 + 1e-12)):
        raise ValueError("successes must lie between 0 and their trials, and there must be a trial")
    y, m = cluster_sums((y, m), clusters)
    value, num_clusters = float(y.sum() / m.sum()), len(y)
    if num_clusters < MIN_PROPORTION_CLUSTERS:
        reason = too_few(num_clusters, noun, MIN_PROPORTION_CLUSTERS)
        return Estimate(value=value, num_clusters=num_clusters, reason=reason)
    if clusters is None or m.max() <= 1:
        low, high = wilson(y.sum(), m.sum(), level=level)
        return Estimate(value=value, low=low, high=high, method="Wilson", num_clusters=num_clusters)
    num_trials = effective_trials(y, m)
    low, high = wilson(value * num_trials, num_trials, level=level)
    return Estimate(value=value, low=low, high=high, method="clustered Wilson", num_clusters=num_clusters)


# Rounds


def estimate_rounds(values: ArrayLike, *, level: float = LEVEL, noun: str = "round") -> Estimate:
    """Geometric mean of independent positive values, one for each round, with Student's interval on the logarithms.

    The geometric mean of ratios is the ratio of geometric means (Fleming and Wallace 1986), so a comparison and the
    two numbers that it compares come from one estimator.

    Raises:
        ValueError: there is no value, or one is not positive.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0 or x.min() <= 0:
        raise ValueError(f"a geometric mean needs positive values, and one at least; got {x.tolist()}")
    return estimate_logs(np.log(x), level=level, noun=noun).map(ratio_of)


def estimate_logs(logs: ArrayLike, *, level: float = LEVEL, noun: str = "round") -> Estimate:
    """Mean of logarithms, one for each round, with Student's interval."""
    x = np.asarray(logs, dtype=np.float64)
    num_rounds = len(x)
    made = Estimate(value=float(x.mean()), num_clusters=num_rounds)
    if num_rounds < MIN_ROUNDS:
        return replace(made, reason=too_few(num_rounds, noun, MIN_ROUNDS))
    if np.ptp(x) <= 1e-12:
        # what happens to be equal is no count, and says nothing of how far the next round may lie off
        return replace(made, reason=f"equal in all of {counted(num_rounds, noun)}, which shows no spread")
    half = float(special.stdtrit(num_rounds - 1, (1 + level) / 2)) * float(x.std(ddof=1)) / math.sqrt(num_rounds)
    return replace(made, low=made.value - half, high=made.value + half, method="log t")


def exponential(log: float) -> float:
    """e to the power of `log`; infinite above 709, where no number is as large."""
    try:
        return math.exp(log)
    except OverflowError:
        return math.inf


def ratio_of(log: float) -> float:
    """The ratio whose logarithm this is; that of -log is its reciprocal bit for bit."""
    return exponential(log) if log >= 0 else 1 / exponential(-log)


def middle(values: ArrayLike) -> float:
    """Median; of an even number of positive values the geometric mean of the two in the middle.

    So the middle of reciprocals is the reciprocal of the middle: a time and a speed are one quantity.
    """
    x = np.asarray(values, dtype=np.float64)
    return float(np.exp(np.median(np.log(x)))) if x.min() > 0 else float(np.median(x))


def relative_iqr(values: ArrayLike) -> float:
    """Distance between the quartiles divided by the median: above 0.1 a timing is called noisy."""
    low, middle, high = np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75))
    return float((high - low) / middle) if middle > 0 else 0.0


def count_outliers(values: ArrayLike) -> tuple[int, int]:
    """Values beyond Tukey's inner (1.5) and outer (3) fences. They are counted; nothing ever drops them."""
    x = np.asarray(values, dtype=np.float64)
    low, high = np.quantile(x, (0.25, 0.75))
    beyond = np.maximum(low - x, x - high)
    return int(np.sum(beyond > 1.5 * (high - low))), int(np.sum(beyond > 3 * (high - low)))


# Paired comparisons


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    denominator: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    level: float = LEVEL,
    noun: str = "document",
) -> Estimate:
    """sum(a - b) / sum(denominator): how much more a has than b on the same targets. Arguments as `estimate_ratio`."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return estimate_ratio(difference, denominator, clusters=clusters, seed=seed, level=level, noun=noun)


def paired_proportion_difference(
    a: ArrayLike,
    b: ArrayLike,
    trials: ArrayLike | None = None,
    *,
    clusters: ArrayLike | None = None,
    level: float = LEVEL,
    noun: str = "haystack",
) -> Estimate:
    """Share of a less share of b over the same trials, with Newcombe's interval from the two Wilson intervals.

    Unlike an interval from the differences alone, it does not collapse to nothing when every pair agrees.
    """
    one = estimate_proportion(a, trials, clusters=clusters, level=level, noun=noun)
    two = estimate_proportion(b, trials, clusters=clusters, level=level, noun=noun)
    value = one.value - two.value
    if one.low is None or one.high is None or two.low is None or two.high is None:
        return replace(one, value=value)
    m = np.ones_like(np.asarray(a, dtype=np.float64)) if trials is None else trials
    y1, y2, m = cluster_sums((np.asarray(a), np.asarray(b), np.asarray(m)), clusters)
    residual1, residual2 = y1 - one.value * m, y2 - two.value * m
    scale = math.sqrt(float(residual1 @ residual1) * float(residual2 @ residual2))
    alike = float(residual1 @ residual2) / scale if scale > 0 else 0.0

    def spread(x: float, y: float) -> float:
        # in an order that swapping both leaves as it is
        return math.sqrt(max(x * x + y * y - 2 * alike * (x * y), 0.0))

    return Estimate(
        value=value,
        low=value - spread(one.value - one.low, two.high - two.value),
        high=value + spread(one.high - one.value, two.value - two.low),
        method="Newcombe, " + one.method,
        num_clusters=one.num_clusters,
    )


# Tests


def sign_flip_test(differences: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0) -> float:
    """Two-sided p of "each cluster's difference could as well have had the other sign", for the sum of differences.

    All sign patterns are tried up to 16 clusters; beyond, random ones with the observed one counted among them.
    """
    return clustered.sign_flip_test(cluster_sums((differences,), clusters)[0], seed=seed)


def log_test(logs: ArrayLike) -> float | None:
    """Two-sided p of Student's test that logarithms of ratios have mean 0; None where they have no interval."""
    x = np.asarray(logs, dtype=np.float64)
    if len(x) < MIN_ROUNDS or np.ptp(x) <= 1e-12:
        return None
    error = x.std(ddof=1) / math.sqrt(len(x))
    return float(2 * special.stdtr(len(x) - 1, -abs(x.mean()) / error))


def detectable(half_width: float, *, level: float = LEVEL, power: float = 0.8) -> float:
    """Smallest true difference that an interval of this half width would exclude 0 for, `power` of the time."""
    if half_width == 0.0:
        # whatever its level: without any spread no difference is too small to be seen
        return 0.0
    return half_width * (1 + float(special.ndtri(power) / special.ndtri((1 + level) / 2)))
