"""The statistics of comparison: intervals and tests in which the document, not the token, is the unit. Torch-free.

Tokens of one document resemble each other, trials in one haystack share its text, repeats in one process share its
memory. So every number here is made from *clusters* (documents, haystacks, processes), and an interval never shrinks
because a cluster was looked at twice.

    ratio of sums      30 clusters and more    symmetric studentised bootstrap (Hall 1988)
                       10 to 29                jackknife with Student's t, degrees of freedom from unequal cluster sizes
                       fewer than 10           none, and the reason
    proportion         Wilson (1927); with clusters, on the effective number of trials
    median of rounds   6 rounds and more       interpolated order statistics (Hettmansperger and Sheather 1986)
                       3 to 5                  Student's t on the logarithms
    paired a - b       the ratio of sums of the differences; Newcombe's (1998) interval for proportions;
                       a sign-flip permutation test by cluster, and Holm's (1979) correction over a family

Chosen by simulated coverage (`python -m ttbench.report.coverage`): where documents differ in length, these hold the
truth in 0.94 to 0.96 of data sets, the percentile bootstrap in 0.88 to 0.93, BCa in 0.85 to 0.90.
Letters: G clusters. All generators are local and seeded.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

LEVEL = 0.95  # of every interval, unless asked otherwise
DRAWS = 4000  # bootstrap resamples
FLIPS = 10_000  # random sign flips, when not all of them can be tried
MIN_CLUSTERS = 10  # below: no interval of a ratio
MIN_BOOTSTRAP_CLUSTERS = 30
MIN_PROPORTION_CLUSTERS = 5
MIN_ROUNDS = 3  # below: no interval of a median
MIN_ORDER_ROUNDS = 6  # below: the range of all rounds covers the median less often than 95 times in 100

Floats = NDArray[np.float64]


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
    draws: int = DRAWS,
    noun: str = "documents",
) -> Estimate:
    """sum(numerator) / sum(denominator), with an interval over clusters.

    Args:
        numerator, denominator: [N], such as nats and bytes of each window.
        clusters: [N] labels; equal labels are not independent. None: each observation stands for itself.
        seed: of the bootstrap.
        level: coverage asked of the interval.
        draws: bootstrap resamples.
        noun: what the clusters are, for the reason.

    Raises:
        ValueError: the denominators sum to zero or less.
    """
    a, b = cluster_sums((numerator, denominator), clusters)
    if b.sum() <= 0:
        raise ValueError(f"the denominators must have a positive sum; got {b.sum()}")
    num_clusters, value = len(a), float(a.sum() / b.sum())
    if num_clusters < MIN_CLUSTERS:
        reason = f"{num_clusters} {noun}; an interval needs {MIN_CLUSTERS}"
        return Estimate(value=value, num_clusters=num_clusters, reason=reason)
    half, method = None, "bootstrap-t"
    if num_clusters >= MIN_BOOTSTRAP_CLUSTERS:
        half = _studentised_half_width(a, b, seed=seed, level=level, draws=draws)
    if half is None:
        half, method = jackknife_half_width(a, b, level=level), "jackknife t"
    return Estimate(value=value, low=value - half, high=value + half, method=method, num_clusters=num_clusters)


def jackknife_error(a: Floats, b: Floats) -> float:
    """Jackknife standard error of sum(a) / sum(b) over clusters, [G] each."""
    left_out = (a.sum() - a) / (b.sum() - b)
    return float(np.sqrt((len(a) - 1) / len(a) * np.sum((left_out - left_out.mean()) ** 2)))


def effective_clusters(b: Floats) -> float:
    """Kish's effective number of clusters: G when all have the same size, near 1 when one holds nearly everything."""
    return float(b.sum() ** 2 / np.sum(b * b))


def jackknife_half_width(a: Floats, b: Floats, *, level: float = LEVEL) -> float:
    """Half width of the jackknife interval; degrees of freedom: effective number of clusters less 1, at least 1."""
    freedom = max(effective_clusters(b) - 1, 1.0)
    return float(stats.t.ppf((1 + level) / 2, freedom)) * jackknife_error(a, b)


def _studentised_half_width(a: Floats, b: Floats, *, seed: int, level: float, draws: int) -> float | None:
    """Half width of the symmetric studentised bootstrap interval; None when too many resamples have no spread.

    Each resample is a vector of counts, so its ratio and its linearised standard error are five dot products.
    """
    num_clusters, value = len(a), a.sum() / b.sum()
    correction = num_clusters / (num_clusters - 1)
    error = math.sqrt(correction * np.sum((a - value * b) ** 2)) / b.sum()
    if error == 0:
        return 0.0
    counts = resamples(num_clusters, seed=seed, draws=draws)
    a_sum, b_sum, aa, ab, bb = (counts @ column for column in (a, b, a * a, a * b, b * b))
    usable = b_sum > 0
    ratios = np.divide(a_sum, b_sum, out=np.zeros_like(a_sum), where=usable)
    variances = np.maximum(correction * (aa - 2 * ratios * ab + ratios**2 * bb), 0)
    errors = np.sqrt(np.divide(variances, b_sum**2, out=np.zeros_like(a_sum), where=usable))
    usable &= errors > 1e-6 * error
    if np.mean(usable) < 0.99:
        return None
    studentised = np.full(draws, np.inf)
    studentised[usable] = np.abs(ratios[usable] - value) / errors[usable]
    return float(np.quantile(studentised, level, method="higher")) * error


@functools.lru_cache(maxsize=4)
def resamples(num_clusters: int, *, seed: int, draws: int) -> Floats:
    """How often each resample takes each cluster, [draws, G]; shared by the numbers of a table, so read-only."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=draws).astype(np.float64)
    counts.flags.writeable = False
    return counts


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
    noun: str = "haystacks",
) -> Estimate:
    """sum(successes) / sum(trials) with Wilson's interval, on the effective number of trials when they are clustered.

    Args:
        successes: [N], each between 0 and its trials; fractions allowed (a tie of k scores 1/k).
        trials: [N]; None: one each.
        clusters: [N] labels; equal labels are not independent. None: each observation stands for itself.
        level: coverage asked of the interval.
        noun: what the clusters are, for the reason.

    Raises:
        ValueError: no trials, or successes outside 0 .. trials.
    """
    y = np.asarray(successes, dtype=np.float64)
    m = np.ones_like(y) if trials is None else np.asarray(trials, dtype=np.float64)
    if m.sum() <= 0 or np.any(y < 0) or np.any(y > m * (1 + 1e-12)):
        raise ValueError("successes must lie between 0 and their trials, and there must be a trial")
    y, m = cluster_sums((y, m), clusters)
    value, num_clusters = float(y.sum() / m.sum()), len(y)
    if clusters is None or m.max() <= 1:
        low, high = wilson(y.sum(), m.sum(), level=level)
        return Estimate(value=value, low=low, high=high, method="Wilson", num_clusters=num_clusters)
    if num_clusters < MIN_PROPORTION_CLUSTERS:
        reason = f"{num_clusters} {noun}; an interval needs {MIN_PROPORTION_CLUSTERS}"
        return Estimate(value=value, num_clusters=num_clusters, reason=reason)
    num_trials = effective_trials(y, m)
    low, high = wilson(value * num_trials, num_trials, level=level)
    return Estimate(value=value, low=low, high=high, method="clustered Wilson", num_clusters=num_clusters)


# Timings


def estimate_median(values: ArrayLike, *, level: float = LEVEL, noun: str = "rounds") -> Estimate:
    """Median of independent values, one for each round, with an interval that does not assume normality if it can.

    Raises ValueError without values.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    if len(x) == 0:
        raise ValueError("a median needs at least one value")
    value, num_rounds = float(np.median(x)), len(x)
    if num_rounds < MIN_ROUNDS:
        reason = f"{num_rounds} {noun}; an interval needs {MIN_ROUNDS}"
        return Estimate(value=value, num_clusters=num_rounds, reason=reason)
    if num_rounds >= MIN_ORDER_ROUNDS:
        low, high = _order_statistic_interval(x, level=level)
        method = "order statistics"
    elif x[0] <= 0:
        return Estimate(value=value, num_clusters=num_rounds, reason="values must be positive for so few rounds")
    else:
        logs = np.log(x)
        half = float(stats.t.ppf((1 + level) / 2, num_rounds - 1)) * logs.std(ddof=1) / math.sqrt(num_rounds)
        low, high = math.exp(logs.mean() - half), math.exp(logs.mean() + half)
        method = "log t"
    return Estimate(value=value, low=low, high=high, method=method, num_clusters=num_rounds)


def _order_statistic_interval(x: Floats, *, level: float) -> tuple[float, float]:
    """Interpolate between the two pairs of order statistics whose coverage brackets `level`; x is sorted."""
    num = len(x)
    # coverage of [x_k, x_(n + 1 - k)] is 1 - 2 P(Binomial(n, 1/2) <= k - 1)
    coverage = 1 - 2 * stats.binom.cdf(np.arange(num // 2 + 1) - 1, num, 0.5)
    k = int(np.max(np.nonzero(coverage >= level)[0]))
    narrower = coverage[k + 1] if k + 1 <= num // 2 else 0.0
    excess = (coverage[k] - level) / (coverage[k] - narrower)
    share = (num - k) * excess / (k + (num - 2 * k) * excess)
    inner = min(k, num - 1)
    low = (1 - share) * x[k - 1] + share * x[inner]
    high = (1 - share) * x[num - k] + share * x[num - 1 - inner]
    return float(low), float(high)


def mad(values: ArrayLike) -> float:
    """Median absolute deviation from the median, not scaled."""
    x = np.asarray(values, dtype=np.float64)
    return float(np.median(np.abs(x - np.median(x))))


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
    noun: str = "documents",
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
    noun: str = "haystacks",
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
        return math.sqrt(max(x * x - 2 * alike * x * y + y * y, 0.0))

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

    All 2^G sign patterns are tried up to G = 13; beyond, FLIPS random ones with the observed one counted among them.
    """
    d = cluster_sums((differences,), clusters)[0]
    d = d[d != 0]
    if len(d) == 0:
        return 1.0
    observed = abs(d.sum()) * (1 - 1e-12)
    if len(d) <= 13:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(d))))
        return float(np.mean(np.abs(signs @ d) >= observed))
    return float((1 + np.sum(np.abs(_signs(len(d), seed=seed) @ d) >= observed)) / (1 + FLIPS))


@functools.lru_cache(maxsize=4)
def _signs(num: int, *, seed: int) -> Floats:
    """Random signs, [FLIPS, num]; read-only."""
    signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(FLIPS, num))
    signs.flags.writeable = False
    return signs


def log_ratio_test(ratios: ArrayLike) -> float | None:
    """Two-sided p of Student's test that the logarithms of the ratios have mean 0; None below three ratios."""
    logs = np.log(np.asarray(ratios, dtype=np.float64))
    if len(logs) < MIN_ROUNDS:
        return None
    error = logs.std(ddof=1) / math.sqrt(len(logs))
    if error == 0:
        return 1.0 if logs.mean() == 0 else 0.0
    return float(2 * stats.t.sf(abs(logs.mean()) / error, len(logs) - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p of one family, in the order given; None stays None and counts for nothing."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = highest
    return adjusted


def detectable(half_width: float, *, level: float = LEVEL, power: float = 0.8) -> float:
    """Smallest true difference that an interval of this half width would exclude 0 for, `power` of the time."""
    return half_width * (1 + float(special.ndtri(power) / special.ndtri((1 + level) / 2)))
