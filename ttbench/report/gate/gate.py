"""A run against a baseline: what is red, what is green, and why.

    rows of both -> cells that both have -> every number of them -> Gate

Times are shown; they are judged where asked, on one machine, from ten rounds a side, all of them together. One that is
slower by more than a share is red only if fresh rounds say so again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from ttbench.errors import UsageError
from ttbench.report import summary
from ttbench.report.columns import Part, all_rows
from ttbench.report.comparison.matching import by_settings
from ttbench.report.gate import rules
from ttbench.report.gate.cells import REPEATS, match_cells
from ttbench.report.gate.lines import (
    CHANGED,
    LOST,
    NOT_MEASURED,
    NOT_SLOWER,
    SHOWN_ONLY,
    SLOWER,
    SLOWER_ONCE,
    TO_CONFIRM,
    Gate,
    GateLine,
    in_order,
)
from ttbench.report.gate.slower import LEVEL, MIN_ROUNDS, MORE, holm, ratio_interval, slower_p
from ttbench.report.statistics.stats import counted
from ttbench.report.summary import RowGroup
from ttbench.types import Metric, Scalar

# Of a line: what is judged, and what is judged apart for times.
FREE = ("architecture_version", *summary.TIMING_SETTINGS, REPEATS)
# What makes a metric another one under the same name.
MEANING = ("unit", "better", "statistic", "numerator", "denominator", "scale", "cluster", "axes", "where", "valid")
HOSTED = "a hosted runner: its times are no measure of a change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a gate asks for."""

    timing: bool = False  # judge times
    hosted: bool = False  # on a machine that others use too: times are shown at most
    bits: float | None = None  # margin of all that is in bits; None: each metric's own
    margins: Mapping[str, float] = field(default_factory=dict)  # metric -> margin; others: its smallest effect
    more: float = MORE  # share by which a time must be slower

    def margin(self, metric: Metric) -> float:
        """How much worse may pass."""
        general = metric.smallest_effect if self.bits is None or not _in_bits(metric) else self.bits
        return self.margins.get(metric.name, general)


def _in_bits(metric: Metric) -> bool:
    return metric.unit.partition("/")[0] == "bit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A time of both sides, still to be judged."""

    line: GateLine
    baseline: np.ndarray  # of each round
    candidate: np.ndarray
    measured: frozenset[tuple[Scalar, ...]]  # the candidate's cells, and when


def gate(
    candidate: pd.DataFrame,
    baseline: pd.DataFrame,
    *,
    names: tuple[str, str],
    terms: Terms | None = None,
    again: pd.DataFrame | None = None,
) -> Gate:
    """Judge the rows of a run by those of a baseline.

    Args:
        candidate, baseline: rows, as the store gives them.
        names: what the run and the baseline are called.
        terms: what is judged; None: counts and quality.
        again: rows of the same cells in fresh rounds, which confirm times that are slower in `candidate`.

    Raises:
        UsageError: either has no rows, a name stands for two contents, a margin is for no metric of the baseline, times
            are to be judged and it has none, or the fresh rounds are those of the run.
    """
    terms = Terms() if terms is None else terms
    for name, rows in zip(names, (candidate, baseline), strict=True):
        if not len(rows):
            raise UsageError(f"{name} holds no rows, so there is nothing to judge")
    _require_margins(terms, baseline)
    if terms.timing and not _has_times(baseline):
        raise UsageError(
            f"times are to be judged, and {names[1]} holds none; measure some with: ttbench run latency, or leave out "
            "--timing"
        )
    lines, timed = _looked_at(candidate, baseline, terms)
    times = _slower(timed, more=terms.more)
    if again is not None:
        _, fresh = _looked_at(again, baseline, terms)
        times = _confirmed(times, timed, fresh, more=terms.more)
    slow = {_key(line) for line in times if line.verdict == TO_CONFIRM}
    cells = {str(cell_id) for each in timed if _key(each.line) in slow for _, cell_id, _ in each.measured}
    return Gate(run=names[0], baseline=names[1], lines=in_order([*lines, *times]), slow_cells=frozenset(cells))


def _is_time(metric: Metric) -> bool:
    return summary.is_timing(metric) and metric.statistic != "count"


def _has_times(rows: pd.DataFrame) -> bool:
    part = all_rows(rows)
    return any(
        len(group.rows)
        for task, metrics in summary.metrics_of(rows).items()
        for metric in metrics
        if _is_time(metric)
        for group in summary.groups(part, task, metric)
    )


def _looked_at(candidate: pd.DataFrame, baseline: pd.DataFrame, terms: Terms) -> tuple[list[GateLine], list[Timed]]:
    """The lines of all that is judged alone, and the times that are judged together."""
    same = match_cells(baseline, candidate)
    known = rules.environments(baseline) | rules.environments(candidate)
    lines, timed = list(same.lines), list[Timed]()
    for line, pair in _numbers(same.baseline, same.candidate, same.telling):
        if pair is None:
            lines.append(line)
        elif line.rule == "count":
            lines.append(rules.judge_count(line, *pair))
        elif line.rule == "quality":
            metric = pair[0].metric
            lines.append(
                rules.judge_quality(line, *pair, margin=terms.margin(metric), alike=rules.ran_alike(*pair, known))
            )
        else:
            found = _timed(line, *pair, terms=terms)
            timed.append(found) if isinstance(found, Timed) else lines.append(found)
    return lines, timed


def _require_margins(terms: Terms, baseline: pd.DataFrame) -> None:
    """Raises UsageError for a margin that no number of the baseline has."""
    judged = [m for metrics in summary.metrics_of(baseline).values() for m in metrics if _is_judged(m)]
    known = sorted({metric.name for metric in judged})
    for name in terms.margins:
        if name not in known:
            raise UsageError(f"a margin is given for '{name}'; the baseline has: {', '.join(known) or 'none'}")
    if terms.bits is not None and not any(_in_bits(metric) for metric in judged):
        raise UsageError(
            f"margin {terms.bits:g} is for bits, and the baseline has none; write METRIC={terms.bits:g} for one of: "
            f"{', '.join(known) or 'none'}"
        )


def _is_judged(metric: Metric) -> bool:
    """Whether a number is worth a line of its own: not what restates another, nor what is neither good nor bad."""
    return metric.better != "neither" and metric.restates is None


def _numbers(
    baseline: pd.DataFrame, candidate: pd.DataFrame, telling: Mapping[str, Sequence[str]]
) -> Iterator[tuple[GateLine, tuple[RowGroup, RowGroup] | None]]:
    """Every number of the baseline with the run's; a line that is judged already where there is none."""
    if not len(baseline):
        return
    both = pd.concat([baseline.astype(object), candidate.astype(object)])
    whole = all_rows(both)
    before, after = (Part(whole.columns, places) for places in np.split(whole.places, [len(baseline)]))
    declared = {task: {m.name: m for m in metrics} for task, metrics in summary.metrics_of(candidate).items()}
    for task, metrics in summary.metrics_of(baseline).items():
        for metric in filter(_is_judged, metrics):
            today = declared.get(task, {}).get(metric.name)
            found = _points(before, task, metric, whole)
            others = {} if today is None else _points(after, task, today, whole)
            for key, group in found.items():
                line = _line(group, telling)
                other = others.get(key)
                if today is None or other is None or not len(other.rows):
                    reason = "the task no longer gives it" if today is None else "the run has no number here"
                    yield replace(line, verdict=LOST, reason=reason), None
                elif meaning := _another_meaning(metric, today):
                    yield replace(line, verdict=CHANGED, reason=meaning), None
                else:
                    yield line, (group, other)


def _points(rows: Part, task: str, metric: Metric, whole: Part) -> dict[tuple[Scalar, ...], RowGroup]:
    """The numbers of one metric, by checkpoint, settings and point."""
    found: dict[tuple[Scalar, ...], RowGroup] = {}
    groups = list(summary.groups(rows, task, metric, among=whole))
    for name in dict.fromkeys(group.line["checkpoint"] for group in groups):
        mine = [group for group in groups if group.line["checkpoint"] == name]
        for settings, points in by_settings(mine, leave_out=FREE).items():
            for point, group in points.items():
                if len(group.rows):
                    found[(name, *(value for _, value in settings), *point)] = group
    return found


def _another_meaning(before: Metric, after: Metric) -> str:
    """In what the definition of a metric differs, in words; empty where it is the same."""
    for name in MEANING:
        one, two = getattr(before, name), getattr(after, name)
        if one != two:
            return f"its definition changed: {name} {one} → {two}"
    return ""


def _line(group: RowGroup, telling: Mapping[str, Sequence[str]]) -> GateLine:
    metric = group.metric
    return GateLine(
        rule="count" if metric.statistic == "count" else "time" if _is_time(metric) else "quality",
        verdict=SHOWN_ONLY,
        task=group.task,
        checkpoint=str(group.line["checkpoint"]),
        settings={name: group.line[name] for name in telling.get(group.task, ()) if name in group.line},
        point=dict(group.point),
        metric=metric.name,
        label=metric.label,
        unit=metric.unit,
        statistic=metric.statistic,
    )


# Times


def _timed(line: GateLine, baseline: RowGroup, candidate: RowGroup, *, terms: Terms) -> Timed | GateLine:
    """The rounds of both sides, or the line of a time that is not judged, with why."""
    sides = [np.array(list(_rounds(group).values())) for group in (baseline, candidate)]
    metric = baseline.metric
    positive = all(len(side) and side.min() > 0 for side in sides)
    values = [float(np.exp(np.log(side).mean()) if positive else np.median(side)) for side in sides]
    share = (values[1] / values[0]) ** (-1 if metric.better == "higher" else 1) - 1 if positive else None
    line = replace(line, baseline=values[0], candidate=values[1], worse_by=share, margin=terms.more)
    if not terms.timing or terms.hosted:
        return replace(line, margin=None, reason=HOSTED if terms.timing else "--timing judges it")
    reason = _why_not(baseline, candidate, positive=positive)
    if reason is not None:
        return replace(line, verdict=NOT_MEASURED, reason=reason)
    if metric.better == "higher":
        sides = [1 / side for side in sides]
    measured = frozenset(_measurements(candidate))
    return Timed(line=line, baseline=sides[0], candidate=sides[1], measured=measured)


def _rounds(group: RowGroup) -> dict[Scalar, float]:
    return summary.rounds(group.rows, group.metric)


def _why_not(baseline: RowGroup, candidate: RowGroup, *, positive: bool) -> str | None:
    """Why two times cannot be compared; None: they can."""
    for name, noun in (("machine", "machine"), ("threads", "number of threads")):
        one, two = (set(group.rows.values(name)) for group in (baseline, candidate))
        if one != two or len(one) != 1:
            told = " → ".join(", ".join(sorted(map(str, side))) for side in (one, two))
            return f"another {noun} ({told})"
    if _measurements(baseline) & _measurements(candidate):
        return "these are the baseline's own rounds; measure again with: ttbench run ... --fresh"
    fewest = min(len(_rounds(group)) for group in (baseline, candidate))
    if fewest < MIN_ROUNDS:
        return f"{counted(fewest, 'round')}; {MIN_ROUNDS} are needed on both sides: --param rounds={MIN_ROUNDS}"
    return None if positive else "a ratio needs positive numbers"


def _measurements(group: RowGroup) -> set[tuple[Scalar, ...]]:
    names = ("run_id", "cell_id", "started")
    return set(zip(*(group.rows.values(name) for name in names), strict=True))


def _slower(timed: Sequence[Timed], *, more: float) -> list[GateLine]:
    """Which times are slower by more than a share, all of them tested together."""
    if not timed:
        return []
    p = holm(np.array([float(slower_p(each.baseline, each.candidate, more=more)) for each in timed]))
    lines = []
    for each, own in zip(timed, p, strict=True):
        value, low, high = (end - 1 for end in ratio_interval(each.baseline, each.candidate))
        line = replace(each.line, worse_by=value, low=low, high=high, p=float(own))
        lines.append(replace(line, verdict=TO_CONFIRM if own <= LEVEL else NOT_SLOWER))
    return lines


def _confirmed(
    lines: Sequence[GateLine], first: Sequence[Timed], fresh: Sequence[Timed], *, more: float
) -> list[GateLine]:
    """The times with what fresh rounds say of those that were slower.

    Raises UsageError where the rounds are not fresh.
    """
    slow = {_key(line): place for place, line in enumerate(lines) if line.verdict == TO_CONFIRM}
    mine = [each for each in fresh if _key(each.line) in slow]
    for each in mine:
        if each.measured & first[slow[_key(each.line)]].measured:
            raise UsageError(
                "the fresh rounds are those of the run itself; measure again with: ttbench run ... --fresh"
            )
    found = list(lines)
    for line in lines:
        if line.verdict == TO_CONFIRM:
            found[slow[_key(line)]] = replace(line, reason="the fresh rounds do not hold this time")
    for line in _slower(mine, more=more):
        place, again = slow[_key(line)], f"{100 * (line.worse_by or 0):+.1f} % in fresh rounds"
        verdict = SLOWER if line.verdict == TO_CONFIRM else SLOWER_ONCE
        found[place] = replace(lines[place], verdict=verdict, reason=again)
    return found


def _key(line: GateLine) -> tuple[object, ...]:
    return line.task, line.checkpoint, line.metric, tuple(line.settings.items()), tuple(line.point.items())
