"""Figures: each one a value that says what it shows, drawn from a summary as PNG and SVG, the same bytes each time.

To add a figure, add a value to FIGURES.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ttbench.report import words
from ttbench.report.drawing.canvas import DPI, load_library, style
from ttbench.report.drawing.curves import draw_curves
from ttbench.report.drawing.heatmaps import draw_heatmap
from ttbench.report.words import Record
from ttbench.store.store import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FORMATS = ("png", "svg")


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
    Figure(name="peak_memory", title="Peak memory", task="memory", metric="peak_rss_bytes"),
)


def available(table: pd.DataFrame) -> tuple[Figure, ...]:
    """The figures that a summary has numbers for: at two contexts or more, or at two places down a heat map."""
    entries = words.records(table)
    found = []
    for figure in FIGURES:
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
