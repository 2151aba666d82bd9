"""Rows to numbers: which rows make which number, and the number with its interval.

rows -> groups (one metric of one line at one point) -> Estimate

A *line* is a checkpoint under one set of settings; a *point* is one value of each axis. Numbers are never pooled
across settings that could change them: two settings are two lines. Timings (metrics whose cluster is the round) are
made round by round, and their lines are also told apart by machine and threads. Torch-free: sees DataFrames only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ttbench import stats
from ttbench.errors import UsageError
from ttbench.stats import Estimate
from ttbench.types import Metric, Scalar

CHECKPOINT = ("checkpoint", "architecture", "revision", "weights_digest", "tokenizer_digest", "train_ctx")
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
TIMING_SETTINGS = ("threads", "machine")
ROUND = "round"  # the cluster of timings
NOISY_IQR = 0.1  # quartiles further apart than this share of the median: noisy


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The rows that make one number."""

    task: str
    metric: Metric
    line: Mapping[str, Scalar]  # checkpoint and settings; a reference has settings only
    point: Mapping[str, Scalar]  # axis -> value
    rows: pd.DataFrame  # ok rows that count
    failures: pd.DataFrame  # rows of cells that ended otherwise


def metrics_of(rows: pd.DataFrame) -> dict[str, tuple[Metric, ...]]:
    """Metrics of each task, from `rows.attrs["metrics"]`. Raises UsageError when a task of the rows has none."""
    declared = rows.attrs.get("metrics", {})
    tasks = list(dict.fromkeys(rows["task"])) if "task" in rows else []
    missing = [task for task in tasks if task not in declared]
    if missing or "task" not in rows:
        raise UsageError(
            f"rows carry no metrics for {', '.join(map(repr, missing)) or 'any task'}; "
            "read them with ttbench.rows.read_rows or Store.rows, which keep rows.attrs['metrics']"
        )
    return {task: tuple(Metric.from_json(metric) for metric in declared[task]) for task in tasks}


def is_timing(metric: Metric) -> bool:
    """Made from rounds, fresh processes on one machine, rather than from documents or trials."""
    return metric.cluster == ROUND


def is_reference(metric: Metric, metrics: Iterable[Metric]) -> bool:
    """A line beneath the table of another metric of the task, the same for every checkpoint: a compressor's size."""
    return metric.better == "neither" and any(
        other.better != "neither" and (other.unit, other.axes) == (metric.unit, metric.axes) for other in metrics
    )


def plain(value: Any) -> Any:
    """A cell of a DataFrame as plain Python, None when missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def select(rows: pd.DataFrame, keep: ArrayLike) -> pd.DataFrame:
    """Rows for which `keep`, a column of truth values, is true; missing is false."""
    return rows.iloc[np.flatnonzero(np.asarray(pd.Series(keep, dtype="boolean").fillna(False), dtype=bool))]


def split(frame: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Sub-frames of equal values in `columns`, missing ones equal to each other, in order of first appearance."""
    if not len(frame):
        return
    present = [column for column in columns if column in frame]
    codes = np.zeros((len(frame), len(present)), dtype=np.int64)
    for index, column in enumerate(present):
        codes[:, index] = pd.factorize(frame[column], use_na_sentinel=True)[0]
    _, first, inverse = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.ravel()
    for label in np.argsort(first):
        part = frame.iloc[np.flatnonzero(inverse == label)]
        yield {name: plain(part[name].iloc[0]) if name in present else None for name in columns}, part


def line_columns(rows: pd.DataFrame, metric: Metric, *, reference: bool = False) -> list[str]:
    """Columns that tell lines apart."""
    parameters = [name for name in rows.columns if name.startswith("param_") and any(rows[name].notna())]
    settings = [*SETTINGS, *(TIMING_SETTINGS if is_timing(metric) else ()), *parameters]
    if reference:
        # of the corpus, not of the architecture that read it
        return [name for name in settings if name in ("corpus", "corpus_digest", *parameters)]
    return [*CHECKPOINT, *settings]


def groups(rows: pd.DataFrame, task: str, metric: Metric, *, reference: bool = False) -> Iterator[Group]:
    """All numbers of one metric: by line, then by point in ascending order of the axes."""
    mine = select(rows, rows["task"] == task)
    # pandas copies attrs, deeply, at every step
    mine.attrs = {}
    mine = select(mine, ~mine.duplicated(["cell_id", "sample"]) & _matches(mine, metric.where))
    columns = line_columns(mine, metric, reference=reference)
    axes = list(metric.axes)
    for line, part in split(mine, columns):
        ok = part["status"] == "ok"
        counted, failed = _counted(select(part, ok), metric), select(part, ~ok)
        if reference and metric.cluster is not None and len(counted):
            counted = select(counted, ~counted.duplicated([*axes, metric.cluster]))
        points = {tuple(point.values()): found for point, found in split(counted, axes)}
        lost = {tuple(point.values()): found for point, found in split(failed, axes)} if not reference else {}
        for values in sorted(points.keys() | lost.keys(), key=_sort_key):
            point = dict(zip(axes, values, strict=True))
            yield Group(
                task=task,
                metric=metric,
                line=line,
                point=point,
                rows=points[values] if values in points else counted.iloc[:0],
                failures=lost[values] if values in lost else failed.iloc[:0],
            )


def _matches(rows: pd.DataFrame, where: Mapping[str, Scalar]) -> pd.Series:
    """Rows that count; the row of a failed cell has no keys of samples and counts unless its cell says otherwise."""
    keep = pd.Series(True, index=rows.index)
    for column, value in where.items():
        if column not in rows:
            keep &= rows["status"] != "ok"
            continue
        equal = (rows[column] == value).fillna(False).astype(bool)
        keep &= equal | ((rows["status"] != "ok") & rows[column].isna())
    return keep


def _counted(ok: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    needed = [column for column in (metric.numerator, metric.denominator) if column is not None]
    if any(column not in ok for column in needed):
        return ok.iloc[:0]
    return select(ok, ok[needed].notna().all(axis=1))


def _sort_key(values: tuple[Scalar, ...]) -> tuple[Any, ...]:
    return tuple((value is not None, isinstance(value, str), value if value is not None else 0) for value in values)


# Numbers


def column(rows: pd.DataFrame, name: str | None) -> np.ndarray:
    """A column of raw values, float64 [N]; ones without a name."""
    if name is None:
        return np.ones(len(rows))
    return rows[name].to_numpy(dtype=np.float64)


def labels(rows: pd.DataFrame, name: str | None) -> np.ndarray | None:
    """Cluster labels of rows, [N] strings."""
    return None if name is None else rows[name].astype(str).to_numpy()


def rounds(rows: pd.DataFrame, metric: Metric) -> dict[Any, float]:
    """The metric's number in each round alone: median, highest, or ratio of sums."""
    found = {}
    for key, part in split(rows, [ROUND]):
        values = column(part, metric.numerator)
        if metric.statistic == "median":
            number = np.median(values)
        elif metric.statistic == "max":
            number = values.max()
        else:
            number = values.sum() / column(part, metric.denominator).sum()
        found[key[ROUND]] = float(number) * metric.scale
    return found


def estimate(rows: pd.DataFrame, metric: Metric) -> Estimate:
    """The metric's number from the rows of one group, with its interval.

    A timing's ratio is the median over rounds of each round's ratio of sums.
    """
    if metric.statistic == "max":
        return _highest(rounds(rows, metric))
    if metric.statistic == "median" or is_timing(metric):
        return stats.estimate_median(list(rounds(rows, metric).values()))
    numerator, denominator = column(rows, metric.numerator), column(rows, metric.denominator)
    clusters, noun = labels(rows, metric.cluster), noun_of(metric)
    if metric.statistic == "proportion":
        made = stats.estimate_proportion(numerator, denominator, clusters=clusters, noun=noun)
        return made.map(lambda share: share * metric.scale)
    made = stats.estimate_ratio(numerator, denominator, clusters=clusters, noun=noun)
    if metric.statistic == "exp_ratio":
        return made.map(lambda rate: math.exp(rate * metric.scale))
    return made.map(lambda rate: rate * metric.scale)


def noun_of(metric: Metric) -> str:
    """What the clusters are, in the plural."""
    return "samples" if metric.cluster is None else f"{metric.cluster}s"


def _highest(by_round: Mapping[Any, float]) -> Estimate:
    values = list(by_round.values())
    if min(values) == max(values) and len(values) > 1:
        # the same in every fresh process: a count, not a measurement
        return Estimate(value=values[0], method="exact", num_clusters=len(values), reason="equal in every round")
    reason = f"the highest of {len(values)} rounds has no interval"
    return Estimate(value=max(values), num_clusters=len(values), reason=reason)


def noise(rows: pd.DataFrame, metric: Metric) -> tuple[bool | None, int | None]:
    """Whether a timing is noisy, and how many repeats lie beyond Tukey's inner fences; None for other numbers."""
    if not is_timing(metric) or metric.statistic == "max":
        return None, None
    values = column(rows, metric.numerator) / column(rows, metric.denominator)
    return stats.relative_iqr(values) > NOISY_IQR, stats.count_outliers(values)[0]


def record(group: Group) -> dict[str, Any]:
    """One row of the summary."""
    metric, rows, failures = group.metric, group.rows, group.failures
    head = {
        "task": group.task,
        "metric": metric.name,
        "label": metric.label,
        "unit": metric.unit,
        "better": metric.better,
        "statistic": metric.statistic,
        **dict.fromkeys(CHECKPOINT),
        **group.line,
        **group.point,
    }
    both = rows if len(rows) else failures
    tail: dict[str, Any] = {
        "cluster": metric.cluster,
        "num_samples": len(rows),
        "num_failed": failures["cell_id"].nunique(),
        "extrapolated": None if "checkpoint" not in group.line else plain(both["extrapolated"].iloc[0]),
    }
    if not len(rows):
        first = failures.iloc[0]
        return head | tail | {"status": first["status"], "reason": plain(first["reason"]), "num_clusters": 0}
    made = estimate(rows, metric)
    noisy, num_outliers = noise(rows, metric)
    return (
        head
        | tail
        | {
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
    )


_FLOATS = ("value", "value_a", "value_b", "effect", "low", "high", "p", "p_holm", "detectable")
_TRUTHS = ("extrapolated", "noisy")
_COUNTS = (
    *("num_clusters", "num_samples", "num_pairs", "num_failed", "num_outliers"),
    *("context_len", "train_ctx", "train_ctx_a", "train_ctx_b", "batch_size", "threads"),
)
_TAIL = (
    *("kind", *_FLOATS, "verdict", "method", "cluster", "num_clusters", "num_samples", "num_pairs", "num_failed"),
    *("num_outliers", "status", "reason", "extrapolated", "noisy"),
)


def tidy(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Records as a DataFrame whose missing values are null whatever the column's type; never NaN among floats."""
    names = list(dict.fromkeys(name for entry in records for name in entry))
    order = [*(name for name in names if name not in _TAIL), *(name for name in _TAIL if name in names)]
    frame = pd.DataFrame({name: [entry.get(name) for entry in records] for name in order}, dtype=object)
    for kind, columns in (("Float64", _FLOATS), ("boolean", _TRUTHS), ("Int64", _COUNTS)):
        frame = frame.astype(dict.fromkeys((name for name in columns if name in frame), kind))
    return frame
