"""The interval of a ratio of sums over clusters, for even, skewed and heavy-tailed clusters alike. Torch-free.

Two intervals are made, and what is given is the smallest that holds both:

    sign flips    every rate at which the clusters' residuals could as well have had other signs: a permutation test,
                  inverted. Exact for symmetric residuals, heavy tails included; too narrow for skewed ones.
    bootstrap t   equal-tailed studentised bootstrap (Efron 1981; Hall 1988). Right for skewed clusters in the long
                  run, too narrow for heavy tails. Few clusters show too little of a long tail; so where one tail is
                  longer than the other, its end is moved towards the quantile at G / (G + LONG_TAIL) of its share,
                  all the way where it is twice as long.

Either alone fails some kind of documents; `make calibration` draws all of them and writes how often the two together
hold the truth (results/calibration). LONG_TAIL was chosen there, from normal, log-normal and t-distributed documents
at 12 to 60 clusters; it vanishes as clusters grow many.

Letters: S data sets at once, G clusters of each. All generators are local and seeded.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from numpy.typing import NDArray

METHOD = "sign flips and bootstrap t"
DRAWS = 9_999  # bootstrap resamples
FLIPS = 9_999  # random sign patterns, when not all can be tried
MOST_EXACT = 16  # clusters: up to here all sign patterns are tried
LONG_TAIL = 60  # clusters

Floats = NDArray[np.float64]


def ratio_intervals(a: Floats, b: Floats, *, seed: int, level: float, draws: int = DRAWS) -> tuple[Floats, Floats]:
    """Both ends of the interval of sum(a) / sum(b) for each data set, [S] each; infinite where nothing bounds it.

    Args:
        a: [S, G] sums over each cluster.
        b: [S, G], positive.
        seed: of resamples and random signs, which the data sets share.
        level: coverage asked for.
        draws: bootstrap resamples.
    """
    flips = sign_flip_interval(a, b, seed=seed, level=level)
    return hull(flips, bootstrap_t(a, b, seed=seed, level=level, draws=draws))


def hull(one: tuple[Floats, Floats], two: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """The smallest intervals that hold both of each data set."""
    return np.minimum(one[0], two[0]), np.maximum(one[1], two[1])


def bootstrap_t(a: Floats, b: Floats, *, seed: int, level: float, draws: int = DRAWS) -> tuple[Floats, Floats]:
    """Equal-tailed studentised bootstrap over clusters, its longer tail stretched; arguments as `ratio_intervals`.

    Each resample is a vector of counts, so its ratio and its linearised standard error are five dot products.
    """
    num_clusters = a.shape[1]
    value = a.sum(1) / b.sum(1)
    # a long document pulls the ratio towards itself, so its residual is told too small (MacKinnon and White 1985, HC2)
    slack = np.maximum(1 - b / b.sum(1, keepdims=True), 1e-9)
    error = np.sqrt(np.sum((a - value[:, None] * b) ** 2 / slack, 1)) / b.sum(1)
    counts = resamples(num_clusters, seed=seed, draws=draws)
    studentised = deviations(a, b, counts, num=np.full(len(a), num_clusters), error=error)
    tail = (1 - level) / 2
    near, far = (tail_rank(share, draws) for share in (tail, tail * num_clusters / (num_clusters + LONG_TAIL)))
    places = [far - 1, near - 1, draws - near, draws - far]
    far_below, below, above, far_above = np.partition(studentised, places, axis=1)[:, places].T
    lowest, highest = _stretch(below, far_below, above), -_stretch(-above, -far_above, -below)
    even = error <= 1e-12 * np.abs(a).sum(1) / b.sum(1)
    low, high = (value - np.where(even, 0, error * np.where(even, 0, end)) for end in (highest, lowest))
    return low, high


def deviations(a: Floats, b: Floats, counts: Floats, *, num: np.ndarray, error: Floats) -> Floats:
    """How many of its own standard errors the ratio of each resample lies from the estimate, [S, draws].

    Args:
        a, b: [S, G] sums over each cluster; 0 both where a data set does not have the cluster.
        counts: [draws, G] how often each resample takes each cluster.
        num: [S] clusters of each data set.
        error: [S] standard error of each estimate.

    A resample of equal clusters, or of none, has no spread: it lies infinitely far off, on its side.
    """
    value = a.sum(1) / b.sum(1)
    # [S, draws] each
    a_sum, b_sum, aa, ab, bb = (column @ counts.T for column in (a, b, a * a, a * b, b * b))
    b_sum = np.where(b_sum > 0, b_sum, np.inf)
    ratios = a_sum / b_sum
    variances = np.maximum((num / (num - 1))[:, None] * (aa - 2 * ratios * ab + ratios**2 * bb), 0)
    errors, away = np.sqrt(variances) / b_sum, ratios - value[:, None]
    flat = errors <= 1e-6 * error[:, None]
    return np.where(flat, np.copysign(np.inf, away), away / np.where(flat, 1, errors))


def _stretch(end: Floats, far: Floats, other: Floats) -> Floats:
    """The lower end, moved towards `far` by as much as its tail is longer than that of the `other` end."""
    with np.errstate(invalid="ignore"):
        longer = 1 + np.minimum(other, -end) / np.minimum(end, -1e-9)
    # two endless tails are alike
    skew = np.nan_to_num(2 * np.clip(longer, 0, 0.5))
    finite = np.isfinite(far)
    moved = np.where(finite, end, 0) + skew * np.where(finite, far - np.where(finite, end, 0), 0)
    return np.where(skew > 0, np.where(finite, moved, far), end)


def tail_rank(tail: float, draws: int) -> int:
    """Which of the sorted resamples bounds a tail, counted from 1; 1 at least."""
    return max(math.floor((draws + 1) * tail + 1e-9), 1)


def sign_flip_interval(a: Floats, b: Floats, *, seed: int, level: float) -> tuple[Floats, Floats]:
    """Every rate r that a two-sided sign-flip test of the residuals a - r b does not reject; as `ratio_intervals`.

    For one pattern, |sum(residuals)| <= |sum(signs x residuals)| holds exactly for the r between the ratio of the
    clusters with sign + and the ratio of those with sign -. So the p of a rate above the estimate is the share of
    patterns whose higher ratio reaches it, and an end of the interval is an order statistic.
    """
    signs = sign_patterns(a.shape[1], seed=seed)
    a_sum, b_sum = a.sum(1, keepdims=True), b.sum(1, keepdims=True)
    a_signed, b_signed = a @ signs.T, b @ signs.T  # [S, patterns]
    kept, flipped = b_sum + b_signed, b_sum - b_signed
    # with all signs alike there is no other side: the pattern reaches any rate
    alone = np.minimum(kept, flipped) <= 1e-9 * b_sum
    one, two = ((a_sum + way * a_signed) / np.where(alone, 1, part) for way, part in ((1, kept), (-1, flipped)))
    higher, lower = np.where(alone, np.inf, np.maximum(one, two)), np.where(alone, -np.inf, np.minimum(one, two))
    rank = math.floor((1 - level) * len(signs) + 1e-9)
    high = -np.partition(-higher, rank, axis=1)[:, rank]
    low = np.partition(lower, rank, axis=1)[:, rank]
    return low, high


@functools.lru_cache(maxsize=4)
def resamples(num_clusters: int, *, seed: int, draws: int) -> Floats:
    """How often each resample takes each cluster, [draws, G]; shared by the numbers of a table, so read-only."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=draws).astype(np.float64)
    counts.flags.writeable = False
    return counts


def num_patterns(num_clusters: int) -> int:
    """How many sign patterns are tried; no p is smaller than one of them."""
    return 2 ** (num_clusters - 1) if num_clusters <= MOST_EXACT else FLIPS + 1


@functools.lru_cache(maxsize=4)
def sign_patterns(num_clusters: int, *, seed: int) -> Floats:
    """Signs, [patterns, G], the observed ones among them: all (of two mirrored ones, one) or random; read-only."""
    if num_clusters <= MOST_EXACT:
        signs = np.array([(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=num_clusters - 1)])
    else:
        drawn = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(FLIPS, num_clusters))
        signs = np.concatenate([np.ones((1, num_clusters)), drawn])
    signs.flags.writeable = False
    return signs


def sign_flip_test(differences: Floats, *, seed: int = 0) -> float:
    """Two-sided p of "each cluster's difference, [G], could as well have had the other sign", for their sum."""
    d = differences[differences != 0]
    if len(d) == 0:
        return 1.0
    return float(np.mean(np.abs(sign_patterns(len(d), seed=seed) @ d) >= abs(d.sum()) * (1 - 1e-12)))
