"""The number of a cell that has just ended, for the line that a run's progress prints: a value without an interval."""

from __future__ import annotations

from ttbench.report import words
from ttbench.report.statistics import stats
from ttbench.store.record import CellRecord
from ttbench.types import Metric

_SUMS = ("ratio", "exp_ratio", "proportion")


def headline(record: CellRecord) -> str | None:
    """The first of the task's metrics that ranks checkpoints and is a ratio of sums, in words.

    None for cells that did not end well and for timings, which need more than one round to be a number.
    """
    for metric in record.metrics:
        if metric.better == "neither" or metric.statistic not in _SUMS or metric.cluster == "round":
            continue
        value = None if metric.axes != ("context_len",) else _value(record, metric)
        if value is not None:
            scale = words.scale(metric.unit, [value], statistic=metric.statistic, digits=4)
            percent = scale.unit if metric.statistic == "proportion" else ""
            return f"{scale.text(value)}{percent} {metric.label}"
    return None


def _value(record: CellRecord, metric: Metric) -> float | None:
    """The ratio of the sums over the samples that count; None where there is none."""
    if metric.denominator is None:
        return None
    params = {f"param_{name}": value for name, value in record.cell.params.items()}
    above = below = 0.0
    for sample in record.samples:
        row = {**params, **sample.keys, **sample.values}
        over, under = row.get(metric.numerator), row.get(metric.denominator)
        if over is None or under is None or any(row.get(name) != value for name, value in metric.where.items()):
            continue
        above, below = above + float(over), below + float(under)
    if not below:
        return None
    value = above / below * metric.scale
    return stats.exponential(value) if metric.statistic == "exp_ratio" else value
