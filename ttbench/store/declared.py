"""What the task or the architecture of a plug-in must declare, asked before anything is identified or measured.

A task's rows would else make no table, and an architecture would break commands that have nothing to do with it. Those
that are built in declare it too, which tests ask. Torch-free at import.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from ttbench.errors import PlugInError
from ttbench.tasks.base import Task, declarations
from ttbench.types import Figure, Metric

_ATTRIBUTES = {
    "name": str,
    "version": int,
    "metrics": tuple,
    "isolation": str,
    "needs_corpus": bool,
    "default_ctx": str,
}


_OF_THE_MODEL = "choice_"  # how columns of its choices begin


def require_task(found: Any) -> None:
    """Raises PlugInError when an object is no task, or one whose declarations do not fit each other."""
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise PlugInError(f"it is no class made from ttbench.tasks.base.Task, but {found!r}")
    for fault in _faults(found):
        raise PlugInError(fault)


def require_architecture(found: Any) -> None:
    """Raises PlugInError when an object is no architecture, or names no dialect of its config."""
    # Late: torch, which no task needs here.
    from ttbench.models.base import Dialect, SequenceModel

    if not (isinstance(found, type) and issubclass(found, SequenceModel)):
        raise PlugInError(f"it is no class made from ttbench.models.base.SequenceModel, but {found!r}")
    dialects = getattr(found, "DIALECTS", None)
    if not isinstance(dialects, tuple) or not dialects or not all(isinstance(each, Dialect) for each in dialects):
        raise PlugInError(f"its DIALECTS must be a tuple of one Dialect at least, and are {dialects!r}")


def _faults(task: type[Task]) -> Iterator[str]:
    """Each thing that is wrong, in words; what is behind the first may only follow from it."""
    if inspect.isabstract(task):
        yield f"it does not define {' and '.join(sorted(task.__abstractmethods__))}"
    for name, kind in _ATTRIBUTES.items():
        if not hasattr(task, name):
            yield f"it does not say its {name}"
        value = getattr(task, name)
        if not isinstance(value, kind):
            yield f"its {name} is {value!r}, which is no {kind.__name__}"
    yield from _not_among("its isolation", task.isolation, _choices(Task, "isolation"))
    if not dataclasses.is_dataclass(getattr(task, "Params", None)):
        yield "its Params is no dataclass"
    for name, kind in (("columns", Mapping), ("figures", tuple)):
        if getattr(task, name) is not None and not isinstance(getattr(task, name), kind):
            yield f"its {name} is {getattr(task, name)!r}, which is no {kind.__name__.lower()}"
    hints = typing.get_type_hints(task.Params)
    read = declarations(task)
    for field in dataclasses.fields(task.Params):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            yield f"the parameter '{field.name}' has no default"
        if f"param_{field.name}" not in read:
            yield f"the parameter '{field.name}' is {hints[field.name]}, which no column holds: take text or numbers"
    for index, metric in enumerate(task.metrics):
        if not isinstance(metric, Metric):
            yield f"its metric number {index + 1} is no Metric, but {metric!r}"
    for index, figure in enumerate(task.figures or ()):
        if not isinstance(figure, Figure):
            yield f"its figure number {index + 1} is no Figure, but {figure!r}"
    for noun, names in (
        ("metrics", [metric.name for metric in task.metrics]),
        ("figures", [figure.name for figure in task.figures or ()]),
    ):
        for name, number in Counter(names).items():
            if number > 1:
                yield f"{number} {noun} are called '{name}'"
    for metric in task.metrics:
        yield from _metric_faults(metric, task)
    for figure in task.figures or ():
        yield from _figure_faults(figure, task)


def _metric_faults(metric: Metric, task: type[Task]) -> Iterator[str]:
    where = f"metric '{metric.name}'"
    for name in ("better", "statistic"):
        yield from _not_among(f"{where} has {name}", getattr(metric, name), _choices(Metric, name))
    if metric.restates is not None:
        yield from _not_among(f"{where} restates", metric.restates, [other.name for other in task.metrics])
    if task.columns is None:
        return
    named = {
        "numerator": [metric.numerator],
        "denominator": [metric.denominator],
        "cluster": [metric.cluster],
        "valid": [metric.valid],
        "axes": metric.axes,
        "where": metric.where,
    }
    for name, columns in named.items():
        for column in columns:
            if column is not None and not column.startswith(_OF_THE_MODEL) and not _is_column(column, task):
                own = ", ".join(task.columns) or "none"
                yield f"{where} has {name} '{column}', which is none of its columns: {own}"


def _is_column(name: str, task: type[Task]) -> bool:
    """Whether rows of the task have such a column, of its own or as every row has."""
    if name in declarations(task) or name in ("context_len", "round"):
        return True
    # Late: pandas, which a worker that measures nothing wrong needs not.
    from ttbench.store.rows import COLUMNS, SAMPLE

    return name in COLUMNS or name in SAMPLE


def _figure_faults(figure: Figure, task: type[Task]) -> Iterator[str]:
    where, metrics = f"figure '{figure.name}'", {metric.name: metric for metric in task.metrics}
    yield from _not_among(f"{where} has kind", figure.kind, _choices(Figure, "kind"))
    for name in (figure.metric, *figure.references):
        yield from _not_among(f"{where} shows", name, list(metrics), noun="the metrics")
    if figure.kind == "heatmap" and figure.metric in metrics:
        for axis in (figure.x_axis, figure.y_axis):
            axes = metrics[figure.metric].axes
            yield from _not_among(f"{where} has axis", axis, axes, noun=f"the axes of '{figure.metric}'")


def _not_among(what: str, value: Any, known: Collection[Any], *, noun: str = "") -> Iterator[str]:
    if value not in known:
        listed = ", ".join(map(str, known)) or "none"
        yield f"{what} '{value}', which is none of {noun + ': ' if noun else ''}{listed}"


def _choices(owner: type[Any], name: str) -> tuple[Any, ...]:
    """What the annotation of an attribute allows."""
    hint = typing.get_type_hints(owner)[name]
    inner = hint if typing.get_origin(hint) is Literal else typing.get_args(hint)[0]
    return typing.get_args(inner)
