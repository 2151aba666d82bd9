"""Whether times became slower by more than a share: Welch's test on logarithms, one-sided, corrected by Holm.

Two sessions on one machine differ by some per cent though nothing changed, which no number of rounds can see. So a time
is slower only if it is so by more than a share of its own, over all times at once, and again in fresh rounds.
How often unchanged code is called slower is in results/calibration/gate_times.csv (`ttbench.report.gate.simulation`).

Source: Welch, Biometrika 34 (1947) 28; Holm, Scandinavian Journal of Statistics 6 (1979) 65.
Letters: M times, R rounds.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from ttbench.report.statistics.clusters import Floats

MORE = 0.05  # share by which a time must be slower
LEVEL = 0.05  # of the tests of one gate together
MIN_ROUNDS = 10


def slower_p(baseline: Floats, candidate: Floats, *, more: float = MORE) -> Floats:
    """One-sided p of "the candidate is slower by no more than `more`", of geometric means.

    Args:
        baseline, candidate: [..., R] positive seconds of each round; R may differ, and is 2 at least.
        more: share, such as 0.05.

    Returns: [...]; 0 or 1 where neither side has any spread.
    """
    x, y = np.log(baseline), np.log(candidate)
    gap = y.mean(-1) - x.mean(-1) - math.log1p(more)
    parts = [side.var(-1, ddof=1) / side.shape[-1] for side in (x, y)]
    variance = parts[0] + parts[1]
    freedom = [part**2 / (side.shape[-1] - 1) for part, side in zip(parts, (x, y), strict=True)]
    still = variance <= 1e-24
    safe = np.where(still, 1.0, variance)
    degrees = safe**2 / np.where(still, 1.0, freedom[0] + freedom[1])
    p = special.stdtr(degrees, -gap / np.sqrt(safe))
    return np.where(still, np.where(gap > 0, 0.0, 1.0), p)


def holm(p: Floats) -> Floats:
    """p-values adjusted by Holm over the last axis, [..., M] each: at most `LEVEL` where shown."""
    number = p.shape[-1]
    order = np.argsort(p, axis=-1)
    sorted_p = np.take_along_axis(p, order, -1) * (number - np.arange(number))
    adjusted = np.minimum(np.maximum.accumulate(sorted_p, axis=-1), 1.0)
    found = np.empty_like(adjusted)
    np.put_along_axis(found, order, adjusted, -1)
    return found


def ratio_interval(baseline: Floats, candidate: Floats, *, level: float = 0.9) -> tuple[float, float, float]:
    """Candidate over baseline by geometric means, [R] each, and Welch's interval of this level."""
    x, y = np.log(baseline), np.log(candidate)
    gap = float(y.mean() - x.mean())
    parts = [float(side.var(ddof=1)) / len(side) for side in (x, y)]
    variance = parts[0] + parts[1]
    if variance <= 1e-24:
        return math.exp(gap), math.exp(gap), math.exp(gap)
    degrees = variance**2 / (parts[0] ** 2 / (len(x) - 1) + parts[1] ** 2 / (len(y) - 1))
    half = float(special.stdtrit(degrees, (1 + level) / 2)) * math.sqrt(variance)
    return math.exp(gap), math.exp(gap - half), math.exp(gap + half)
