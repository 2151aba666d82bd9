"""Two checkpoints on the same targets: what differs, by how much, and whether it is shown.

Quality is paired by sample: the same windows, the same trials, told by seed, sample and the text columns of the task,
with equal denominators. Checkpoints whose tokenizers cut the text differently are paired by document, where both
scored the same bytes of it. Timings are paired by round. Either side may be one setting of a checkpoint, such as
NAME@engine=hf, or one place on an axis, such as NAME@strategy=oracle; then what is named may differ.

The interval that is printed is the one that judges. The points of a metric are one family, and each has an interval of
such a level that all of them hold together in 95 of 100 (Bonferroni). A difference is *shown* when its interval leaves
out "none"; one below the metric's smallest effect of interest is shown, and smaller than matters. Without an interval
nothing is judged. A metric that restates another one is judged there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from ttbench import stats
from ttbench.errors import UnknownNameError, UsageError
from ttbench.report import summary, words
from ttbench.report.columns import all_rows
from ttbench.report.effects import effect_of, least_to_be_shown, ready_to_compare, verdict_of
from ttbench.report.sentences import caption, effect, sentences
from ttbench.report.side_by_side import SideBySide
from ttbench.report.summary import A_BETTER, B_BETTER, EXACT, NOT_COMPARABLE, NOT_JUDGED, NOT_SHOWN, TOO_SMALL
from ttbench.report.variants import VARIANT_SETTINGS, read_variant, require_rows
from ttbench.types import NO_ATTENTION, Metric, Scalar

# Settings in which the only two lines of a quality metric may differ and still be compared.
ALWAYS_FREE = "architecture_version"
HARMLESS = ("architecture_version", "engine", "attention", "batch_size")


def compare(rows: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """Every metric of two checkpoints, paired: one row per metric, settings and point.

    `a` and `b` are names of checkpoints, or settings of them as `ttbench.report.variants` reads them.

    `effect` is a - b (kind "difference") or a / b (kind "ratio": times, bytes, perplexities) of the very values beside
    it; `low` and `high` hold at `level`, so that all `num_points` hold together in 95 of 100. `verdict` is "a better",
    "b better", "smaller than matters", "no difference shown", "not judged", "not comparable" or "see" another metric,
    and `reason` says why not. `p` is of the point alone and decides nothing.
    `detectable` is the smallest difference that as many samples would show four times in five.

    Raises:
        UnknownNameError: no row of that checkpoint.
        UsageError: a is b, one name stands for several weights or settings, or no row has the settings named.
    """
    known, axes = list(dict.fromkeys(rows["checkpoint"])), _axes(rows)
    for side in (a, b):
        variant = read_variant(side, axes=axes)
        if variant.name not in known:
            raise UnknownNameError("checkpoint", variant.name, known=known, where="the rows")
        require_rows(rows, variant)
    if read_variant(a) == read_variant(b):
        raise UsageError(
            f"'{a}' cannot be compared with itself; available: {', '.join(known)}, or settings of one: "
            f"{a}@engine=hf, {a}@attention=flash"
        )
    return compare_pairs(rows, [(a, b)])


def _axes(rows: pd.DataFrame) -> list[str]:
    """Axes of the rows' metrics, but for the context."""
    named = dict.fromkeys(axis for metrics in summary.metrics_of(rows).values() for m in metrics for axis in m.axes)
    return [axis for axis in named if axis != "context_len"]


def compare_pairs(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """`compare` for several pairs; a family of points stays within a pair."""
    records: list[dict[str, Any]] = []
    part = all_rows(rows)
    for task, metrics in summary.metrics_of(rows).items():
        for metric in metrics:
            if metric.better != "neither":
                found = list(summary.groups(part, task, metric))
                for a, b in pairs:
                    records += _compare_metric(found, metric, a, b)
    result = summary.tidy(records)
    result.attrs["metrics"] = rows.attrs["metrics"]
    return result


def _compare_metric(found: Iterable[summary.Group], metric: Metric, a: str, b: str) -> list[dict[str, Any]]:
    variants = {side: read_variant(side) for side in (a, b)}
    free = (ALWAYS_FREE, *variants[a].settings, *variants[b].settings)
    if not (variants[a].axes | variants[b].axes) <= set(metric.axes):
        return []
    mine = {
        side: [group for group in found if variants[side].matches({**group.line, **group.point})] for side in (a, b)
    }
    groups = {side: _by_settings(mine[side], leave_out=free) for side in (a, b)}
    if not groups[a] or not groups[b]:
        return []
    alone = len(groups[a]) == len(groups[b]) == 1
    if alone and not summary.is_timing(metric):
        groups = {side: _by_settings(mine[side], leave_out=(*free, *HARMLESS)) for side in (a, b)}
    groups = {a: _spread(groups[a], groups[b]), b: _spread(groups[b], groups[a])}
    if not groups[a].keys() & groups[b].keys():
        differing = _differing_settings(next(iter(groups[a])), next(iter(groups[b])))
        record = _record(next(iter(next(iter(groups[a].values())).values())), a, b)
        reason = f"settings differ: {differing}"
        return [record | dict.fromkeys(record["axes"].split(",")) | {"verdict": NOT_COMPARABLE, "reason": reason}]
    records: list[dict[str, Any]] = []
    for settings in groups[a]:
        if settings in groups[b]:
            records += _family(groups[a][settings], groups[b][settings], a, b)
    return records


Settings = tuple[tuple[str, Scalar], ...]
Points = dict[tuple[Scalar, ...], summary.Group]


def _by_settings(groups: Iterable[summary.Group], *, leave_out: Sequence[str]) -> dict[Settings, Points]:
    found: dict[Settings, Points] = {}
    for group in groups:
        settings = tuple(
            (name, value) for name, value in group.line.items() if name not in (*summary.CHECKPOINT, *leave_out)
        )
        points = found.setdefault(settings, {})
        point = tuple(value for axis, value in group.point.items() if axis not in leave_out)
        before = points.get(point)
        if before is not None and len(before.rows) and len(group.rows):
            raise UsageError(_ambiguous(before, group))
        if before is None or len(group.rows):  # a lost cell has no place on most axes
            points[point] = group
    return found


def _spread(groups: dict[Settings, Points], other: Iterable[Settings]) -> dict[Settings, Points]:
    """`groups`, in which an architecture without attention stands under every attention of the other side."""
    found = {settings: points for settings, points in groups.items() if dict(settings).get("attention") != NO_ATTENTION}
    values = dict.fromkeys(value for settings in other for name, value in settings if name == "attention")
    for settings, points in groups.items():
        for value in values if settings not in found else ():
            found.setdefault(tuple((name, value if name == "attention" else own) for name, own in settings), points)
    return found


def _ambiguous(one: summary.Group, two: summary.Group) -> str:
    """Why two numbers stand at one point, and what to do."""
    name = one.line["checkpoint"]
    told = [{**group.line, **group.point} for group in (one, two)]
    names = (*VARIANT_SETTINGS, *one.point)
    differing = [setting for setting in names if told[0].get(setting) != told[1].get(setting)]
    if not differing:
        return f"rows hold several weights or revisions called '{name}'; compare rows with one of them"
    setting = differing[0]
    spellings = " or ".join(f"{name}@{setting}={words.plain(group[setting])}" for group in told)
    return f"rows of '{name}' differ in {', '.join(differing)}; say which are meant: {spellings}"


def _differing_settings(a: Settings, b: Settings) -> str:
    pairs = zip(a, b, strict=False)
    return ", ".join(f"{one[0].removeprefix('param_')} {one[1]} and {two[1]}" for one, two in pairs if one != two)


def _family(a_points: Points, b_points: Points, a: str, b: str) -> list[dict[str, Any]]:
    """The records of one metric under one set of settings: the family whose intervals hold together."""
    shared = [point for point in a_points if point in b_points]
    ready = [ready_to_compare(a_points[p], b_points[p], free=_free_axes(a_points[p], a, b)) for p in shared]
    num_points = sum(not isinstance(found, str) and found.metric.statistic != "count" for found in ready)
    level = stats.family_level(num_points)
    records = []
    for point, found in zip(shared, ready, strict=True):
        one, two = a_points[point], b_points[point]
        record, metric = _record(one, a, b, two), one.metric
        if isinstance(found, str):
            records.append(record | {"verdict": NOT_COMPARABLE, "reason": found})
            continue
        effect = effect_of(found, level=level)
        made, exact = effect.estimate, effect.estimate.method == EXACT
        records.append(
            record
            | {
                "kind": effect.kind,
                "value_a": effect.value_a,
                "value_b": effect.value_b,
                "effect": made.value,
                "low": made.low,
                "high": made.high,
                "level": None if exact else level,
                "num_points": None if exact else num_points,
                "method": made.method,
                "num_clusters": made.num_clusters,
                "num_pairs": effect.num_pairs,
                "num_counted": effect.num_counted,
                "p": effect.p,
                "detectable": least_to_be_shown(effect, level=level),
                "verdict": verdict_of(metric, effect) if metric.restates is None else f"see {metric.restates}",
                "reason": made.reason,
            }
        )
    return records


def _free_axes(group: summary.Group, a: str, b: str) -> set[str]:
    """Axes on which the two sides were asked for at places of their own."""
    return (read_variant(a).axes | read_variant(b).axes) & group.point.keys()


def _record(one: summary.Group, a: str, b: str, two: summary.Group | None = None) -> dict[str, Any]:
    head, free = summary.head(one), _free_axes(one, a, b)
    head["axes"] = ",".join(axis for axis in one.metric.axes if axis not in free)
    names = ("task", "metric", "label", "unit", "better", "statistic", "cluster", "counted", "axes")
    settings = {name: _setting(name, one, two) for name in one.line if name not in summary.CHECKPOINT}
    extrapolated = [summary.extrapolated(group) for group in (one, two) if group is not None]
    return {
        **{name: head[name] for name in names},
        "a": a,
        "b": b,
        **settings,
        **{axis: value for axis, value in one.point.items() if axis not in free},
        "smallest_effect": one.metric.smallest_effect,
        "restates": one.metric.restates,
        "kind": None,
        "value_a": None,
        "value_b": None,
        "effect": None,
        "low": None,
        "high": None,
        "train_ctx_a": one.line["train_ctx"],
        "train_ctx_b": None if two is None else two.line["train_ctx"],
        "extrapolated": True if True in extrapolated else None if None in extrapolated else False,
    }


def _setting(name: str, one: summary.Group, two: summary.Group | None) -> Scalar:
    """A setting of both sides; None where they differ in it, and of those without attention the other's."""
    value, other = one.line[name], one.line[name] if two is None else two.line[name]
    if NO_ATTENTION in (value, other):
        return other if value == NO_ATTENTION else value
    return value if value == other else None


def all_pairs(names: Sequence[str], *, most: int = 5) -> list[tuple[str, str]]:
    """Every pair of up to `most` checkpoints; of more, each with the first."""
    if len(names) <= most:
        return list(itertools.combinations(names, 2))
    return [(names[0], name) for name in names[1:]]


# On a terminal


def render_comparison(comparison: pd.DataFrame) -> Group:
    """What `compare` found as a rich renderable: a table for each metric, and what it says in words beneath each task.

    Effects are a - b, or a / b as "times"; * marks points beyond a training context.
    """
    parts: list[Text | words.Paragraph | SideBySide] = []
    for task in words.by(words.records(comparison), "task"):
        parts.append(Text(f"{task[0]['task']}: {task[0]['a']} and {task[0]['b']} on the same targets", style="bold"))
        for entries in words.by(task, "metric"):
            parts += [Text(), *_metric_table(entries)]
        if any(entry["extrapolated"] for entry in task):
            parts += [Text(), words.Paragraph(f"* {words.BEYOND}", "dim")]
        parts += [Text(), *(words.Paragraph(sentence) for sentence in sentences(task)), Text()]
    return Group(*parts)


def _metric_table(entries: Sequence[words.Record]) -> Iterator[Text | words.Paragraph | SideBySide]:
    a, b = entries[0]["a"], entries[0]["b"]
    scale = words.of_metric(entries, ("value_a", "value_b"))
    yield Text(words.title(entries[0], scale.unit), style="bold")
    winner = {A_BETTER: a, B_BETTER: b, NOT_SHOWN: "not shown", TOO_SMALL: "too little", NOT_JUDGED: NOT_JUDGED}
    _, varying = words.settings(entries)
    told = [entry for entry in entries if entry["verdict"] != NOT_COMPARABLE]
    rows = []
    for entry in told:
        values = [scale.text(entry["value_a"]), scale.text(entry["value_b"])]
        verdict = winner.get(entry["verdict"], entry["verdict"].replace("_", " "))
        rows.append([_place(entry, varying), *values, effect(entry), verdict])
    if rows:
        yield SideBySide(["", a, b, "effect (95% interval)", "better"], rows)
        yield words.Paragraph(caption(told), "dim")
    for entry in entries:
        if entry["verdict"] in (NOT_COMPARABLE, NOT_JUDGED):
            yield words.Paragraph(f"{_place(entry, varying)}: {entry['verdict']}, {entry['reason']}", "dim")


def _place(entry: words.Record, varying: Sequence[str]) -> str:
    told = words.told(entry, varying)
    if entry["context_len"] is None:
        return f"all {told}".rstrip()
    mark = "*" if entry["extrapolated"] else ""
    return " ".join(filter(None, [words.context(entry["context_len"]) + mark, told, *words.places(entry)]))
