"""Comparisons judged together. A family is all cells of one task and metric in a table: pairs, contexts, settings.

                              interval                                      joint p
    documents, 20 and more    bootstrap of the maximum                      sign flips of the maximum (max-t)
    documents, 10 to 19       each cell's own, at the level of Holm's step  Holm, over sign flips of each cell
    trials (proportions)      Newcombe, Bonferroni                          sign flips of the maximum (max-t)
    rounds                    Student's t, at the level of Holm's step      Holm, over Student's t of each cell

A difference is shown where the interval leaves out "none" and the joint p is below 0.05. Shares of trials keep
Newcombe's interval, since a bootstrap of trials that all agree has no width. Counts are exact and belong to no family;
what has too few documents, trials or rounds is not judged, and does not count among the family either. Nor does what
differs in too few documents: a resample without these has no spread, and the widest of a family decides for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ttbench.report.comparison.effects import Effect, Ready, effect_of, shown, with_ends
from ttbench.report.statistics import joint, stats
from ttbench.report.summary import noun_of


def judge(family: Sequence[Ready]) -> list[Effect]:
    """The effect of each cell of a family, in its order, with intervals and p that hold for all of them together.

    Args:
        family: cells of one metric; their documents may differ, see `ttbench.report.statistics.joint`.
    """
    alone = [_alone(cell) for cell in family]
    able = [cell for cell, effect in zip(family, alone, strict=True) if effect is None]
    judged = iter(_judged(able))
    return [replace(next(judged), num_points=len(able)) if effect is None else effect for effect in alone]


def _alone(cell: Ready) -> Effect | None:
    """The effect of a cell that is exact or bears no interval, with the reason; None: it is judged with the others."""
    if cell.counted or (cell.targets is None and stats.log_test(cell.logs()) is None):
        return effect_of(cell, level=stats.LEVEL)
    reason = lacks(cell)
    if reason is None:
        return None
    effect = effect_of(cell, level=None)
    return replace(effect, estimate=replace(effect.estimate, reason=reason))


def lacks(cell: Ready) -> str | None:
    """What the documents or trials of a cell lack for an interval; None: nothing, or it is made of rounds or counts."""
    if cell.targets is None or cell.counted:
        return None
    documents, noun = cell.documents(), noun_of(cell.metric)
    counted = stats.counted(len(documents), noun)
    if cell.metric.statistic == "proportion":
        few = len(documents) < stats.MIN_COMPARED_PROPORTION
        return f"{counted}; a comparison needs {stats.MIN_COMPARED_PROPORTION}" if few else None
    if len(documents) < stats.MIN_CLUSTERS:
        return stats.too_few(len(documents), noun, stats.MIN_CLUSTERS)
    num_unlike = sum(difference != 0 for difference, _ in documents.values())
    # where none does, the interval is 0 to 0, and widens nothing
    few = 0 < num_unlike < stats.MIN_CLUSTERS
    return f"{num_unlike} of {counted} differ; an interval needs {stats.MIN_CLUSTERS} that do" if few else None


def _judged(cells: Sequence[Ready]) -> list[Effect]:
    if not cells:
        return []
    if cells[0].targets is None:
        return _judged_rounds(cells)
    documents = [cell.documents() for cell in cells]
    differences, denominators, seed = joint.union(documents)
    if cells[0].metric.statistic == "proportion":
        level, p = stats.family_level(len(cells)), joint.max_t(differences, seed=seed)
        return [
            replace(effect_of(cell, level=level), joint_p=float(own), level=level)
            for cell, own in zip(cells, p, strict=True)
        ]
    found = joint.judge(differences, denominators, seed=seed, level=stats.LEVEL)
    made = []
    for index, cell in enumerate(cells):
        effect, level = effect_of(cell, level=None), float(found.level[index])
        ends = float(found.low[index]), float(found.high[index])
        if all(map(math.isfinite, ends)):
            estimate = with_ends(replace(effect.estimate, method=found.method), *ends, metric=cell.metric)
        else:
            reason = stats.unbounded(len(documents[index]), noun_of(cell.metric), level)
            estimate = replace(effect.estimate, reason=reason)
        made.append(replace(effect, estimate=estimate, joint_p=float(found.p[index]), level=level))
    return made


def _judged_rounds(cells: Sequence[Ready]) -> list[Effect]:
    """Holm over rounds, with each interval at the level of its step."""
    made: dict[int, Effect] = {}
    known = [own for cell in cells if (own := stats.log_test(cell.logs())) is not None]
    assert len(known) == len(cells)
    adjusted = joint.holm(known)

    def is_shown(index: int, level: float) -> bool:
        effect = effect_of(cells[index], level=level)
        made[index] = replace(effect, joint_p=float(adjusted[index]), level=level)
        return shown(made[index]) != 0

    joint.steps(known, [tuple(np.abs(cell.logs()).tolist()) for cell in cells], is_shown, level=stats.LEVEL)
    return [made[index] for index in range(len(cells))]
