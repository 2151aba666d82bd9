"""How one number of a run is judged against the baseline's: exact counts, quality within a margin.

    counts     equal, to the last unit
    quality    the same weights in the same environment: equal to 1e-6 of the number, in either direction
               else: on the targets of the baseline, worse by no more than a margin

The margin is kept where the one-sided 95 % bound of the paired difference lies within it, or where no document alone is
worse by more: then no choice among these documents could be. Of others the second says little where they are few, and
its line tells how little: of n documents without one that is worse, up to 1 - 0.05^(1/n) of all may be (Hanley and
Lippman-Hand 1983, JAMA 249, 1743). What is not shown to be within the margin is red. Each number must pass alone, so
looking at more of them makes no false green likelier (Berger 1982, Technometrics 24, 295).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from ttbench.report import summary
from ttbench.report.comparison.pairing import Shared, pair
from ttbench.report.gate.lines import CHANGED, EQUAL, NOT_WITHIN, WITHIN, WORSE, GateLine
from ttbench.report.statistics import stats
from ttbench.report.statistics.stats import counted
from ttbench.report.summary import RowGroup
from ttbench.types import Metric, canonical_json

SAME = 1e-6  # of a number: what is nearer is equal
LEVEL = 0.9  # two-sided; its upper end is a one-sided bound at 95 %
# What an environment says of the code that is judged, not of what it ran on.
OF_THE_CODE = ("commit", "ttbench")


def environments(rows: pd.DataFrame) -> dict[str, str]:
    """What each environment of the rows ran on, without the code: by digest, JSON."""
    found = {name: json.loads(text) for name, text in rows.attrs.get("environments", {}).items()}
    return {
        name: canonical_json({key: value for key, value in known.items() if key not in OF_THE_CODE})
        for name, known in found.items()
    }


def ran_alike(baseline: RowGroup, candidate: RowGroup, known: Mapping[str, str]) -> bool:
    """Whether both were measured in one environment and with the same weights, config and tokenizer."""
    sides = [
        {known.get(str(name), str(name)) for name in group.rows.values("environment")}
        for group in (baseline, candidate)
    ]
    if sides[0] != sides[1] or len(sides[0]) != 1:
        return False
    contents = ("weights_digest", "config_digest", "tokenizer_digest")
    return all(set(baseline.rows.values(name)) == set(candidate.rows.values(name)) for name in contents)


def judge_count(line: GateLine, baseline: RowGroup, candidate: RowGroup) -> GateLine:
    """A count is what it was, or it has changed: a smaller one too is no longer the baseline's."""
    one, two = (summary.estimate(group.rows, group.metric).value for group in (baseline, candidate))
    same = one == two
    reason = None if same else f"{two - one:+,.6g}; a count is exact, so if this is meant the baseline must be renewed"
    worse_by = (two - one) * (-1 if baseline.metric.better == "higher" else 1)
    return replace(
        line, verdict=EQUAL if same else CHANGED, baseline=one, candidate=two, worse_by=worse_by, reason=reason
    )


def judge_quality(line: GateLine, baseline: RowGroup, candidate: RowGroup, *, margin: float, alike: bool) -> GateLine:
    """A number of quality: exact where both `ran_alike`, else paired, within `margin` of the metric's unit."""
    metric = baseline.metric
    one, two = (_value(group) for group in (baseline, candidate))
    line = replace(line, baseline=one, candidate=two, worse_by=_worse(metric, one, two))
    if metric.statistic not in ("ratio", "exp_ratio", "proportion"):
        return _unpaired(line, margin=margin, alike=alike)
    read = [float(group.rows.floats(metric.denominator).sum()) for group in (baseline, candidate)]
    if alike:
        if read[0] != read[1]:
            return replace(
                line, verdict=CHANGED, reason=f"{_read(metric, read[0])} in the baseline, here {read[1]:,.0f}"
            )
        return _exact(line, one, two)
    shared = pair(candidate, baseline)
    if shared is None or not math.isclose(float(shared.denominator.sum()), read[0], rel_tol=1e-9):
        common = 0.0 if shared is None else float(shared.denominator.sum())
        reason = f"{_read(metric, read[0])} in the baseline, of which the run has {common:,.0f}: other targets"
        return replace(line, verdict=CHANGED, reason=reason)
    return _paired(line, metric, shared, margin=margin)


def _value(group: RowGroup) -> float:
    """The number without its interval, which the difference has one of its own for."""
    metric, rows = group.metric, group.rows
    if metric.statistic not in ("ratio", "exp_ratio", "proportion"):
        return summary.estimate(rows, metric).value
    rate = float(rows.floats(metric.numerator).sum() / rows.floats(metric.denominator).sum()) * metric.scale
    return stats.exponential(rate) if metric.statistic == "exp_ratio" else rate


def _read(metric: Metric, number: float) -> str:
    return counted(round(number), metric.counts or metric.denominator or "sample")


def _worse(metric: Metric, one: float, two: float) -> float:
    """How much worse `two` is than `one`: a difference, or of perplexities a share."""
    sign = -1 if metric.better == "higher" else 1
    if one == two:
        return 0.0
    return (two / one) ** sign - 1 if metric.statistic == "exp_ratio" else sign * (two - one)


def _exact(line: GateLine, one: float, two: float) -> GateLine:
    # an infinite number is near no other one
    if one == two or math.isclose(one, two, rel_tol=SAME):
        return replace(line, verdict=EQUAL)
    share = f"by {100 * (two - one) / one:+.3g} % " if one else ""
    reason = f"the number changed {share}though weights and environment are the same ({SAME:g} of it is allowed)"
    return replace(line, verdict=CHANGED, reason=reason)


def _unpaired(line: GateLine, *, margin: float, alike: bool) -> GateLine:
    """A median or a highest value, whose difference has no interval: its margin is a share."""
    assert line.baseline is not None
    assert line.candidate is not None
    if alike:
        return _exact(line, line.baseline, line.candidate)
    share = (line.worse_by or 0.0) / abs(line.baseline) if line.baseline else math.inf if line.worse_by else 0.0
    reason = "a share; the difference of two such values has no interval"
    return replace(line, verdict=WITHIN if share <= margin else WORSE, worse_by=share, margin=margin, reason=reason)


def _paired(line: GateLine, metric: Metric, shared: Shared, *, margin: float) -> GateLine:
    sign = -1.0 if metric.better == "higher" else 1.0
    worse, size = stats.cluster_sums((sign * (shared.a - shared.b), shared.denominator), shared.clusters)
    worse, size = worse[size > 0], size[size > 0]
    ratio = metric.statistic == "exp_ratio"
    bound = math.log1p(margin) if ratio else margin

    def shown(rate: float) -> float:
        return math.expm1(rate) if ratio else rate

    each = worse / size * metric.scale
    loss = float(worse.sum() / size.sum()) * metric.scale
    level = float(np.abs(shared.b).sum() / size.sum()) * abs(metric.scale)
    line = replace(line, worse_by=shown(loss), margin=margin)
    if not np.isfinite(each).all() or not math.isfinite(level):
        return replace(line, worse_by=None, verdict=NOT_WITHIN, reason="a target is scored as infinite")
    if np.all(np.abs(each) <= SAME * max(level, SAME)):
        return replace(line, verdict=EQUAL)
    made = stats.estimate_ratio(worse, size, level=LEVEL, noun=summary.noun_of(metric)).map(lambda x: x * metric.scale)
    if made.low is not None and made.high is not None:
        line = replace(line, low=shown(made.low), high=shown(made.high))
    alone = counted(len(each), summary.noun_of(metric))
    if each.max() <= bound:
        others = 1 - (1 - stats.LEVEL) ** (1 / len(each))
        return replace(line, verdict=WITHIN, reason=f"in each of {alone}; of others up to {others:.0%} may be worse")
    if made.high is not None and made.high <= bound:
        return replace(line, verdict=WITHIN, reason=f"over {alone}")
    if each.min() > bound or (made.low is not None and made.low > bound):
        return replace(line, verdict=WORSE, reason=f"over {alone}")
    reason = made.reason or f"over {alone}; more of them, or a wider --margin, decide it"
    return replace(line, verdict=NOT_WITHIN, reason=reason)
