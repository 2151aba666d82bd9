"""Figures: each one a value that says what it shows, drawn from a summary as PNG, SVG and PDF, always the same bytes.

To add a figure, add a value to FIGURES.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ttbench.report import words
from ttbench.report.drawing import prose
from ttbench.report.drawing.canvas import COLUMN, DPI, PAGE, Layout, load_library, style
from ttbench.report.drawing.curves import draw_curves
from ttbench.report.drawing.heatmaps import draw_heatmap
from ttbench.report.drawing.overview import draw_overview
from ttbench.report.overview import overview
from ttbench.report.words import Record
from ttbench.store.store import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FORMATS = ("png", "svg", "pdf")
COLUMN_FORMATS = ("pdf",)  # of the width of a column, which a paper takes
SUMMARY = "summary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one figure shows."""

    name: str  # of its files
    title: str
    task: str
    metric: str
    kind: Literal["curve", "heatmap"] = "curve"
    references: tuple[str, ...] = ()  # metrics drawn as thin grey lines
    log_y: bool = False
    x_axis: str = "context_len"  # of a heat map
    y_axis: str = "depth"


FIGURES: tuple[Figure, ...] = (
    Figure(
        name="bits_per_byte",
        title="Bits per byte against context",
        task="perplexity",
        metric="bits_per_byte",
        references=("bzip2_bits_per_byte", "xz_bits_per_byte"),
    ),
    Figure(
        name="bits_per_base",
        title="Bits per base against context",
        task="genomics",
        metric="bits_per_base",
        references=("even_bits_per_base", "markov_bits_per_base", "bzip2_bits_per_base", "xz_bits_per_base"),
    ),
    Figure(name="needle", title="Needles retrieved against context", task="needle", metric="retrieval"),
    Figure(
        name="needle_by_depth",
        title="Needles retrieved, by context and depth",
        task="needle",
        metric="retrieval_by_depth",
        kind="heatmap",
    ),
    Figure(name="recognition", title="Needles recognised against context", task="needle", metric="recognition"),
    Figure(
        name="recognition_by_depth",
        title="Needles recognised, by context and depth",
        task="needle",
        metric="recognition_by_depth",
        kind="heatmap",
    ),
    Figure(
        name="mqar_by_pairs",
        title="MQAR: questions answered, by context and number of pairs",
        task="recall",
        metric="mqar_by_pairs",
        kind="heatmap",
        y_axis="pairs",
    ),
    *(
        Figure(name=kind, title=f"{title} against context", task="recall", metric=kind, references=(f"{kind}_chance",))
        for kind, title in (
            ("mqar", "MQAR: questions answered"),
            ("copy", "Copying: questions answered"),
            ("parity", "Parity of what was read"),
            ("s5", "Products in S5 of what was read"),
        )
    ),
    Figure(
        name="dispatch",
        title="Where prompts of each domain are sent",
        task="adapt",
        metric="dispatch",
        kind="heatmap",
        x_axis="sent_to",
        y_axis="domain",
    ),
    Figure(
        name="accuracy_by_domain",
        title="Tokens of answers that are the likeliest, by strategy and domain",
        task="adapt",
        metric="accuracy_by_domain",
        kind="heatmap",
        x_axis="domain",
        y_axis="strategy",
    ),
    Figure(name="prefill", title="Time to read the context", task="latency", metric="prefill_s", log_y=True),
    Figure(
        name="decode",
        title="Time for the next token, after the context",
        task="latency",
        metric="decode_s_per_token",
        log_y=True,
    ),
    Figure(name="state", title="State carried after the context", task="memory", metric="state_bytes", log_y=True),
    Figure(
        name="working_memory",
        title="Memory to read the context, above the loaded model",
        task="memory",
        metric="prefill_working_bytes",
    ),
)


def available(table: pd.DataFrame) -> tuple[Figure, ...]:
    """The figures of a summary that read better than a sentence or a table: see `ttbench.report.drawing.prose`."""
    entries = words.records(table)
    return tuple(figure for figure in FIGURES if any(_pictures(figure, entries)))


def _pictures(figure: Figure, entries: Sequence[Record]) -> list[list[Record]]:
    """The numbers of a figure by corpus, where a picture tells more of them than words."""
    found = words.by(_entries(entries, figure.metric, figure.task), "corpus")
    return [mine for mine in found if isinstance(prose.judge(mine, **_shape(figure)), prose.Picture)]


def _shape(figure: Figure) -> dict[str, Any]:
    axes = (figure.x_axis, figure.y_axis) if figure.kind == "heatmap" else None
    return {"title": figure.title, "axes": axes}


def not_drawn(table: pd.DataFrame) -> tuple[str, ...]:
    """Instead of each figure that would show nothing, or mud: a sentence or a table, as Markdown."""
    entries = [_rounded(entry) for entry in words.records(table)]
    judged = [
        prose.judge(mine, **_shape(figure))
        for figure in FIGURES
        for mine in words.by(_entries(entries, figure.metric, figure.task), "corpus")
    ]
    return tuple(each for each in judged if isinstance(each, str))


def draw_summary(table: pd.DataFrame, folder: Path) -> tuple[Path, ...]:
    """Draw all models side by side into `folder`; no file where there is one model, or no number. Returns the files."""
    entries = [_rounded(entry) for entry in words.records(table)]
    found = overview(entries, headlines())
    if found is None:
        return ()
    texts = {*found.rows, *(column.title for column in found.columns)}
    with style(texts):
        return _write(lambda layout: draw_overview(found, layout=layout), folder, SUMMARY)


def headlines() -> tuple[tuple[str, str], ...]:
    """The metrics, (task, name), that are drawn against the context: what is told of a model first."""
    return tuple((figure.task, figure.metric) for figure in FIGURES if figure.kind == "curve")


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
        parts = [_entries(entries, name, figure.task) for name in figure.references]
        parts = [[entry for entry in part if entry["corpus"] == corpus] for part in parts]
        with style(texts) as missing:
            if missing:
                warn(f"no installed font has {missing}: boxes stand for these letters in {figure.name}{apart}")
            drawn = _drawing(figure, mine, [part for part in parts if part], names)
            paths += _write(drawn, folder, f"{figure.name}{apart}")
    return tuple(paths)


Drawing = Callable[[Layout], "Canvas"]


def _drawing(figure: Figure, mine: list[Record], beneath: list[list[Record]], names: list[str]) -> Drawing:
    """A figure, to be drawn in any width."""

    def drawn(layout: Layout) -> Canvas:
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


def _write(drawing: Drawing, folder: Path, name: str) -> tuple[Path, ...]:
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
