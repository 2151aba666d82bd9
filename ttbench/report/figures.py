"""Figures: each one a value that says what it shows, drawn from a summary as PNG and SVG, the same bytes each time.

    curve     one line per checkpoint against the context, its 95 % interval as a band; dashed beyond the training
              context, which an upright tick marks; compressors as thin grey lines; cells without a number as crosses
              at the foot, with their status
    heatmap   one panel per checkpoint, context by depth, the number in each cell; a line where training ended

To add a figure, add a value to FIGURES. matplotlib is imported when something is drawn, without its global state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd

from ttbench.report import words
from ttbench.report.words import Record, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    y_axis: str = "depth"  # of a heat map


FIGURES: tuple[Figure, ...] = (
    Figure(
        name="bits_per_byte",
        title="Bits per byte against context",
        task="perplexity",
        metric="bits_per_byte",
        references=("bzip2_bits_per_byte", "xz_bits_per_byte"),
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

# Okabe and Ito's palette, told apart by readers with any colour vision; with a marker each, for print without colour.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#6B6B6B"
_STYLE: Mapping[str, object] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#4A4A4A",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#4A4A4A",
    "ytick.color": "#4A4A4A",
    "text.color": "#1A1A1A",
    "axes.labelcolor": "#1A1A1A",
    # the same ids in every SVG; letters as shapes, so that it looks the same everywhere
    "svg.hashsalt": "ttbench",
    "svg.fonttype": "path",
    "path.simplify": False,
}
_SIZE = (7.0, 4.0)  # inches
_DPI = 180


def available(table: pd.DataFrame) -> tuple[Figure, ...]:
    """The figures that a summary has numbers for: at two contexts or more, or at two depths."""
    entries = words.records(table)
    found = []
    for figure in FIGURES:
        mine = [entry for entry in _entries(entries, figure.metric, figure.task) if entry["value"] is not None]
        contexts = {entry["context_len"] for entry in mine}
        if len(contexts) > 1 or (figure.kind == "heatmap" and len({entry[figure.y_axis] for entry in mine}) > 1):
            found.append(figure)
    return tuple(found)


def draw(figure: Figure, table: pd.DataFrame, folder: Path) -> tuple[Path, ...]:
    """Draw a figure from a summary into `folder`, as PNG and SVG. Returns the files."""
    entries = words.records(table)
    names = list(dict.fromkeys(entry["checkpoint"] for entry in entries if entry["checkpoint"] is not None))
    paths = tuple(folder / f"{figure.name}.{suffix}" for suffix in FORMATS)
    with _style():
        mine = _entries(entries, figure.metric, figure.task)
        if figure.kind == "heatmap":
            canvas = _heatmap(figure, mine)
        else:
            beneath = [part for name in figure.references if (part := _entries(entries, name, figure.task))]
            canvas = _curves(figure, mine, beneath, names)
        for path in paths:
            # no date and no version of the library, which would change the bytes
            metadata = {"Date": None, "Creator": "ttbench"} if path.suffix == ".svg" else {"Software": "ttbench"}
            canvas.savefig(path, dpi=_DPI, metadata=metadata, facecolor="white")
    return paths


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast("Any", _STYLE))
        yield


def _entries(entries: Sequence[Record], metric: str, task: str) -> list[Record]:
    return [entry for entry in entries if entry["metric"] == metric and entry["task"] == task]


def _canvas(figure: Figure, entries: Sequence[Record], size: tuple[float, float]) -> Canvas:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=size)
    width, height = size
    canvas.text(0.12 / width, 1 - 0.12 / height, figure.title, fontsize=12.5, fontweight="bold", va="top")
    better = "" if entries[0]["better"] == "neither" else f"{entries[0]['better']} is better"
    told = [better, *words.settings(entries)[0][:3]]
    canvas.text(0.12 / width, 1 - 0.38 / height, " · ".join(filter(None, told)), fontsize=9, color=_GREY, va="top")
    return canvas


# Curves


def _curves(
    figure: Figure, entries: Sequence[Record], beneath: Sequence[Sequence[Record]], names: Sequence[str]
) -> Canvas:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    canvas = _canvas(figure, entries, _SIZE)
    axes = canvas.add_axes((0.075, 0.165, 0.685, 0.63))
    scale = words.of_metric([entry for part in (entries, *beneath) for entry in part])
    scale = Scale(unit=scale.unit, size=scale.size, decimals=0 if scale.unit == "%" else scale.decimals)
    contexts = sorted({entry["context_len"] for entry in entries})
    axes.set_xscale("log", base=2)
    axes.set_xlim(contexts[0] / 1.12, contexts[-1] * 1.12)
    axes.set_xticks(contexts, [words.context(context_len) for context_len in contexts])
    axes.minorticks_off()
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("context, tokens")
    # level, where it is read first, and never cut off by wide numbers
    label = f"{entries[0]['label']}, {scale.unit}" if scale.unit != entries[0]["label"] else scale.unit
    axes.text(-0.055, 1.035, label, transform=axes.transAxes, fontsize=9.5)
    if figure.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
    labels: list[tuple[float, str, str]] = []
    for part in beneath:
        points = sorted((entry["context_len"], entry["value"] / scale.size) for entry in part)
        axes.plot(*zip(*points, strict=True), color=_GREY, linewidth=0.9, zorder=1.5)
        labels.append((points[-1][1], part[0]["label"].removesuffix(" on the same documents"), _GREY))
    lost = 0
    _, varying = words.settings(entries)
    for index, line in enumerate(words.by(entries, "checkpoint", *varying)):
        place = names.index(line[0]["checkpoint"]) if not varying else index
        colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
        made = [entry for entry in line if entry["value"] is not None]
        if made:
            _line(axes, made, scale, colour, marker, width=max(2.6 - 0.4 * index, 1.4))
            labels.append((made[-1]["value"] / scale.size, words.line_name(line[0], varying), colour))
        failed = [entry for entry in line if entry["value"] is None]
        lost += bool(failed)
        _crosses(axes, failed, colour, lost)
    _fit_y(axes, entries, beneath, scale, log=figure.log_y, lost=lost)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    _place_labels(axes, labels)
    _explain(canvas, entries, lost=lost)
    return canvas


def _line(axes: Axes, made: Sequence[Record], scale: Scale, colour: str, marker: str, *, width: float) -> None:
    """One checkpoint: band, line, points, and the tick at its training context; a thinner line shows one beneath it."""
    made = sorted(made, key=lambda entry: entry["context_len"])
    x = [entry["context_len"] for entry in made]
    y = [entry["value"] / scale.size for entry in made]
    banded = [entry for entry in made if entry["low"] is not None]
    axes.fill_between(
        [entry["context_len"] for entry in banded],
        [entry["low"] / scale.size for entry in banded],
        [entry["high"] / scale.size for entry in banded],
        color=colour,
        alpha=0.13,
        linewidth=0,
        zorder=2,
    )
    inside = sum(not entry["extrapolated"] for entry in made)
    style = {"color": colour, "linewidth": width, "zorder": 3}
    axes.plot(x[:inside], y[:inside], linestyle="-", solid_capstyle="round", **style)
    axes.plot(x[max(inside - 1, 0) :], y[max(inside - 1, 0) :], linestyle=(0, (3.5, 2)), **style)
    filled = [colour if not entry["extrapolated"] else "white" for entry in made]
    axes.scatter(x, y, s=14 * width, marker=marker, c=filled, edgecolors=colour, linewidths=1.3, zorder=4)
    end = axes.get_xlim()[1]
    if x[-1] * 1.2 < end:
        axes.plot([x[-1], end], [y[-1], y[-1]], color=colour, linewidth=0.7, linestyle=(0, (1, 3)), zorder=2)
    train_ctx = made[0]["train_ctx"]
    if train_ctx is not None and x[0] <= train_ctx <= x[-1]:
        axes.plot([train_ctx], [_between(x, y, train_ctx)], marker="|", markersize=17, markeredgewidth=1.6, **style)


def _between(x: Sequence[float], y: Sequence[float], where: float) -> float:
    """Height of the line at `where`, on a logarithmic x."""
    import numpy as np

    return float(np.interp(np.log(where), np.log(x), y))


def _crosses(axes: Axes, failed: Sequence[Record], colour: str, row: int) -> None:
    """Cells without a number: a cross at the foot, and the status beside it."""
    for entry in failed:
        at = {"transform": axes.get_xaxis_transform(), "color": colour, "zorder": 5, "clip_on": False}
        height = 0.05 + 0.065 * (row - 1)
        axes.plot([entry["context_len"]], [height], marker="x", markersize=6, markeredgewidth=1.8, **at)
        status = entry["status"].replace("_", " ")
        axes.text(entry["context_len"] / 1.06, height, status, fontsize=8, ha="right", va="center", **at)


def _fit_y(
    axes: Axes,
    entries: Sequence[Record],
    beneath: Sequence[Sequence[Record]],
    scale: Scale,
    *,
    log: bool,
    lost: int,
) -> None:
    """Limits around all numbers and intervals, with room at the foot for the crosses; shares from 0 to 100."""
    everything = [entry for part in (entries, *beneath) for entry in part if entry["value"] is not None]
    heights = [entry[name] / scale.size for entry in everything for name in ("value", "low", "high") if entry[name]]
    low, high = min(heights), max(heights)
    room = 0.065 * lost
    if entries[0]["statistic"] == "proportion":
        axes.set_ylim(-3 - 115 * room, 103)
    elif log:
        factor = max((high / low) ** 0.06, 1.05)
        axes.set_ylim(low / factor / (high / low) ** (1.2 * room), high * factor)
    else:
        pad = 0.06 * (high - low or abs(high) or 1)
        axes.set_ylim(low - pad - 1.2 * room * (high - low), high + pad)


def _place_labels(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right end of the lines, in their order of height, pushed apart until none touches another."""
    gap = 0.058
    transform = axes.transData + axes.transAxes.inverted()
    ends = sorted((float(transform.transform((1, height))[1]), name, colour) for height, name, colour in labels)
    places = [min(max(end, 0.0), 1.0) for end, _, _ in ends]
    for _ in range(200):
        for index in range(1, len(places)):
            overlap = gap - (places[index] - places[index - 1])
            if overlap > 1e-9:
                places[index - 1] -= overlap / 2
                places[index] += overlap / 2
    for place, (end, name, colour) in zip(places, ends, strict=True):
        at = {"transform": axes.transAxes, "clip_on": False}
        axes.plot([1.0, 1.025], [min(max(end, 0.0), 1.0), place], color=colour, linewidth=0.8, **at)
        weight = "normal" if colour == _GREY else "bold"
        axes.text(1.033, place, name, color=colour, fontsize=9, va="center", fontweight=weight, **at)


def _explain(canvas: Canvas, entries: Sequence[Record], *, lost: int) -> None:
    """How to read the marks, in one line at the foot."""
    made = [entry for entry in entries if entry["low"] is not None]
    told = []
    if made:
        counts = sorted({entry["num_clusters"] for entry in made})
        span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        told.append(f"band: 95% interval over {span} {words.noun(made[0])}")
    if any(entry["train_ctx"] is not None for entry in entries):
        told.append("tick: training context")
    if any(entry["extrapolated"] for entry in entries):
        told.append("dashed, hollow: beyond it")
    if lost:
        told.append("cross: no number")
    width, height = canvas.get_size_inches()
    canvas.text(0.12 / width, 0.1 / height, " · ".join(told), fontsize=8, color=_GREY, va="bottom")


# Heat maps


def _heatmap(figure: Figure, entries: Sequence[Record]) -> Canvas:
    """A panel per checkpoint: contexts to the right, depth downwards as in a text."""
    _, varying = words.settings(entries)
    lines = words.by(entries, "checkpoint", *varying)
    contexts = sorted({entry["context_len"] for entry in entries})
    depths = sorted({entry[figure.y_axis] for entry in entries if entry[figure.y_axis] is not None})
    columns = min(len(lines), 3 if len(contexts) <= 6 else 2)
    rows = -(-len(lines) // columns)
    width = 7.0
    panel = 0.6 + 0.32 * len(depths)
    height = 0.75 + rows * (panel + 0.55) + 0.25
    canvas = _canvas(figure, entries, (width, height))
    scale = words.of_metric(entries)
    for index, line in enumerate(lines):
        row, column = divmod(index, columns)
        left = (0.68 + column * (width - 0.75) / columns) / width
        bottom = 1 - (0.75 + (row + 1) * (panel + 0.55) - 0.45) / height
        axes = canvas.add_axes((left, bottom, ((width - 0.75) / columns - 0.28) / width, panel / height))
        axes.set_title(words.line_name({**line[0], figure.y_axis: None}, varying), fontsize=10, fontweight="bold")
        _panel(axes, line, figure.y_axis, contexts, depths, scale)
        axes.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths] if column == 0 else [])
        if column == 0:
            axes.set_ylabel(figure.y_axis)
        axes.set_xlabel("context, tokens" if row == rows - 1 else "")
    told = f"{scale.unit} in each cell · upright line: training context, to its right extrapolation"
    canvas.text(0.12 / width, 0.1 / height, told, fontsize=8, color=_GREY, va="bottom")
    return canvas


def _panel(
    axes: Axes,
    line: Sequence[Record],
    y_axis: str,
    contexts: Sequence[int],
    depths: Sequence[float],
    scale: Scale,
) -> None:
    import numpy as np
    from matplotlib import colormaps

    # 0 to 100 on every panel, in a map that keeps its order without colour
    colours, shades = colormaps["cividis"], np.full((len(depths), len(contexts)), np.nan)
    for entry in line:
        at = contexts.index(entry["context_len"])
        if entry["value"] is None:
            middle = (len(depths) - 1) / 2
            status = entry["status"].replace("_", " ")
            axes.text(at, middle, status, ha="center", va="center", rotation=90, fontsize=8.5, color=_GREY)
            continue
        shades[depths.index(entry[y_axis]), at] = entry["value"]
        ink = "white" if entry["value"] < 0.55 else "#1A1A1A"
        text = scale.text(entry["value"])
        axes.text(at, depths.index(entry[y_axis]), text, ha="center", va="center", fontsize=8.5, color=ink)
    axes.pcolormesh(
        np.arange(len(contexts) + 1) - 0.5,
        np.arange(len(depths) + 1) - 0.5,
        np.ma.masked_invalid(shades),
        cmap=colours,
        vmin=0,
        vmax=1,
        edgecolors="white",
        linewidth=1.5,
    )
    axes.set_facecolor("#F2F2F2")
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.set_xticks(range(len(contexts)), [words.context(context_len) for context_len in contexts])
    for spine in axes.spines.values():
        spine.set_visible(False)
    train_ctx = line[0]["train_ctx"]
    trained = sum(context_len <= train_ctx for context_len in contexts) if train_ctx is not None else len(contexts)
    if 0 < trained < len(contexts):
        axes.axvline(trained - 0.5, color="#D55E00", linewidth=2.2)
