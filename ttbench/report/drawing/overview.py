"""The overview: a row per model, a panel per metric; in each a point with its 95 % interval, the number beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ttbench.report import words
from ttbench.report.drawing.canvas import COLOURS, GREY, PAGE, Layout, new_sheet, text_width
from ttbench.report.drawing.curves import is_unchecked, unchecked_mark
from ttbench.report.overview import Overview, OverviewColumn
from ttbench.report.words import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

TITLE = "All models side by side"


def draw_overview(found: Overview, *, layout: Layout = PAGE) -> Canvas:
    """Draw an overview."""
    entries = [entry for column in found.columns for entry in column.cells.values()]
    left = 0.2 + max(text_width(f"{row} !", layout.text) for row in found.rows)
    numbers = [_number(entry, column) for column in found.columns for entry in column.cells.values()]
    beside = max(text_width(text, layout.small) for text in numbers) + 0.1
    # a panel is a scale of half an inch at least, and the numbers
    columns = max(1, min(len(found.columns), 3, int((layout.width - left) / (beside + 0.6))))
    width = (layout.width - left - 0.06) / columns
    line, gap = layout.text * 2.0 / 72, 0.1
    titles = [textwrap.wrap(each.title, max(int(width / text_width("x", layout.small)), 8)) for each in found.columns]
    head, foot = layout.small * 1.5 * (max(map(len, titles)) + 1) / 72, layout.small * 2.4 / 72
    panel = head + len(found.rows) * line + foot + gap
    rows = -(-len(found.columns) // columns)
    told = words.settings(entries)[0]
    told = [text for text in told if not text.startswith("corpus ")][:3]
    explained = ["point and numbers: value and its 95% interval, each for its number alone"]
    if any(column.extrapolated for column in found.columns):
        explained.append("hollow: beyond the training context")
    if any(map(is_unchecked, entries)):
        explained.append("! " + words.UNCHECKED)
    sheet = new_sheet(TITLE, told, explained, layout=layout, body=rows * panel)
    for index, column in enumerate(found.columns):
        row, place = divmod(index, columns)
        bottom = (rows - 1 - row) * panel + foot + gap
        axes = sheet.add_axes(left + place * width, bottom, width - beside, len(found.rows) * line)
        marks = [unchecked_mark([column.cells[name]]) if name in column.cells else "" for name in found.rows]
        named = [f"{name}{mark}" for name, mark in zip(found.rows, marks, strict=True)]
        _panel(axes, found.rows, column, "\n".join([*titles[index], column.where]), layout=layout)
        axes.set_yticks(range(len(found.rows)), named if place == 0 else [""] * len(named), fontsize=layout.text)
    return sheet.canvas


def _number(entry: Record, column: OverviewColumn) -> str:
    """4.51 (3.91-5.20), or the status of a cell without a number."""
    if entry["value"] is None:
        return entry["status"].replace("_", " ")
    value, scale = column.scale.text(entry["value"]), column.scale
    if entry["low"] is None:
        return value
    return f"{value} ({scale.text(entry['low'])}-{scale.text(entry['high'])})"


def _panel(axes: Axes, rows: Sequence[str], column: OverviewColumn, title: str, *, layout: Layout) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    size = column.scale.size
    ends: list[float] = []
    for place, name in enumerate(rows):
        entry = column.cells.get(name)
        at = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": layout.small, "clip_on": False}
        if entry is None:
            axes.text(1.04, place, "not measured", color=GREY, **at)
            continue
        axes.text(1.04, place, _number(entry, column), **at)
        if entry["value"] is None:
            continue
        if entry["low"] is not None:
            axes.hlines(place, entry["low"] / size, entry["high"] / size, color=COLOURS[0], linewidth=1.4, zorder=3)
        face = "white" if entry["extrapolated"] else COLOURS[0]
        axes.scatter([entry["value"] / size], [place], s=20, c=face, edgecolors=COLOURS[0], zorder=4, clip_on=False)
        ends += [entry[end] / size for end in ("value", "low", "high") if entry[end] is not None]
    if column.scale.unit == "%":
        axes.set_xlim(-4, 104)
    elif ends:
        pad = 0.08 * (max(ends) - min(ends) or abs(max(ends)) or 1)
        axes.set_xlim(min(ends) - pad, max(ends) + pad)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.tick_params(axis="x", labelsize=layout.small)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    head = {"transform": axes.transAxes, "fontsize": layout.small, "va": "bottom", "clip_on": False}
    axes.text(0, 1, title, linespacing=1.3, **head)
