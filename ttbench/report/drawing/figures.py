"""Figures: each one a value that says what it shows, drawn from a summary as PNG and SVG, the same bytes each time.

What a figure shows is declared by its task (`ttbench.types.Figure`) and travels with the rows.
"""

from __future__ import annotations

import dataclasses
import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ttbench.report import summary, words
from ttbench.report.drawing.canvas import DPI, load_library, style
from ttbench.report.drawing.curves import draw_curves
from ttbench.report.drawing.heatmaps import draw_heatmap
from ttbench.report.words import Record
from ttbench.store.store import write_whole
from ttbench.types import Figure, Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FORMATS = ("png", "svg")


def declared(table: pd.DataFrame) -> tuple[Figure, ...]:
    """The figures of a summary's tasks, as they declare them, or one for each metric of a task that declares none.

    A name that an earlier task has is put behind the name of the later task, so that each has files of its own.
    """
    carried, found = table.attrs.get("figures", {}), dict[str, Figure]()
    for task, metrics in summary.metrics_of(table).items():
        mine = [Figure.from_json(figure) for figure in carried[task]] if task in carried else by_metrics(metrics)
        for figure in mine:
            name = f"{task}_{figure.name}" if figure.name in found else figure.name
            found[name] = dataclasses.replace(figure, name=name, task=task)
    return tuple(found.values())


def by_metrics(metrics: Sequence[Metric]) -> list[Figure]:
    """A curve against the context for each metric that ranks checkpoints, with what it can be read against."""
    ranked = [metric for metric in metrics if metric.better != "neither" and metric.axes == ("context_len",)]
    beneath = [metric for metric in metrics if summary.is_reference(metric, metrics)]
    return [
        Figure(
            name=metric.name,
            title=f"{metric.label[:1].upper()}{metric.label[1:]} against context",
            metric=metric.name,
            references=tuple(other.name for other in beneath if _kind(other) == _kind(metric)),
        )
        for metric in ranked
        if metric.restates is None
    ]


def _kind(metric: Metric) -> tuple[object, ...]:
    return metric.unit, metric.axes, dict(metric.where)


def available(table: pd.DataFrame) -> tuple[Figure, ...]:
    """The figures that a summary has numbers for: at two contexts or more, or at two places down a heat map."""
    entries = words.records(table)
    found = []
    for figure in declared(table):
        mine = [entry for entry in _entries(entries, figure.metric, figure.task) if entry["value"] is not None]
        contexts = {entry["context_len"] for entry in mine}
        if len(contexts) > 1 or (figure.kind == "heatmap" and len({entry[figure.y_axis] for entry in mine}) > 1):
            found.append(figure)
    return tuple(found)


def draw(
    figure: Figure, table: pd.DataFrame, folder: Path, *, warn: Callable[[str], None] = warnings.warn
) -> tuple[Path, ...]:
    """Draw a figure from a summary into `folder`, as PNG and SVG; of several corpora, each apart. Returns the files.

    `warn` is told in a line of names that no installed font can draw.
    """
    entries = [_rounded(entry) for entry in words.records(table)]
    names = list(dict.fromkeys(entry["checkpoint"] for entry in entries if entry["checkpoint"] is not None))
    corpora = words.by(_entries(entries, figure.metric, figure.task), "corpus")
    paths: list[Path] = []
    for mine in corpora:
        corpus = mine[0]["corpus"]
        apart = f"_{re.sub(r'[^A-Za-z0-9.-]+', '-', str(corpus))}" if len(corpora) > 1 else ""
        texts = {value for entry in mine for value in entry.values() if isinstance(value, str)}
        with style(texts) as missing:
            if missing:
                warn(f"no installed font has {missing}: boxes stand for these letters in {figure.name}{apart}")
            if figure.kind == "heatmap":
                canvas = draw_heatmap(figure.title, mine, x_axis=figure.x_axis, y_axis=figure.y_axis)
            else:
                parts = [_entries(entries, name, figure.task) for name in figure.references]
                parts = [[entry for entry in part if entry["corpus"] == corpus] for part in parts]
                beneath = [part for part in parts if part]
                canvas = draw_curves(figure.title, mine, beneath=beneath, names=names, log_y=figure.log_y)
            paths += _write(canvas, [folder / f"{figure.name}{apart}.{suffix}" for suffix in FORMATS])
    return tuple(paths)


def _write(canvas: Canvas, paths: Sequence[Path]) -> Sequence[Path]:
    for path in paths:
        # no date and no version of the library, which would change the bytes
        metadata = {"Date": None, "Creator": "ttbench"} if path.suffix == ".svg" else {"Software": "ttbench"}
        buffer = io.BytesIO()
        canvas.savefig(buffer, format=path.suffix[1:], dpi=DPI, metadata=metadata, facecolor="white")
        write_whole(path, buffer.getvalue())
    return paths


def _rounded(entry: Record) -> dict[str, Any]:
    """Six significant digits, as in the CSV, so that the last bits of another processor move no pixel."""
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in entry.items()}


def same_pixels(one: Path, two: Path) -> bool:
    """Whether two PNG files show the same picture."""
    import numpy as np

    load_library()
    from matplotlib.image import imread

    a, b = imread(one), imread(two)
    return a.shape == b.shape and bool(np.abs(a - b).mean() < 1e-3)


def _entries(entries: Sequence[Record], metric: str, task: str) -> list[Record]:
    return [entry for entry in entries if entry["metric"] == metric and entry["task"] == task]
