"""Rows to numbers: which rows make which number, and the number with its interval.

rows -> groups (one metric of one line at one point) -> Estimate

A *line* is a checkpoint under one set of settings; a *point* is one value of each axis. Numbers are never pooled
across settings that could change them: two settings are two lines. Timings (metrics whose cluster is the round) are
made round by round, and their lines are also told apart by machine and threads. Torch-free: sees DataFrames only.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ttbench.errors import UsageError
from ttbench.report.columns import Part, all_rows
from ttbench.report.statistics import stats
from ttbench.report.statistics.stats import Estimate
from ttbench.types import Metric, Scalar

CHECKPOINT = ("checkpoint", "architecture", "revision", "weights_digest", "tokenizer_digest", "train_ctx")
# What else makes a number another checkpoint's or another code's; columns of the table where one name has several.
APART = ("config_digest", "code_digest")
CONTENT = (*CHECKPOINT, *APART)
SETTINGS = (
    "task_version",
    "architecture_version",
    "corpus",
    "corpus_digest",
    "dtype",
    "device",
    "engine",
    "attention",
    "batch_size",
)
# Those of them in which the only two lines of a quality metric may differ and still be compared, and which move no
# training noise.
HARMLESS = ("architecture_version", "engine", "attention", "batch_size")
TIMING_SETTINGS = ("threads", "machine", "software")
ROUND = "round"  # the cluster of timings
# Verdicts of a comparison, and the two kinds of its effect: a - b, and a / b.
A_BETTER, B_BETTER, NOT_SHOWN, NOT_COMPARABLE = "a better", "b better", "no difference shown", "not comparable"
# the interval leaves out "none", but the effect is below the metric's smallest effect of interest; no interval
TOO_SMALL, NOT_JUDGED = "smaller than matters", "not judged"
# shown by documents, and no more than training again with other seeds would make
WITHIN_NOISE = "within training noise"
DIFFERENCE, RATIO = "difference", "ratio"
# What rows say of the probes before them (`ttbench.engines.probing`).
UNCHECKED, PARTLY, PASSED = "unchecked", "partly", "passed"
EXACT = "exact"  # method of what is declared a count
TOKEN = "token"  # what the tokenizer decides how many there are of
NOISY_IQR = 0.1  # quartiles further apart than this share of the median: noisy


NOTHING = all_rows(pd.DataFrame())


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroup:
    """The rows that make one number."""

    task: str
    metric: Metric
    line: Mapping[str, Scalar]  # checkpoint and settings; a reference has settings only
    point: Mapping[str, Scalar]  # axis -> value
    rows: Part  # ok rows that count
    failures: Part  # rows of cells that ended otherwise
    invalid: Part  # ok rows that the metric's `valid` rules out

    @property
    def ended(self) -> tuple[Scalar, Scalar]:
        """Status and reason of a group without rows that count."""
        if len(self.failures):
            return self.failures.first("status"), self.failures.first("reason")
        return "unsupported", self.metric.invalid


def metrics_of(rows: pd.DataFrame) -> dict[str, tuple[Metric, ...]]:
    """Metrics of each task, from `rows.attrs["metrics"]`. Raises UsageError when a task of the rows has none."""
    declared = rows.attrs.get("metrics", {})
    tasks = list(dict.fromkeys(rows["task"])) if "task" in rows else []
    missing = [task for task in tasks if task not in declared]
    if missing or "task" not in rows:
        raise UsageError(
            f"rows carry no metrics for {', '.join(map(repr, missing)) or 'any task'}; "
            "read them with ttbench.store.rows.read_rows or Store.rows, which keep rows.attrs['metrics']"
        )
    # A statistic of a later version is not read: another one's number would stand under its name.
    known = typing.get_args(typing.get_type_hints(Metric)["statistic"])
    return {
        task: tuple(Metric.from_json(metric) for metric in declared[task] if metric["statistic"] in known)
        for task in tasks
    }


def is_timing(metric: Metric) -> bool:
    """Made from rounds, fresh processes on one machine, rather than from documents or trials."""
    return metric.cluster == ROUND


def is_per_token(metric: Metric) -> bool:
    """Made by dividing by tokens, so that it ranks checkpoints of one tokenizer only."""
    return metric.counts == TOKEN


def is_reference(metric: Metric, metrics: Iterable[Metric]) -> bool:
    """A line beneath the table of another metric of the task, the same for every checkpoint: a compressor's size."""
    return metric.better == "neither" and any(
        other.better != "neither" and (other.unit, other.axes) == (metric.unit, metric.axes) for other in metrics
    )


def is_shared(rows: Part, task: str, metric: Metric) -> bool:
    """Whether all checkpoints that read a sample as the same tokens have one number there: the text's own."""
    mine = _counted(rows.equal({"task": task}), metric)
    names = [name for name in mine.columns.names if name.startswith("param_")]
    place = ["corpus_digest", "tokenizer_digest", "seed", "context_len", *metric.axes, "sample", *names]
    place += [] if metric.cluster is None else [metric.cluster]
    numbers = [name for name in (metric.numerator, metric.denominator) if name is not None]
    return len(mine.once([*place, *numbers])) == len(mine.once(place))


def line_columns(rows: Part, metric: Metric, *, reference: bool = False) -> list[str]:
    """Columns that tell lines apart. Each seed draws targets of its own: where there are several, each has a line."""
    names = rows.columns.names
    seeds = len(rows.once(["seed"])) > 1
    parameters = [name for name in names if name.startswith("param_") and rows.present(name).any()]
    settings = [*SETTINGS, *(["seed"] if seeds else []), *(TIMING_SETTINGS if is_timing(metric) else ()), *parameters]
    if reference:
        # of the corpus, not of the architecture that read it
        return [name for name in settings if name in ("corpus", "corpus_digest", "seed", *parameters)]
    return [*CHECKPOINT, *(name for name in APART if _several(rows, name)), *settings]


def _several(rows: Part, name: str) -> bool:
    """Whether one checkpoint has rows of several entries in this column under one engine."""
    line = ["checkpoint", "weights_digest", "engine"]
    return len(rows.once([*line, name])) > len(rows.once(line))


def groups(
    rows: Part, task: str, metric: Metric, *, reference: bool = False, among: Part | None = None
) -> Iterator[RowGroup]:
    """All numbers of one metric: by line, then by point in ascending order of the axes.

    Args:
        reference: of a line that belongs to the corpus, not to a checkpoint.
        among: rows whose settings decide which columns tell lines apart; None: these rows alone.
    """
    mine = rows.equal({"task": task}).once(["checkpoint", "cell_id", "sample"])
    alike = mine if among is None else among.equal({"task": task})
    columns, axes = line_columns(alike, metric, reference=reference), list(metric.axes)
    counted = _counted(mine, metric)
    failed = _failed(mine, metric)
    if reference:
        failed = failed.select(np.zeros(len(failed), dtype=bool))
        # what several checkpoints repeat counts once; several windows of one document all count
        whose = metric.cluster or "sample"
        parts = [name for name in (whose, metric.numerator, metric.denominator) if name is not None]
        counted = counted.once([*columns, *axes, *parts])
    ok_lines, lost_lines = _points(counted, columns, axes), _points(failed, columns, axes)
    invalid_lines = _points(_invalid(mine, metric), columns, axes)
    for line in dict.fromkeys((*ok_lines, *lost_lines, *invalid_lines)):
        points, lost, void = ok_lines.get(line, {}), lost_lines.get(line, {}), invalid_lines.get(line, {})
        for point in sorted(points.keys() | lost.keys() | void.keys(), key=_sort_key):
            yield RowGroup(
                task=task,
                metric=metric,
                line=dict(zip(columns, line, strict=True)),
                point=dict(zip(axes, point, strict=True)),
                rows=_believed(points.get(point, NOTHING)),
                failures=lost.get(point, NOTHING),
                invalid=void.get(point, NOTHING),
            )


Key = tuple[Scalar, ...]


def _points(rows: Part, columns: Sequence[str], axes: Sequence[str]) -> dict[Key, dict[Key, Part]]:
    return {
        tuple(line.values()): {tuple(point.values()): found for point, found in part.split(axes)}
        for line, part in rows.split(columns)
    }


def _counted(rows: Part, metric: Metric) -> Part:
    ok = rows.equal({"status": "ok", **metric.where})
    keep = ok.present(metric.numerator)
    if metric.valid is not None:
        keep &= ~_ruled_out(ok, metric.valid)
    return ok.select(keep if metric.denominator is None else keep & ok.present(metric.denominator))


def _believed(rows: Part) -> Part:
    """Without what was measured unchecked, where the same was measured after its probes."""
    unchecked = rows.values("checked") == UNCHECKED
    return rows if unchecked.all() or not unchecked.any() else rows.select(~unchecked)


def _invalid(rows: Part, metric: Metric) -> Part:
    """The ok rows that `valid` rules out."""
    if metric.valid is None:
        return NOTHING
    ok = rows.equal({"status": "ok", **metric.where})
    return ok.select(_ruled_out(ok, metric.valid))


def _ruled_out(rows: Part, valid: str) -> np.ndarray:
    return np.array([value is False for value in rows.values(valid)], dtype=bool)


def _failed(rows: Part, metric: Metric) -> Part:
    """Rows of cells that did not end well; they have no keys of samples, and count unless their cell says otherwise."""
    failed = rows.select(rows.values("status") != "ok")
    for name, value in metric.where.items():
        failed = failed.select(np.array([entry in (None, value) for entry in failed.values(name)], dtype=bool))
    return failed


def _sort_key(values: Key) -> tuple[Any, ...]:
    return tuple((value is not None, isinstance(value, str), value if value is not None else 0) for value in values)


# Numbers


def rounds(rows: Part, metric: Metric) -> dict[Any, float]:
    """The metric's number in each round alone: the middle of its repeats, the highest, or a ratio of sums."""
    found = {}
    for key, part in rows.split([ROUND]):
        values = part.floats(metric.numerator)
        if metric.statistic == "median":
            number = stats.middle(values / part.floats(metric.denominator))
        elif metric.statistic in ("max", "count"):
            number = values.max()
        else:
            number = values.sum() / part.floats(metric.denominator).sum()
        found[key[ROUND]] = float(number) * metric.scale
    return found


def estimate(rows: Part, metric: Metric) -> Estimate:
    """The metric's number from the rows of one group, with its interval."""
    if metric.statistic == "count":
        return _count(rows.floats(metric.numerator) * metric.scale)
    if is_timing(metric):
        return over_rounds(list(rounds(rows, metric).values()))
    if metric.statistic in ("median", "max"):
        values = rows.floats(metric.numerator) / rows.floats(metric.denominator) * metric.scale
        value = stats.middle(values) if metric.statistic == "median" else float(values.max())
        reason = f"the {metric.statistic} of {stats.counted(len(values), 'sample')} has no interval"
        return Estimate(value=value, num_clusters=len(values), reason=reason)
    numerator, denominator = rows.floats(metric.numerator), rows.floats(metric.denominator)
    noun = noun_of(metric)
    clusters = None if metric.cluster is None else rows.values(metric.cluster).astype(str)
    if metric.statistic == "proportion":
        made = stats.estimate_proportion(numerator, denominator, clusters=clusters, noun=noun)
        return made.map(lambda share: share * metric.scale)
    made = stats.estimate_ratio(numerator, denominator, clusters=clusters, noun=noun)
    if metric.statistic == "exp_ratio":
        number = made.map(lambda rate: stats.exponential(rate * metric.scale))
        largest = made.value if made.high is None else made.high
        if math.isinf(stats.exponential(largest * metric.scale)) and math.isfinite(largest):
            reason = f"e to the power of {largest * metric.scale:,.0f} is more than a number can be"
            return replace(number, low=None, high=None, method="none", reason=reason)
        return number
    return made.map(lambda rate: rate * metric.scale)


def noun_of(metric: Metric) -> str:
    """What a cluster is."""
    return metric.cluster or "sample"


def counted_by(metric: Metric) -> str | None:
    """The column that says how much text or how many trials a number rests on; None where rounds say it."""
    return None if is_timing(metric) else metric.denominator


def over_rounds(values: Sequence[float], *, level: float = stats.LEVEL) -> Estimate:
    """The geometric mean over rounds; where a round has no positive number, their median without an interval."""
    if min(values) > 0:
        return stats.estimate_rounds(values, level=level)
    reason = "a geometric mean needs positive numbers"
    return Estimate(value=float(np.median(values)), num_clusters=len(values), reason=reason)


def _count(values: np.ndarray) -> Estimate:
    """The highest of what was counted, such as the bytes of a state: the same whenever it is counted again."""
    reason = "one sample" if len(values) == 1 else f"the highest of {len(values)} samples"
    return Estimate(value=float(values.max()), method=EXACT, num_clusters=len(values), reason=f"{reason}, a count")


def noise(rows: Part, metric: Metric) -> tuple[bool | None, int | None]:
    """Whether a timing is noisy, and how many repeats lie beyond Tukey's inner fences; None for other numbers."""
    if not is_timing(metric) or metric.statistic in ("max", "count"):
        return None, None
    values = rows.floats(metric.numerator) / rows.floats(metric.denominator)
    return stats.relative_iqr(values) > NOISY_IQR, stats.count_outliers(values)[0]


def head(group: RowGroup) -> dict[str, Any]:
    """What a group's number is, without the number."""
    metric = group.metric
    return {
        "task": group.task,
        "metric": metric.name,
        "label": metric.label,
        "unit": metric.unit,
        "better": metric.better,
        "statistic": metric.statistic,
        **dict.fromkeys(CHECKPOINT),
        **group.line,
        **group.point,
        "cluster": metric.cluster,
        "counted": counted_by(metric),
        "counts": None if counted_by(metric) is None else metric.counts or None,
        "axes": ",".join(metric.axes),
    }


def extrapolated(group: RowGroup) -> Scalar:
    """Whether the point lies beyond the line's training context; None when unknown or without meaning."""
    rows = next((rows for rows in (group.rows, group.failures) if len(rows)), group.invalid)
    return rows.first("extrapolated") if "checkpoint" in group.line else None


def checked(group: RowGroup) -> Scalar:
    """The worst that the rows of a number say of its probes: unchecked, then partly; None where nothing was probed."""
    found = set(group.rows.values("checked")) if "checkpoint" in group.line else set()
    return next((word for word in (UNCHECKED, PARTLY, PASSED) if word in found), None)


def record(group: RowGroup) -> dict[str, Any]:
    """One row of the summary."""
    metric, rows, failures = group.metric, group.rows, group.failures
    counted = counted_by(metric)
    what = head(group) | {
        "num_samples": len(rows),
        "num_counted": None if counted is None else float(rows.floats(counted).sum()),
        "num_failed": len({*failures.values("cell_id"), *group.invalid.values("cell_id")}),
        "extrapolated": extrapolated(group),
        "checked": checked(group),
    }
    if not len(rows):
        nothing = dict.fromkeys(("value", "low", "high", "method", "noisy", "num_outliers"))
        status, reason = group.ended
        ended = {"status": status, "reason": reason, "num_clusters": 0}
        return what | nothing | ended
    made = estimate(rows, metric)
    noisy, num_outliers = noise(rows, metric)
    return what | {
        "value": made.value,
        "low": made.low,
        "high": made.high,
        "method": made.method,
        "num_clusters": made.num_clusters,
        "status": "ok",
        "reason": made.reason,
        "noisy": noisy,
        "num_outliers": num_outliers,
    }
