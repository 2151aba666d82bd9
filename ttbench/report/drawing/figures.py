"""Figures: each one a value that says what it shows, drawn from a summary as PNG, SVG and PDF, always the same bytes.

What a figure shows is declared by its task (`ttbench.types.Figure`) and travels with the rows.
"""

from __future__ import annotations

import dataclasses
import io
import re
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ttbench.report import summary, words
from ttbench.report.drawing import prose
from ttbench.report.drawing.canvas import COLUMN, DPI, PAGE, Layout, load_library, style
from ttbench.report.drawing.curves import draw_curves
from ttbench.report.drawing.heatmaps import draw_heatmap
from ttbench.report.drawing.overview import draw_overview
from ttbench.report.drawing.rooflines import draw_roofline, drawable
from ttbench.report.overview import overview
from ttbench.report.words import Record
from ttbench.store.files import write_whole
from ttbench.types import Figure, Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FORMATS = ("png", "svg", "pdf")
COLUMN_FORMATS = ("pdf",)  # of the width of a column, which a paper takes
SUMMARY = "summary"


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
            title=f"{words.capital(metric.label)} against context",
            metric=metric.name,
            references=tuple(other.name for other in beneath if _kind(other) == _kind(metric)),
        )
        for metric in ranked
        if metric.restates is None
    ]


def _kind(metric: Metric) -> tuple[object, ...]:
    return metric.unit, metric.axes, dict(metric.where)


def available(table: pd.DataFrame) -> tuple[Figure, ...]:
    """The figures of a summary that read better than a sentence or a table: see `ttbench.report.drawing.prose`."""
    entries = words.records(table)
    return tuple(figure for figure in declared(table) if any(_pictures(figure, entries)))


def _pictures(figure: Figure, entries: Sequence[Record]) -> list[list[Record]]:
    """The numbers of a figure by corpus, where a picture tells more of them than words."""
    found = words.by(_entries(entries, figure.metric, figure.task), "corpus")
    if figure.kind == "roofline":
        return [mine for mine in found if any(drawable(mine))]
    return [mine for mine in found if isinstance(prose.judge(mine, **_shape(figure)), prose.Picture)]


def _shape(figure: Figure) -> dict[str, Any]:
    axes = (figure.x_axis, figure.y_axis) if figure.kind == "heatmap" else None
    return {"title": figure.title, "axes": axes}


def not_drawn(table: pd.DataFrame) -> tuple[str, ...]:
    """Instead of each figure that would show nothing, or mud: a sentence or a table, as Markdown."""
    entries = [_rounded(entry) for entry in words.records(table)]
    judged = [
        prose.judge(mine, **_shape(figure))
        for figure in declared(table)
        if figure.kind != "roofline"
        for mine in words.by(_entries(entries, figure.metric, figure.task), "corpus")
    ]
    return tuple(each for each in judged if isinstance(each, str))


def draw_summary(table: pd.DataFrame, folder: Path) -> tuple[Path, ...]:
    """Draw all models side by side into `folder`; no file where there is one model, or no number. Returns the files."""
    entries = [_rounded(entry) for entry in words.records(table)]
    found = overview(entries, headlines(table))
    if found is None:
        return ()
    texts = {*found.rows, *(column.title for column in found.columns)}
    with style(texts):
        return write_drawings(lambda layout: draw_overview(found, layout=layout), folder, SUMMARY)


def headlines(table: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """The metrics, (task, name), that are drawn against the context: what is told of a model first."""
    return tuple((figure.task, figure.metric) for figure in declared(table) if figure.kind == "curve")


def draw(
    figure: Figure, table: pd.DataFrame, folder: Path, *, warn: Callable[[str], None] = warnings.warn
) -> tuple[Path, ...]:
    """Draw a figure from a summary into `folder`; of several corpora, each apart. Returns the files.

    PNG, SVG and PDF have the width of a page; `<name>_column.pdf` that of one of two columns. `warn` is told in a line
    of names that no installed font can draw.
    """
    entries = [_rounded(entry) for entry in words.records(table)]
    names = list(dict.fromkeys(entry["checkpoint"] for entry in entries if entry["checkpoint"] is not None))
    several = len(words.by(_entries(entries, figure.metric, figure.task), "corpus")) > 1
    paths: list[Path] = []
    for mine in _pictures(figure, entries):
        corpus = mine[0]["corpus"]
        apart = f"_{re.sub(r'[^A-Za-z0-9.-]+', '-', str(corpus))}" if several else ""
        texts = {value for entry in mine for value in entry.values() if isinstance(value, str)}
        others = (*figure.references, *([figure.x_axis] if figure.kind == "roofline" else []))
        parts = [_entries(entries, name, figure.task) for name in others]
        parts = [[entry for entry in part if entry["corpus"] == corpus] for part in parts]
        with style(texts) as missing:
            if missing:
                warn(f"no installed font has {missing}: boxes stand for these letters in {figure.name}{apart}")
            drawn = _drawing(figure, mine, parts, names)
            paths += write_drawings(drawn, folder, f"{figure.name}{apart}")
    return tuple(paths)


Drawing = Callable[[Layout], "Canvas"]


def _drawing(figure: Figure, mine: list[Record], others: list[list[Record]], names: list[str]) -> Drawing:
    """A figure, to be drawn in any width; `others` are its references, and of a roofline the bytes moved."""
    # a line of one checkpoint's own is no reference of all
    beneath = [part for part in ([entry for entry in each if entry["checkpoint"] is None] for each in others) if part]

    def drawn(layout: Layout) -> Canvas:
        if figure.kind == "roofline":
            memory, arithmetic, moved = others
            return draw_roofline(
                figure.title, mine, moved=moved, memory=memory, arithmetic=arithmetic, names=names, layout=layout
            )
        if figure.kind == "heatmap":
            return draw_heatmap(figure.title, mine, x_axis=figure.x_axis, y_axis=figure.y_axis, layout=layout)
        return draw_curves(figure.title, mine, beneath=beneath, names=names, log_y=figure.log_y, layout=layout)

    return drawn


# No date and no version of the library, which would change the bytes.
_METADATA: Mapping[str, Mapping[str, str | None]] = {
    "png": {"Software": "ttbench"},
    "svg": {"Date": None, "Creator": "ttbench"},
    "pdf": {"CreationDate": None, "Creator": "ttbench", "Producer": "ttbench"},
}


def write_drawings(drawing: Drawing, folder: Path, name: str) -> tuple[Path, ...]:
    """Draw in each layout, and write each of its formats, the same bytes each time; returns the files."""
    paths = []
    for layout, formats in ((PAGE, FORMATS), (COLUMN, COLUMN_FORMATS)):
        canvas = drawing(layout)
        for kind in formats:
            path = folder / f"{name}{layout.suffix}.{kind}"
            buffer = io.BytesIO()
            canvas.savefig(buffer, format=kind, dpi=DPI, metadata=dict(_METADATA[kind]), facecolor="white")
            write_whole(path, buffer.getvalue())
            paths.append(path)
    return tuple(paths)


def is_ours(path: Path) -> bool:
    """Whether a file is a PNG that was drawn here, by what it says of itself."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    marks = (f"{key}\0{value}".encode() for key, value in _METADATA["png"].items())
    return head.startswith(b"\x89PNG") and all(mark in head for mark in marks)


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


def same_streams(one: Path, two: Path) -> bool:
    """Whether two PDF files hold the same pages and fonts, however they are packed."""
    return _streams(one.read_bytes()) == _streams(two.read_bytes())


def _streams(data: bytes) -> list[bytes]:
    found = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
    return [zlib.decompressobj().decompress(stream) for stream in found]


def _entries(entries: Sequence[Record], metric: str, task: str) -> list[Record]:
    return [entry for entry in entries if entry["metric"] == metric and entry["task"] == task]
