"""How a cost grows with the context: fits over contexts, one for each round, and their mean over rounds. Torch-free.

    slope        least squares of log(cost) on log(context): 1 is linear, 2 quadratic, 0 flat
    curvature    c in cost = a + b T + c T^2, residuals divided by T (weights 1/T): above 0 the cost is not linear

Rounds are independent processes, so the spread of a coefficient over rounds is its noise; that the curve may be of
another form is not in the interval. Letters: R rounds, T contexts.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ttbench.report.statistics.stats import LEVEL, MIN_ROUNDS, Estimate, counted, too_few

MIN_SLOPE_CONTEXTS = 2
MIN_CURVATURE_CONTEXTS = 2


def slopes(contexts: ArrayLike, costs: ArrayLike) -> np.ndarray:
    """Slope of log(cost) on log(context) in each round, [R].

    Args:
        contexts: [T], positive and not all equal.
        costs: [R, T], positive.

    Raises ValueError for fewer than two contexts, and for a cost that is not positive.
    """
    x, y = np.asarray(contexts, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if len(np.unique(x)) < MIN_SLOPE_CONTEXTS or x.min() <= 0 or y.min() <= 0:
        raise ValueError("a slope needs two contexts or more, and positive costs")
    away = np.log(x) - np.log(x).mean()
    return np.log(y) @ away / (away @ away)


def curvatures(contexts: ArrayLike, costs: ArrayLike) -> np.ndarray:
    """The coefficient c of T^2 in each round, [R], in the unit of the cost per token squared.

    With two contexts, a = 0 is taken, which makes c smaller than it is wherever a is not negative: a cost for each
    call counts against c. So a c above 0 is shown by two contexts already, and one below it is not.

    Args and raises as `slopes`.
    """
    x, y = np.asarray(contexts, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if len(np.unique(x)) < MIN_CURVATURE_CONTEXTS or x.min() <= 0 or y.min() <= 0:
        raise ValueError("a curvature needs two contexts or more, and positive costs")
    # cost / T = a / T + b + c T; scaled, so that the columns are of one size
    unit = x.max()
    columns = [np.ones_like(x), x / unit] + ([unit / x] if len(np.unique(x)) > MIN_CURVATURE_CONTEXTS else [])
    coefficients, *_ = np.linalg.lstsq(np.stack(columns, axis=1), (y / x).T, rcond=None)
    return coefficients[1] / unit


def mean_of_rounds(values: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Mean of one number for each round, of either sign, with Student's interval.

    Raises ValueError when there is no value.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0:
        raise ValueError("a mean needs one value at least")
    value, num_rounds = float(x.mean()), len(x)
    if num_rounds < MIN_ROUNDS:
        return Estimate(value=value, num_clusters=num_rounds, reason=too_few(num_rounds, "round", MIN_ROUNDS))
    if np.ptp(x) <= 1e-12 * np.abs(x).max():
        reason = f"equal in all of {counted(num_rounds, 'round')}, which shows no spread"
        return Estimate(value=value, num_clusters=num_rounds, reason=reason)
    half = float(special.stdtrit(num_rounds - 1, (1 + level) / 2)) * x.std(ddof=1) / math.sqrt(num_rounds)
    return Estimate(value=value, low=value - half, high=value + half, method="t", num_clusters=num_rounds)
