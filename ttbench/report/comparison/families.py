"""Comparisons judged together. A family is all cells of one task and metric in a table: pairs, contexts, settings.

                              interval                                      joint p
    documents, 20 and more    bootstrap of the maximum                      sign flips of the maximum (max-t)
    documents, 10 to 19       each cell's own, at the level of Holm's step  Holm, over sign flips of each cell
    trials (proportions)      Newcombe, Bonferroni                          sign flips of the maximum (max-t)
    rounds                    Student's t, at the level of Holm's step      Holm, over Student's t of each cell

A difference is shown where the interval leaves out "none" and the joint p is below 0.05. Shares of trials keep
Newcombe's interval, since a bootstrap of trials that all agree has no width. Counts are exact and belong to no family;
what has too few documents or rounds for an interval is not judged, and does not count among the family either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from ttbench.report.comparison.effects import Effect, Ready, effect_of, number_of, shown, sign_flips
from ttbench.report.statistics import joint, stats
from ttbench.report.summary import noun_of

MIN_BAND = 20  # documents: below, the bootstrap of the maximum is not trusted
ALPHA = 1 - stats.LEVEL


def judge(family: Sequence[Ready]) -> list[Effect]:
    """The effect of each cell of a family, in its order, with intervals and p that hold for all of them together.

    Args:
        family: cells of one metric; their documents may differ, see `ttbench.report.statistics.joint`.
    """
    able = [index for index, cell in enumerate(family) if _bears_an_interval(cell)]
    judged = dict(zip(able, _judged([family[index] for index in able]), strict=True))
    return [
        replace(judged[index], num_points=len(able)) if index in judged else effect_of(cell, level=stats.LEVEL)
        for index, cell in enumerate(family)
    ]


def _bears_an_interval(cell: Ready) -> bool:
    if cell.counted:
        return False
    if cell.targets is None:
        return stats.log_test(cell.logs()) is not None
    proportion = cell.metric.statistic == "proportion"
    return len(cell.documents()) >= (stats.MIN_PROPORTION_CLUSTERS if proportion else stats.MIN_CLUSTERS)


def _judged(cells: Sequence[Ready]) -> list[Effect]:
    if not cells:
        return []
    if cells[0].targets is None:
        return _step_down(cells, [stats.log_test(cell.logs()) for cell in cells])
    documents = [cell.documents() for cell in cells]
    differences, denominators, seed = joint.union(documents)
    if cells[0].metric.statistic == "proportion":
        level, p = stats.family_level(len(cells)), joint.max_t(differences, seed=seed)
        return [
            replace(effect_of(cell, level=level), joint_p=float(own), level=level)
            for cell, own in zip(cells, p, strict=True)
        ]
    if min(map(len, documents)) < MIN_BAND:
        return _step_down(cells, [sign_flips(cell) for cell in cells])
    p = joint.max_t(differences, seed=seed)
    low, high, width = joint.band(differences, denominators, seed=seed, level=stats.LEVEL)
    # that of a normal interval as wide in standard errors
    level = float(1 - 2 * special.ndtr(-width))
    made = []
    for index, cell in enumerate(cells):
        effect, number = effect_of(cell, level=None), number_of(cell.metric)
        ends = float(low[index]), float(high[index])
        if all(map(math.isfinite, ends)):
            estimate = replace(effect.estimate, low=number(ends[0]), high=number(ends[1]), method=joint.BAND)
        else:
            few = stats.counted(len(documents[index]), noun_of(cell.metric))
            estimate = replace(effect.estimate, reason=f"too few of {few} differ to bound the rest")
        made.append(replace(effect, estimate=estimate, joint_p=float(p[index]), level=level))
    return made


def _step_down(cells: Sequence[Ready], p: Sequence[float | None]) -> list[Effect]:
    """Holm's steps, with intervals: the cell of the smallest p is judged among all, the next among one less, and so on.

    A cell that is not shown makes nothing easier for those behind it. The first of the truly equal cells to pass is
    judged at a level that is split among all equal ones, whatever the order, which bounds how often any of them passes.
    """
    known = [1.0 if own is None else own for own in p]
    adjusted = joint.holm(known)
    # equal p are told apart by content alone, so that neither order nor sides matter
    order = sorted(range(len(cells)), key=lambda index: (known[index], _size(cells[index])))
    made: dict[int, Effect] = {}
    left = len(cells)
    for index in order:
        level = 1 - ALPHA / left
        made[index] = replace(effect_of(cells[index], level=level), joint_p=float(adjusted[index]), level=level)
        left -= 1 if shown(made[index]) and left > 1 else 0
    return [made[index] for index in range(len(cells))]


def _size(cell: Ready) -> tuple[float, ...]:
    """Something of a cell that is the same both ways round."""
    values = cell.logs() if cell.targets is None else cell.targets.a - cell.targets.b
    return tuple(np.abs(values).tolist())
