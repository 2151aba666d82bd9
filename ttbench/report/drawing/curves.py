"""Curves: one line per checkpoint against the context, its 95 % interval as a band.

Dashed and hollow beyond the training context, which an upright tick marks; compressors as thin grey lines; cells
without a number as crosses at the foot, with their status. Names stand at the ends of the lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ttbench.report import words
from ttbench.report.drawing.canvas import COLOURS, GREY, MARKERS, SIZE, new_canvas
from ttbench.report.words import Record, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def draw_curves(
    title: str,
    entries: Sequence[Record],
    *,
    beneath: Sequence[Sequence[Record]],
    names: Sequence[str],
    log_y: bool,
) -> Canvas:
    """Draw one metric.

    Args:
        title: of the figure.
        entries: lines of a summary, of one metric.
        beneath: lines of each reference metric.
        names: every checkpoint of the summary, so that each has the same colour in all figures.
        log_y: a logarithmic upright axis.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    canvas = new_canvas(title, entries, SIZE)
    axes = canvas.add_axes((0.085, 0.18, 0.675, 0.615))
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
    axes.text(-0.072, 1.04, label, transform=axes.transAxes, fontsize=9.5)
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
    labels: list[tuple[float, str, str]] = []
    for reference in beneath:
        _, _, differing = words.settings(reference)
        for part in words.by(reference, *differing):
            points = sorted((entry["context_len"], entry["value"] / scale.size) for entry in part)
            axes.plot(*zip(*points, strict=True), color=GREY, linewidth=0.9, zorder=1.5)
            name = part[0]["label"].removesuffix(" on the same documents")
            labels.append((points[-1][1], f"{name} {words.told(part[0], differing)}".rstrip(), GREY))
    lost = 0
    _, _, varying = words.settings(entries)
    for index, line in enumerate(words.by(entries, "checkpoint", *varying)):
        place = names.index(line[0]["checkpoint"]) if not varying else index
        # one marker on in every round of the colours, so that no two of 49 lines look alike
        lap, turn = divmod(place, len(COLOURS))
        colour, marker = COLOURS[turn], MARKERS[(turn + lap) % len(MARKERS)]
        made = [entry for entry in line if entry["value"] is not None]
        if made:
            _line(axes, made, scale, colour, marker, width=max(2.3 - 0.3 * index, 1.4))
            mark = " !" if any(is_unchecked(entry) for entry in made) else ""
            labels.append((made[-1]["value"] / scale.size, words.line_name(line[0], varying) + mark, colour))
        failed = [entry for entry in line if entry["value"] is None]
        lost += bool(failed)
        _crosses(axes, failed, colour, lost)
    _fit_y(axes, entries, beneath, scale, log=log_y, lost=lost)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    _place_labels(axes, labels)
    _make_room(canvas, axes)
    _explain(canvas, entries, lost=lost)
    return canvas


def is_unchecked(entry: Record) -> bool:
    """Whether a number was made without probes, by request."""
    return entry.get("checked") == "unchecked"


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
    room = 0.065 * lost
    if entries[0]["statistic"] == "proportion":
        axes.set_ylim(-3 - 115 * room, 103)
        return
    everything = [entry for part in (entries, *beneath) for entry in part if entry["value"] is not None]
    found = [entry[name] for entry in everything for name in ("value", "low", "high") if entry[name] is not None]
    # a logarithmic axis has no place for a zero
    heights = [number / scale.size for number in found if number > 0 or not log]
    low, high = min(heights), max(heights)
    if log:
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
        weight = "normal" if colour == GREY else "bold"
        axes.text(1.033, place, name, color=colour, fontsize=9, va="center", fontweight=weight, **at)


def _make_room(canvas: Canvas, axes: Axes) -> None:
    """Narrow the axes where a name would end outside the picture."""
    canvas.draw_without_rendering()
    over = max((text.get_window_extent().x1 for text in axes.texts), default=0.0) / canvas.bbox.width - 0.99
    if over > 0:
        left, bottom, width, height = axes.get_position().bounds
        axes.set_position((left, bottom, max(width - over, 0.3), height))


def _explain(canvas: Canvas, entries: Sequence[Record], *, lost: int) -> None:
    """How to read the marks, in one line at the foot."""
    made = [entry for entry in entries if entry["low"] is not None]
    told = []
    if made:
        told.append(f"band: 95% interval over {words.basis(made)}")
    if any(entry["train_ctx"] is not None for entry in entries):
        told.append("tick: training context")
    if any(entry["extrapolated"] for entry in entries):
        told.append("dashed, hollow: beyond it")
    if any(is_unchecked(entry) for entry in entries):
        told.append("! " + words.UNCHECKED)
    if lost:
        told.append("cross: no number")
    width, height = canvas.get_size_inches()
    canvas.text(0.12 / width, 0.1 / height, " · ".join(told), fontsize=8, color=GREY, va="bottom")
