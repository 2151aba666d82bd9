"""The number of a cell that has just ended, for the line that a run's progress prints: a value without an interval."""

from __future__ import annotations

import math

import pandas as pd

from ttbench.record import CellRecord
from ttbench.report import words
from ttbench.rows import frame, table
from ttbench.types import Metric

_SUMS = ("ratio", "exp_ratio", "proportion")


def headline(record: CellRecord) -> str | None:
    """The first of the task's metrics that ranks checkpoints and is a ratio of sums, in words.

    None for cells that did not end well and for timings, which need more than one round to be a number.
    """
    rows = frame(table([record]))
    for metric in record.metrics:
        if metric.better == "neither" or metric.statistic not in _SUMS or metric.cluster == "round":
            continue
        value = None if metric.axes != ("context_len",) else _value(rows, metric)
        if value is not None:
            scale = words.scale(metric.unit, [value], statistic=metric.statistic, digits=4)
            percent = scale.unit if metric.statistic == "proportion" else ""
            return f"{scale.text(value)}{percent} {metric.label}"
    return None


def _value(rows: pd.DataFrame, metric: Metric) -> float | None:
    columns = [metric.numerator, *([metric.denominator] if metric.denominator else [])]
    if not {*columns, *metric.where} <= set(rows.columns):
        return None
    for name, wanted in metric.where.items():
        rows = rows[rows[name] == wanted]
    sums = rows[rows["status"] == "ok"][columns].dropna().sum()
    if metric.denominator is None or not sums[metric.denominator]:
        return None
    value = float(sums[metric.numerator] / sums[metric.denominator]) * metric.scale
    return math.exp(value) if metric.statistic == "exp_ratio" else value
