"""What is drawn between a pair of axes: a checkpoint's line with its intervals, crosses, limits and ticks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ttbench.report import words
from ttbench.report.drawing.canvas import DOTS, GREYS, Layout
from ttbench.report.words import Record, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG = "log scale"
_STEPS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(range(1, 10)), tuple(np.arange(10, 100, 2.5) / 10))
_FEWEST_TICKS, _ROOM = 4, 0.065  # of a logarithmic axis; share of the height for a row of crosses


def set_context_axis(axes: Axes, contexts: Sequence[int], *, layout: Layout, width: float) -> None:
    """A logarithmic axis of contexts with a tick at each; names are left out where they would touch.

    Args:
        axes: to set.
        contexts: tokens, ascending.
        layout: letters.
        width: inches of the axes.
    """
    axes.set_xscale("log", base=2)
    axes.set_xlim(contexts[0] / 1.12, contexts[-1] * 1.12)
    names, last = [], -1e9
    for context_len in contexts:
        place = float(np.log(context_len / contexts[0]) / np.log(max(contexts[-1] / contexts[0], 2)) * width * 0.92)
        fits = place - last > 0.36 * layout.small / 8
        last = place if fits else last
        names.append(words.context(context_len) if fits else "")
    axes.set_xticks(contexts, names)
    axes.minorticks_off()
    axes.grid(visible=False, axis="x")
    axes.tick_params(labelsize=layout.text)


def set_value_axis(axes: Axes, *, log: bool, layout: Layout) -> None:
    """Ticks of the upright axis, whose limits are set: at least four round numbers where it is logarithmic."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    axes.yaxis.set_minor_locator(NullLocator())
    if log:
        axes.set_yticks(log_ticks(*axes.get_ylim()))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6 if layout.width > 5 else 4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def log_ticks(low: float, high: float) -> list[float]:
    """The coarsest set of round numbers between two positive ends that has at least four; evenly spaced else."""
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 1)
    found: list[float] = []
    for steps in _STEPS:
        found = [float(f"{step * 10.0**decade:.6g}") for decade in decades for step in steps]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) >= _FEWEST_TICKS:
            return found if len(found) < 10 else found[:: len(found) // 6]
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(nbins=6).tick_values(low, high) if low <= tick <= high]


def draw_line(
    axes: Axes,
    made: Sequence[Record],
    scale: Scale,
    colour: str,
    marker: str,
    *,
    width: float,
    whiskers: bool,
) -> None:
    """One checkpoint: intervals, line, points, and an upright tick on the line at the end of its training context.

    Args:
        axes: to draw on.
        made: entries with numbers.
        scale: of the metric.
        colour: of everything.
        marker: of the points.
        width: points; a thinner line shows one beneath it.
        whiskers: intervals as whiskers at the points, not as a band that runs between them.
    """
    made = sorted(made, key=lambda entry: entry["context_len"])
    x = [entry["context_len"] for entry in made]
    y = [entry["value"] / scale.size for entry in made]
    inside = sum(not entry["extrapolated"] for entry in made)
    # no tick where the end lies outside the line, or is not known
    train_ctx = made[0]["train_ctx"] or 0
    on_line = x[0] <= train_ctx <= x[-1]
    end = max(inside - 1, 0)
    solid, dashed = (x[:inside], y[:inside]), (x[end:], y[end:])
    # between two points the line is solid as far as the model was trained
    if on_line and 0 < inside < len(x) and x[inside - 1] < train_ctx < x[inside]:
        height = _between(axes, x, y, train_ctx)
        solid = ([*x[:inside], train_ctx], [*y[:inside], height])
        dashed = ([train_ctx, *x[inside:]], [height, *y[inside:]])
    style = {"color": colour, "linewidth": width, "zorder": 3}
    axes.plot(*solid, linestyle="-", solid_capstyle="round", **style)
    axes.plot(*dashed, linestyle=(0, (3.5, 2)), **style)
    _intervals(axes, [entry for entry in made if entry["low"] is not None], scale, colour, whiskers=whiskers)
    filled = [colour if not entry["extrapolated"] else "white" for entry in made]
    axes.scatter(x, y, s=14 * width, marker=marker, c=filled, edgecolors=colour, linewidths=1.3, zorder=4)
    if on_line:
        height = _between(axes, x, y, train_ctx)
        tick = {"marker": "|", "markersize": 7.5 * width, "markeredgewidth": 1.6}
        axes.plot([train_ctx], [height], **tick, **style)


def _intervals(axes: Axes, banded: Sequence[Record], scale: Scale, colour: str, *, whiskers: bool) -> None:
    x = [entry["context_len"] for entry in banded]
    low, high = ([entry[end] / scale.size for entry in banded] for end in ("low", "high"))
    if whiskers:
        axes.vlines(x, low, high, color=colour, linewidth=1.1, alpha=0.75, zorder=2.5)
        caps = {"color": colour, "marker": "_", "s": 22, "linewidths": 1.1, "alpha": 0.75, "zorder": 2.5}
        axes.scatter([*x, *x], [*low, *high], **caps)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0, zorder=2)


def _between(axes: Axes, x: Sequence[float], y: Sequence[float], where: float) -> float:
    """Height of the drawn line at `where`: on a logarithmic x, and on y as the axes have it."""
    if axes.get_yscale() == "log" and min(y) > 0:
        return float(np.exp(np.interp(np.log(where), np.log(x), np.log(y))))
    return float(np.interp(np.log(where), np.log(x), y))


def draw_reference(axes: Axes, part: Sequence[Record], scale: Scale, place: int) -> tuple[float, str, Any]:
    """A reference as a thin grey line; its last height, and the colour and line style that no other has."""
    points = sorted((entry["context_len"], entry["value"] / scale.size) for entry in part)
    colour, line = GREYS[place % len(GREYS)], DOTS[place % len(DOTS)]
    axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.1, linestyle=line, zorder=1.5)
    return points[-1][1], colour, line


def draw_crosses(axes: Axes, failed: Sequence[Record], colour: str, row: int, *, size: float) -> None:
    """Cells without a number: a cross at the foot, and the status beside it."""
    for entry in failed:
        at = {"transform": axes.get_xaxis_transform(), "color": colour, "zorder": 5, "clip_on": False}
        height = 0.05 + _ROOM * (row - 1)
        axes.plot([entry["context_len"]], [height], marker="x", markersize=6, markeredgewidth=1.8, **at)
        status = entry["status"].replace("_", " ")
        axes.text(entry["context_len"] / 1.06, height, status, fontsize=size, ha="right", va="center", **at)


def fit_y(axes: Axes, entries: Sequence[Record], scale: Scale, *, log: bool, lost: int) -> None:
    """Limits around all numbers and intervals, with room at the foot for the crosses; shares from 0 to 100."""
    room = _ROOM * lost
    if entries[0]["statistic"] == "proportion":
        axes.set_ylim(-3 - 115 * room, 103)
        return
    made = [entry for entry in entries if entry["value"] is not None]
    found = [entry[name] for entry in made for name in ("value", "low", "high") if entry[name] is not None]
    # a logarithmic axis has no place for a zero
    heights = [number / scale.size for number in found if number > 0 or not log]
    low, high = min(heights), max(heights)
    if log:
        factor = max((high / low) ** 0.06, 1.05)
        axes.set_ylim(low / factor / (high / low) ** (1.2 * room), high * factor)
    else:
        pad = 0.06 * (high - low or abs(high) or 1)
        axes.set_ylim(low - pad - 1.2 * room * (high - low), high + pad)


# What the marks of a line show, beside its settings and its place on other axes.
_SHOWN = ("value", "low", "high", "num_clusters", "train_ctx", "extrapolated", "status", "checked")


def merged(lines: Sequence[Sequence[Record]], varying: Sequence[str], *axes: str) -> list[list[Record]]:
    """The lines; those of several checkpoints with the same marks under the same settings as one that names them all.

    Args:
        lines: each of one checkpoint.
        varying: the settings in which any two lines differ.
        axes: those that are drawn, `context_len` beside them.
    """
    alike: dict[object, list[Sequence[Record]]] = {}
    for line in lines:
        places = [name for name in line[0]["axes"].split(",") if name not in ("context_len", *axes)]
        settings = tuple(line[0].get(name) for name in (*varying, *places))
        shown = frozenset(tuple(entry.get(name) for name in ("context_len", *axes, *_SHOWN)) for entry in line)
        alike.setdefault((settings, shown), []).append(line)
    return [
        [{**entry, "checkpoint": ", ".join(line[0]["checkpoint"] for line in same)} for entry in same[0]]
        for same in alike.values()
    ]
