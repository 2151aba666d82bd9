"""Heat maps of shares: one panel per checkpoint and per place on the axes that are not drawn. Checkpoints with the same
numbers in every cell share one.

One axis goes to the right, the context unless the figure names another; the other goes downwards, as depth in a text.
In each cell stands the number, and beneath it the ends of its interval, where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ttbench.report import words
from ttbench.report.drawing import marks
from ttbench.report.drawing.canvas import GREY, PAGE, Layout, head_heights, new_sheet, subtitle, text_width, wrap
from ttbench.report.drawing.curves import is_unchecked, unchecked_mark
from ttbench.report.words import Record, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


CONTEXT = "context_len"


def draw_heatmap(title: str, entries: Sequence[Record], *, x_axis: str, y_axis: str, layout: Layout = PAGE) -> Canvas:
    """Draw one metric between 0 and 1 by two axes; an upright line stands where extrapolation begins."""
    _, _, varying = words.settings(entries)
    others = [name for name in entries[0]["axes"].split(",") if name not in (CONTEXT, x_axis, y_axis)]
    lines = marks.merged(words.by(entries, "checkpoint", *varying, *others), varying, x_axis, y_axis)
    xs, ys = _places(entries, x_axis), _places(entries, y_axis)
    labels = [words.plain(y) for y in ys]
    margin = 0.34 + max((text_width(label, layout.text) for label in labels), default=0)
    least = max(0.46 * len(xs), 0.8) + 0.2
    columns = max(1, min(len(lines), layout.panels, int((layout.width - margin) / least)))
    rows = -(-len(lines) // columns)
    room = (layout.width - margin - 0.04) / columns
    names = [_titled(line, varying, (x_axis, y_axis), width=room - 0.14, layout=layout) for line in lines]
    heads = head_heights(names, columns, layout, space=0.7)
    panel, foot = 0.42 * len(ys), layout.text * 1.9 / 72
    across = "context, tokens" if x_axis == CONTEXT else words.axis(x_axis)
    scale = words.of_metric(entries)
    explained = _explained(entries, scale, with_context=x_axis == CONTEXT)
    label = layout.text * 1.7 / 72
    body = sum(heads) + rows * (panel + foot) + label
    sheet = new_sheet(title, subtitle(entries), explained, layout=layout, body=body)
    for index, line in enumerate(lines):
        row, column = divmod(index, columns)
        bottom = label + (rows - 1 - row) * (panel + foot) + sum(heads[row + 1 :]) + foot
        axes = sheet.add_axes(margin + column * room, bottom, room - 0.14, panel)
        name = "\n".join(names[index])
        axes.set_title(name, fontsize=layout.text, fontweight="bold", pad=4, linespacing=1.2)
        _panel(axes, line, (x_axis, xs), (y_axis, ys), scale, layout)
        axes.set_yticks(range(len(ys)), labels if column == 0 else [])
        axes.tick_params(labelsize=layout.text)
        if column == 0:
            axes.set_ylabel(words.axis(y_axis), fontsize=layout.text)
        axes.set_xlabel(across if index + columns >= len(lines) else "", fontsize=layout.text)
    return sheet.canvas


def _titled(
    line: Sequence[Record], varying: Sequence[str], drawn: tuple[str, str], *, width: float, layout: Layout
) -> list[str]:
    """What stands above a panel, in as many lines as the width asks for."""
    name = words.line_name({**line[0], **dict.fromkeys(drawn)}, varying)
    return wrap(name + unchecked_mark(line), width, layout.text, "bold")


def _explained(entries: Sequence[Record], scale: Scale, *, with_context: bool) -> list[str]:
    sure = [entry for entry in entries if entry["low"] is not None]
    told = [f"{scale.unit} and 95% interval in each cell, over {words.basis(sure)}" if sure else f"{scale.unit}"]
    if with_context and any(entry["extrapolated"] for entry in entries):
        told.append("upright line: training context, to its right extrapolation")
    if any(map(is_unchecked, entries)):
        told.append("! " + words.UNCHECKED)
    return told


def _places(entries: Sequence[Record], axis: str) -> list[Any]:
    return sorted({entry[axis] for entry in entries if entry[axis] is not None})


def _panel(
    axes: Axes,
    line: Sequence[Record],
    across: tuple[str, list[Any]],
    downwards: tuple[str, list[Any]],
    scale: Scale,
    layout: Layout,
) -> None:
    import numpy as np
    from matplotlib import colormaps

    (x_axis, xs), (y_axis, ys) = across, downwards
    # 0 to 100 on every panel, in a map that keeps its order without colour
    colours, shades = colormaps["cividis"], np.full((len(ys), len(xs)), np.nan)
    for entry in line:
        if entry["value"] is None:
            at = (len(xs) - 1) / 2 if entry[x_axis] is None else xs.index(entry[x_axis])
            status = entry["status"].replace("_", " ")
            axes.text(
                at, (len(ys) - 1) / 2, status, ha="center", va="center", rotation=90, fontsize=layout.small, color=GREY
            )
            continue
        at, down = xs.index(entry[x_axis]), ys.index(entry[y_axis])
        shades[down, at] = entry["value"]
        ink = "white" if entry["value"] < 0.55 else "#1A1A1A"
        sure = entry["low"] is not None
        # the axis points down: less is higher
        above = down - 0.16 if sure else down
        axes.text(at, above, scale.text(entry["value"]), ha="center", va="center", fontsize=layout.small, color=ink)
        if sure:
            ends = f"{scale.text(entry['low'])}-{scale.text(entry['high'])}"
            axes.text(at, down + 0.22, ends, ha="center", va="center", fontsize=6, color=ink)
    axes.pcolormesh(
        np.arange(len(xs) + 1) - 0.5,
        np.arange(len(ys) + 1) - 0.5,
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
    axes.set_xticks(range(len(xs)), [words.context(x) if x_axis == CONTEXT else words.plain(x) for x in xs])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if x_axis != CONTEXT:
        return
    beyond = {entry[CONTEXT] for entry in line if entry["extrapolated"]}
    trained = len(xs) - len(beyond)
    if 0 < trained < len(xs):
        axes.axvline(trained - 0.5, color="#D55E00", linewidth=2.2)
