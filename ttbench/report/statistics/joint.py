"""Statistics of a family: many comparisons that are read together, such as all cells of one table. Torch-free.

    max-t        documents change their signs jointly in all cells; p of a cell is the share of sign patterns under
                 which some cell of the family lies as far from 0 as this one does (Westfall and Young 1993)
    band         documents are drawn again jointly for all cells; the intervals are as wide as the largest studentised
                 deviation of any cell asks for, each side by itself (equal-tailed bootstrap of the maximum)
    Holm         where the cells are few documents or rounds: the smallest p is multiplied by the number of cells, the
                 next by one less (Holm 1979)

Max-t is exact for symmetric differences, heavy tails included, and too bold for skewed ones; the band is right for
skewed ones in the long run. A verdict needs both; `make calibration` writes how often equal checkpoints get one.

Cells may rest on different documents. Everything here works on the union of the documents: where a cell does not have
one, its difference and its denominator are 0. Such a document adds nothing to the cell, whatever its sign and however
often it is drawn, so that each cell is judged by its own documents, and the cells that share some move together.

What is returned for a cell does not depend on the order of the cells or of the documents, and changes its sign, bit for
bit, when the cell's two sides are swapped. Letters: C cells, G documents of the family. All generators are seeded.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ttbench.report.statistics import clusters
from ttbench.report.statistics.clusters import DRAWS, Floats, deviations, resamples, sign_patterns, tail_rank

BAND = "bootstrap of the maximum"
MIN_BAND = 20  # documents: below, the bootstrap of the maximum is not trusted
CHUNK = 64  # cells that are resampled at once

Sums = Mapping[Any, tuple[float, float]]  # document -> sum of differences, sum of denominators


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Intervals and p of all cells of a family, [C] each; an end that nothing bounds is infinite."""

    low: Floats
    high: Floats
    p: Floats  # joint
    level: Floats  # of each interval alone; of a band that of a normal interval as wide in standard errors
    method: str


def judge(differences: Floats, denominators: Floats, *, seed: int, level: float) -> Judged:
    """Intervals of sum(differences) / sum(denominators) of all cells together, and their joint p.

    The band and max-t where every cell has at least MIN_BAND documents, else Holm's steps over each cell's own sign
    flips and interval (`clusters.ratio_intervals`). A difference is shown where the interval leaves out 0 and p is
    below 1 - level.

    Args:
        differences: [C, G] sums over each document, 0 where a cell does not have it; each cell has two at least.
        denominators: [C, G], positive where a cell has the document and 0 elsewhere.
        seed: of resamples and random signs.
        level: of all intervals together.
    """
    if np.sum(denominators > 0, 1).min() < MIN_BAND:
        return _step_down(differences, denominators, level=level)
    p = max_t(differences, seed=seed)
    low, high, width = band(differences, denominators, seed=seed, level=level)
    # where no cell has any spread there is nothing to be wide
    alone = np.full(len(p), 1 - 2 * special.ndtr(-width) if width > 0 else level)
    return Judged(low=low, high=high, p=p, level=alone, method=BAND)


def _step_down(differences: Floats, denominators: Floats, *, level: float) -> Judged:
    """Holm's steps with intervals, each cell on its own documents; see `steps`."""
    own = [(a[b > 0], b[b > 0]) for a, b in zip(differences, denominators, strict=True)]
    p = [clusters.sign_flip_test(a) for a, _ in own]
    low, high = np.empty(len(own)), np.empty(len(own))

    def is_shown(index: int, alone: float) -> bool:
        a, b = own[index]
        ends = clusters.ratio_intervals(a[None], b[None], seed=0, level=alone)
        low[index], high[index] = ends[0][0], ends[1][0]
        return not low[index] <= 0 <= high[index]

    sizes = [tuple(np.abs(a).tolist()) for a, _ in own]
    levels = steps(p, sizes, is_shown, level=level)
    return Judged(low=low, high=high, p=holm(p), level=levels, method=clusters.METHOD)


def steps(
    p: Sequence[float], sizes: Sequence[tuple[float, ...]], is_shown: Callable[[int, float], bool], *, level: float
) -> Floats:
    """Judge cells by their intervals in the order of their p: the first among all of them, and one less for each shown.

    The first of the truly equal cells to be shown was judged at a level that is split among all equal ones, whatever
    the order; this bounds how often any of them is (Holm's argument). So an interval that is printed leaves out "none"
    exactly where its cell passed, and the intervals of the cells that did not pass hold together.

    Args:
        p: of each cell alone.
        sizes: what tells cells of equal p apart, the same whichever side is a.
        is_shown: whether the interval of a cell, at a level, leaves out "none".
        level: of the family.

    Returns:
        The level at which each cell was judged, [C].
    """
    levels, left = np.empty(len(p)), len(p)
    for index in sorted(range(len(p)), key=lambda place: (p[place], sizes[place])):
        levels[index] = 1 - (1 - level) / left
        left -= 1 if is_shown(index, float(levels[index])) and left > 1 else 0
    return levels


def union(cells: Sequence[Sums]) -> tuple[Floats, Floats, int]:
    """Differences and denominators of each cell over the documents of all, [C, G] each, and a seed made from these."""
    labels = sorted({label for cell in cells for label in cell}, key=repr)
    place = {label: index for index, label in enumerate(labels)}
    sums = np.zeros((2, len(cells), len(labels)))
    for index, cell in enumerate(cells):
        for label, both in cell.items():
            sums[:, index, place[label]] = both
    return sums[0], sums[1], zlib.crc32(repr(labels).encode())


def max_t(differences: Floats, *, seed: int) -> Floats:
    """Joint two-sided p of each cell, [C], from sums of differences by document, [C, G], 0 where a cell has none.

    The statistic of a cell is |sum of differences| / root of the sum of their squares. It is bounded in the same way
    however many documents a cell has and however heavy their tails, so that no cell rules the others.
    """
    norm = np.sqrt(np.sum(differences**2, 1))
    p, live = np.ones(len(differences)), np.flatnonzero(norm > 0)
    if not len(live):
        return p
    side = _sides(differences[live])
    unit = differences[live] * (side / norm[live])[:, None]
    order = _order(unit)
    signs = sign_patterns(differences.shape[1], seed=seed)
    highest, observed = np.zeros(len(signs)), np.zeros(len(live))
    for chunk in _chunks(order):
        found = np.abs(unit[chunk] @ signs.T)
        np.maximum(highest, found.max(0), out=highest)
        observed[chunk] = found[:, 0]  # the first pattern leaves all signs as they are
    reached = np.sort(highest)
    p[live] = 1 - np.searchsorted(reached, observed * (1 - 1e-12), side="left") / len(signs)
    return p


def band(
    differences: Floats, denominators: Floats, *, seed: int, level: float, draws: int = DRAWS
) -> tuple[Floats, Floats, float]:
    """Ends of intervals that hold together at `level`, [C] each, and half the width of all in standard errors.

    Args:
        differences: [C, G] sums over each document, 0 where a cell does not have it.
        denominators: [C, G], positive where a cell has the document and 0 elsewhere.
        seed: of the resamples.
        level: coverage of all intervals together.
        draws: resamples.

    A cell whose documents all differ by the same share has an interval without width. Each cell is turned so that its
    estimate is positive before the largest deviation is taken, which makes the result independent of which side is a.
    """
    total = denominators.sum(1)
    side = _sides(differences)
    a = differences * side[:, None]
    value = a.sum(1) / total
    residual, count = a - value[:, None] * denominators, np.sum(denominators > 0, 1)
    # as `clusters.bootstrap_t`: a long document pulls the ratio towards itself
    slack = np.maximum(1 - denominators / total[:, None], 1e-9)
    error = np.sqrt(np.sum(residual**2 / slack, 1)) / total
    live = np.flatnonzero(error > 1e-12 * np.abs(a).sum(1) / total)
    if not len(live):
        return side * value, side * value, 0.0
    counts = resamples(differences.shape[1], seed=seed, draws=draws)
    highest, lowest = np.full(draws, -np.inf), np.full(draws, np.inf)
    for chunk in _chunks(live[_order(np.concatenate([a, denominators], 1)[live])]):
        found = deviations(a[chunk], denominators[chunk], counts, num=count[chunk], error=error[chunk])
        np.maximum(highest, found.max(0), out=highest)
        np.minimum(lowest, found.min(0), out=lowest)
    near = tail_rank((1 - level) / 2, draws)
    lower, upper = np.partition(lowest, near - 1)[near - 1], np.partition(highest, draws - near)[draws - near]
    spread = np.where(np.isin(np.arange(len(value)), live), error, 0)
    with np.errstate(invalid="ignore"):
        low, high = (np.where(spread > 0, value - spread * end, value) for end in (upper, lower))
    swapped = side < 0
    return np.where(swapped, -high, low), np.where(swapped, -low, high), float(upper - lower) / 2


def holm(p: ArrayLike) -> Floats:
    """Each p of a family adjusted by Holm's method, [C]: below 0.05 where the family as a whole errs in 5 of 100."""
    found = np.asarray(p, dtype=np.float64)
    order = np.argsort(found, kind="stable")
    adjusted = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    made = np.empty(len(found))
    made[order] = np.minimum(adjusted, 1)
    return made


def _sides(differences: Floats) -> Floats:
    """1 or -1 for each cell, [C]: the sign of its sum, or of its first document that is not 0 where the sum is."""
    sums = differences.sum(1)
    first = differences[np.arange(len(differences)), np.argmax(differences != 0, axis=1)]
    return np.where(np.where(sums == 0, first, sums) < 0, -1.0, 1.0)


def _order(cells: Floats) -> np.ndarray:
    """Places of the cells in an order that their content decides, so that arithmetic does not depend on theirs."""
    return np.array(sorted(range(len(cells)), key=lambda index: cells[index].tobytes()), dtype=int)


def _chunks(order: np.ndarray) -> Iterator[np.ndarray]:
    yield from (order[start : start + CHUNK] for start in range(0, len(order), CHUNK))
