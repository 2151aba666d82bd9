"""Two checkpoints on the same targets: what differs, by how much, and whether it is shown.

Quality is paired by sample: the same windows, the same trials, told by seed, sample and the text columns of the task,
with equal denominators. Checkpoints whose tokenizers cut the text differently are paired by document, where both
scored the same bytes of it. Timings are paired by round. Either side may be one setting of a checkpoint, such as
NAME@engine=hf, or one place on an axis, such as NAME@strategy=oracle; then what is named may differ.

All cells of one task and metric that are compared at once, over pairs, contexts and settings, are one family, and are
judged together (`families`). A difference is *shown* when its interval leaves out "none" and its joint p is below 0.05;
one below the metric's smallest effect of interest is shown, and smaller than matters. Without an interval nothing is
judged. A metric that restates another one is judged there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.text import Text

from ttbench.errors import UsageError
from ttbench.report import summary, words
from ttbench.report.columns import Part, all_rows
from ttbench.report.comparison.effects import Effect, Ready, least_to_be_shown, ready_to_compare, verdict_of
from ttbench.report.comparison.families import judge
from ttbench.report.comparison.matching import Points, by_settings, differing_settings, spread
from ttbench.report.comparison.seeds import beside_noise
from ttbench.report.comparison.sentences import caption, effect, sentences
from ttbench.report.comparison.side_by_side import SideBySide
from ttbench.report.comparison.variants import SHOWN, Side, read_variant, side_of, spellings
from ttbench.report.summary import (
    A_BETTER,
    B_BETTER,
    HARMLESS,
    NOT_COMPARABLE,
    NOT_JUDGED,
    NOT_SHOWN,
    RATIO,
    TOO_SMALL,
)
from ttbench.report.tidy import tidy
from ttbench.types import NO_ATTENTION, Metric, Scalar

ALWAYS_FREE = "architecture_version"


def compare(rows: pd.DataFrame, a: str, b: str, *, rows_b: pd.DataFrame | None = None) -> pd.DataFrame:
    """Every metric of two checkpoints, paired: one row per metric, settings and point.

    `a` and `b` are names of checkpoints, or settings of them as `ttbench.report.comparison.variants` reads them;
    `rows_b` are the rows of b where they are not among those of a. `attrs["left_out"]` says which rows were not read.

    `effect` is a - b (kind "difference") or a / b (kind "ratio": times, bytes, perplexities) of the very values beside
    it; `low`, `high` and `joint_p` are made for all `num_points` comparisons of the metric together. `verdict` is "a
    better", "b better", "smaller than matters", "no difference shown", "not judged", "not comparable" or "see" another
    metric, and `reason` says why not. `p` is of the point alone and decides nothing.
    `detectable` is the smallest difference that as many samples would show four times in five. A difference that
    training with another seed could make is "within training noise", where rows tell it.

    Raises:
        UnknownNameError: no row of that checkpoint.
        UsageError: a is b, one name stands for several contents or settings, or no row has the settings named.
    """
    one, two = read_side(rows, a), read_side(rows if rows_b is None else rows_b, b)
    if one.variant.settings == two.variant.settings:
        require_two(one, two, rows)
    result = compare_sides([(one, two)], among=[rows] if rows_b is None else [rows, rows_b])
    result.attrs["left_out"] = [*dict.fromkeys((*one.left_out([two]), *two.left_out([one])))]
    return result


def read_side(rows: pd.DataFrame, text: str) -> Side:
    """The rows of a checkpoint, or of the settings of one that the text names."""
    return side_of(rows, read_variant(text, axes=_axes(rows), names=set(rows["checkpoint"])))


def require_two(one: Side, two: Side, rows: pd.DataFrame) -> None:
    """Raises UsageError when both sides stand for the same measurements, and says what could be told apart."""
    cells = [set(zip(side.rows["cell_id"], side.rows["run_id"], strict=True)) for side in (one, two)]
    a, b = one.variant.name, two.variant.name
    if cells[0] != cells[1]:
        return
    if a == b and not one.variant.choices and not two.variant.choices:
        known = spellings(rows.loc[rows["checkpoint"] == a], a)
        others = f", or settings of it: {' and '.join(known)}" if known else "; it was measured in one way only"
        raise UsageError(f"'{a}' cannot be compared with itself; name another checkpoint{others}")
    weights = str(one.rows["weights_digest"].iloc[0])[:SHOWN]
    raise UsageError(
        f"'{one.text}' and '{two.text}' stand for the same measurements of the same checkpoint (weights {weights}); "
        "to measure it again: ttbench run TASK --fresh"
    )


def _axes(rows: pd.DataFrame) -> list[str]:
    """Axes of the rows' metrics, but for the context."""
    named = dict.fromkeys(axis for metrics in summary.metrics_of(rows).values() for m in metrics for axis in m.axes)
    return [axis for axis in named if axis != "context_len"]


def compare_pairs(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """`compare` for several pairs, which are judged together."""
    found = {text: read_side(rows, text) for text in dict.fromkeys(itertools.chain(*pairs))}
    return compare_sides([(found[a], found[b]) for a, b in pairs], among=[rows])


def compare_sides(pairs: Sequence[tuple[Side, Side]], *, among: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """`compare` for pairs of sides, whose rows may come from different places; they are judged together.

    `among` are the rows in which trainings with other seeds are looked for; `ttbench.report.comparison.seeds` says what
    they add.
    """
    records: list[dict[str, Any]] = []
    if not pairs:
        return tidy(records)
    unlike = {side.text: side.rows for pair in pairs for side in pair}
    # One table, so that all sides are told apart by the same settings; objects, since columns may be missing in some.
    both = pd.concat([rows.astype(object) for rows in unlike.values()])
    whole, ends = all_rows(both), np.cumsum([len(rows) for rows in unlike.values()])
    places = zip(unlike, np.split(whole.places, ends[:-1]), strict=True)
    parts = {text: Part(whole.columns, mine) for text, mine in places}
    declared = {
        task: metrics for pair in pairs for side in pair for task, metrics in summary.metrics_of(side.rows).items()
    }
    for task, metrics in declared.items():
        for metric in metrics:
            if metric.better != "neither":
                found = {text: list(summary.groups(part, task, metric, among=whole)) for text, part in parts.items()}
                records += _judge([cell for one, two in pairs for cell in _cells(found, metric, one, two)])
    result = tidy(records)
    result.attrs["metrics"] = {task: [metric.to_json() for metric in metrics] for task, metrics in declared.items()}
    return beside_noise(result, [*{side.text: side for pair in pairs for side in pair}.values()], among)


Found = tuple[dict[str, Any], Ready | str]  # a record without its verdict; what is compared, or why nothing is


def _cells(found: Mapping[str, Sequence[summary.RowGroup]], metric: Metric, one: Side, two: Side) -> list[Found]:
    """The cells of one metric for one pair: under all settings, at all points that both have."""
    a, b = one.text, two.text
    variants = {a: one.variant, b: two.variant}
    free = (ALWAYS_FREE, *variants[a].settings, *variants[b].settings)
    if not (variants[a].axes | variants[b].axes) <= set(metric.axes):
        return []
    mine = {
        side: [group for group in found[side] if variants[side].matches({**group.line, **group.point})]
        for side in (a, b)
    }
    groups = {side: by_settings(mine[side], leave_out=free) for side in (a, b)}
    if not groups[a] or not groups[b]:
        return []
    alone = len(groups[a]) == len(groups[b]) == 1
    if alone and not summary.is_timing(metric):
        groups = {side: by_settings(mine[side], leave_out=(*free, *HARMLESS)) for side in (a, b)}
    groups = {a: spread(groups[a], groups[b]), b: spread(groups[b], groups[a])}
    if not groups[a].keys() & groups[b].keys():
        differing = differing_settings(next(iter(groups[a])), next(iter(groups[b])))
        record = _record(next(iter(next(iter(groups[a].values())).values())), a, b)
        return [(record | dict.fromkeys(record["axes"].split(",")), f"settings differ: {differing}")]
    return [
        cell
        for settings in groups[a]
        if settings in groups[b]
        for cell in _points(groups[a][settings], groups[b][settings], a, b)
    ]


def _points(a_points: Points, b_points: Points, a: str, b: str) -> Iterator[Found]:
    for point, one in a_points.items():
        if point in b_points:
            two = b_points[point]
            yield _record(one, a, b, two), ready_to_compare(one, two, free=_free_axes(one, a, b), names=(a, b))


def _judge(cells: Sequence[Found]) -> list[dict[str, Any]]:
    """The records of all cells of one metric, judged as one family."""
    judged = iter(judge([ready for _, ready in cells if not isinstance(ready, str)]))
    return [
        record | {"verdict": NOT_COMPARABLE, "reason": ready}
        if isinstance(ready, str)
        else record | _verdict(ready.metric, next(judged))
        for record, ready in cells
    ]


def _verdict(metric: Metric, effect: Effect) -> dict[str, Any]:
    """What a comparison adds to its record."""
    made, verdict = effect.estimate, verdict_of(metric, effect)
    none = 1.0 if effect.kind == RATIO else 0.0
    reason = made.reason
    if verdict == NOT_SHOWN and made.low is not None and made.high is not None and not made.low <= none <= made.high:
        reason = f"although the interval leaves out none: p among all comparisons is {effect.joint_p:.2g}"
    return {
        "kind": effect.kind,
        "value_a": effect.value_a,
        "value_b": effect.value_b,
        "effect": made.value,
        "low": made.low,
        "high": made.high,
        "level": effect.level,
        "num_points": effect.num_points,
        "method": made.method,
        "num_clusters": made.num_clusters,
        "num_pairs": effect.num_pairs,
        "num_counted": effect.num_counted,
        "p": effect.p,
        "joint_p": effect.joint_p,
        "detectable": None if effect.level is None else least_to_be_shown(effect, level=effect.level),
        "verdict": verdict if metric.restates is None else f"see {metric.restates}",
        "reason": reason,
    }


def _free_axes(group: summary.RowGroup, a: str, b: str) -> set[str]:
    """Axes on which the two sides were asked for at places of their own."""
    return (read_variant(a).axes | read_variant(b).axes) & group.point.keys()


def _record(one: summary.RowGroup, a: str, b: str, two: summary.RowGroup | None = None) -> dict[str, Any]:
    head, free = summary.head(one), _free_axes(one, a, b)
    head["axes"] = ",".join(axis for axis in one.metric.axes if axis not in free)
    names = ("task", "metric", "label", "unit", "better", "statistic", "cluster", "counted", "counts", "axes")
    settings = {name: _setting(name, one, two) for name in one.line if name not in summary.CONTENT}
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
        "checked_a": summary.checked(one),
        "checked_b": None if two is None else summary.checked(two),
        "extrapolated": True if True in extrapolated else None if None in extrapolated else False,
    }


def _setting(name: str, one: summary.RowGroup, two: summary.RowGroup | None) -> Scalar:
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

    Effects are a - b, or a / b as "times"; * marks points beyond a training context, ! numbers scored unchecked.
    """
    parts: list[Text | words.Paragraph | SideBySide] = []
    for task in words.by(words.records(comparison), "task"):
        parts.append(Text(f"{task[0]['task']}: {task[0]['a']} and {task[0]['b']} on the same targets", style="bold"))
        labels = {entry["metric"]: entry["label"] for entry in task}
        for entries in words.by(task, "metric"):
            parts += [Text(), *_metric_table(entries, labels)]
        legend = [f"* {words.BEYOND}"] if any(entry["extrapolated"] for entry in task) else []
        marks = words.probed(task).values()
        legend += [f"{mark} {meaning}" for mark, meaning in words.CHECKED.values() if mark in marks]
        parts += [Text(), *(words.Paragraph(line, "dim") for line in legend)] if legend else []
        parts += [Text(), *(words.Paragraph(sentence) for sentence in sentences(task)), Text()]
    return Group(*parts)


def _metric_table(
    entries: Sequence[words.Record], labels: Mapping[str, str]
) -> Iterator[Text | words.Paragraph | SideBySide]:
    """The comparisons of one metric; `labels` are what other metrics are called."""
    a, b = entries[0]["a"], entries[0]["b"]
    scale = words.of_metric(entries, ("value_a", "value_b"))
    yield Text(words.title(entries[0], scale.unit), style="bold")
    winner = {A_BETTER: a, B_BETTER: b, NOT_SHOWN: "not shown", TOO_SMALL: "too little", NOT_JUDGED: NOT_JUDGED}
    _, _, varying = words.settings(entries)
    told = [entry for entry in entries if entry["verdict"] != NOT_COMPARABLE]
    rows = []
    for entry in told:
        marks = words.probed([entry])
        values = [scale.text(entry[f"value_{side}"]) + marks.get(entry[side], "") for side in ("a", "b")]
        verdict = winner.get(entry["verdict"], entry["verdict"])
        if entry["restates"] is not None:
            verdict = f"see {labels.get(entry['restates'], entry['restates'])}"
        rows.append([_place(entry, varying), *values, effect(entry), verdict])
    if rows:
        yield SideBySide(["", a, b, "effect (95% interval)", "better"], rows)
        yield words.Paragraph(caption(told), "dim")
    for entry in entries:
        if entry["verdict"] in (NOT_COMPARABLE, NOT_JUDGED) or (entry["verdict"] == NOT_SHOWN and entry["reason"]):
            yield words.Paragraph(f"{_place(entry, varying)}: {entry['verdict']}, {entry['reason']}", "dim")


def _place(entry: words.Record, varying: Sequence[str]) -> str:
    told = words.told(entry, varying)
    if entry["context_len"] is None:
        return f"all {told}".rstrip()
    mark = "*" if entry["extrapolated"] else ""
    return " ".join(filter(None, [words.context(entry["context_len"]) + mark, told, *words.places(entry)]))
