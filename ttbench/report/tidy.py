"""Records as a table: which columns a summary and a comparison have beside those of rows, and their types.

The columns of rows that tell numbers apart (`summary.CHECKPOINT` ...), parameters and axes keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ttbench.declare import ColumnDeclaration, real, text, truth, whole
from ttbench.store import rows

# What a number is.
HEAD: Mapping[str, ColumnDeclaration] = {
    "metric": text("the number, by the name that its task declares"),
    "label": text("the metric in words"),
    "unit": text("unit of value, low and high, or of value_a and value_b"),
    "better": text("which way is better: lower, higher or neither"),
    "statistic": text("how rows make the number: ratio, exp_ratio, proportion, median, max or count"),
    "a": text("comparison: one side, a checkpoint or some settings of it"),
    "b": text("comparison: the other side"),
    "restates": text("comparison: metric that is the same on another scale, and is judged for both"),
    "train_ctx_a": whole("comparison: training context of a", "tokens"),
    "train_ctx_b": whole("comparison: training context of b", "tokens"),
    "checked_a": text("comparison: what probes said of a"),
    "checked_b": text("comparison: what probes said of b"),
}
# The number, and how sure it is.
TAIL: Mapping[str, ColumnDeclaration] = {
    "kind": text("comparison: how a and b are compared: difference (a - b) or ratio (a / b)"),
    "value": real("table: the number, in its unit"),
    "value_a": real("comparison: the number of a, over shared targets"),
    "value_b": real("comparison: the number of b, over shared targets"),
    "effect": real("comparison: a - b in the unit, or a / b"),
    "low": real("lower end of the interval: of the value in 95 of 100, of the effect at `level`"),
    "high": real("upper end of the interval"),
    "level": real("comparison: level of the interval alone, such that those of all comparisons hold together"),
    "p": real("comparison: p-value of no difference at this point alone; it decides nothing"),
    "joint_p": real("comparison: p-value among all comparisons of the metric; a difference is shown below 0.05 only"),
    "detectable": real("comparison: smallest effect that as many samples would show four times in five"),
    "smallest_effect": real("comparison: effect below which a difference does not matter"),
    "num_counted": real("sum of the column that `counted` names: how much text or how many trials"),
    "num_points": whole("comparison: comparisons of the metric that are judged together: its family"),
    "training_sd": real(
        "comparison: standard deviation that other seeds of training give a difference, or the logarithm of a ratio; "
        "null: not known"
    ),
    "training_seeds": whole("comparison: trainings that it rests on"),
    "winner": text("head to head: the side that is shown to be better; null: neither"),
    "said": text("head to head: the verdict in words, such as ttt-linear better or not comparable (ttt-linear: oom)"),
    "family": text("head to head: what the comparisons that are judged together are of: task and metric"),
    "verdict": text("comparison: what the interval says, such as a better or no difference shown"),
    "method": text("how the interval was made; exact for a count, none without an interval"),
    "axes": text("columns that a number is made for, beside the checkpoint, separated by commas"),
    "cluster": text("column whose equal values are not independent of each other"),
    "num_clusters": whole("clusters that the interval rests on"),
    "num_samples": whole("table: rows that the number is made of"),
    "num_pairs": whole("comparison: pairs of observations on the same target, or of rounds"),
    "counted": text("column that says how much was read or asked"),
    "counts": text("what that column counts, in the singular; null: nothing that is told. Not in CSV files"),
    "num_failed": whole("table: cells that gave no number"),
    "num_outliers": whole("table: timed repeats beyond Tukey's inner fences"),
    "status": text("table: ok, or why there is no number"),
    "reason": text("why there is no number, no interval or no verdict"),
    "extrapolated": truth("whether the point lies beyond the training context; null: unknown"),
    "noisy": truth("table: whether the quartiles of the repeats are more than 10 % of the median apart"),
    "checked": text("table: the worst that probes said of the rows: unchecked, partly or passed"),
}
_DTYPES = {"real": "Float64", "truth": "boolean", "whole": "Int64"}


def tidy(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Records as a DataFrame whose missing values are null whatever the column's type; never NaN among floats."""
    names = list(dict.fromkeys(name for entry in records for name in entry)) or ["task", "metric", *TAIL]
    order = [*(name for name in names if name not in TAIL), *(name for name in TAIL if name in names)]
    frame = pd.DataFrame({name: [entry.get(name) for entry in records] for name in order}, dtype=object)
    # rows from before the probes say nothing of them
    for name in ("checked", "checked_a", "checked_b"):
        if name in frame and all(entry is None for entry in frame[name].tolist()):
            frame = frame.drop(columns=name)
    declared = {**rows.COLUMNS, **HEAD, **TAIL}
    kinds = {name: declared[name].kind for name in frame if name in declared}
    return frame.astype({name: _DTYPES[kind] for name, kind in kinds.items() if kind in _DTYPES})
