"""Heat maps: one panel per checkpoint, context to the right, depth downwards as in a text.

In each cell stands the number, and beneath it the ends of its interval, where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ttbench.report import words
from ttbench.report.canvas import GREY, SIZE, new_canvas
from ttbench.report.words import Record, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas


def draw_heatmap(title: str, entries: Sequence[Record], *, y_axis: str) -> Canvas:
    """Draw one metric between 0 and 1 by context and `y_axis`; an upright line stands where extrapolation begins."""
    _, varying = words.settings(entries)
    lines = words.by(entries, "checkpoint", *varying)
    contexts = sorted({entry["context_len"] for entry in entries})
    depths = sorted({entry[y_axis] for entry in entries if entry[y_axis] is not None})
    columns = min(len(lines), 3 if len(contexts) <= 6 else 2)
    rows = -(-len(lines) // columns)
    width = SIZE[0]
    panel = 0.6 + 0.42 * len(depths)
    height = 0.75 + rows * (panel + 0.55) + 0.25
    canvas = new_canvas(title, entries, (width, height))
    scale = words.of_metric(entries)
    for index, line in enumerate(lines):
        row, column = divmod(index, columns)
        left = (0.68 + column * (width - 0.75) / columns) / width
        bottom = 1 - (0.75 + (row + 1) * (panel + 0.55) - 0.45) / height
        axes = canvas.add_axes((left, bottom, ((width - 0.75) / columns - 0.28) / width, panel / height))
        axes.set_title(words.line_name({**line[0], y_axis: None}, varying), fontsize=10, fontweight="bold")
        _panel(axes, line, y_axis, contexts, depths, scale)
        axes.set_yticks(range(len(depths)), [f"{depth:g}" for depth in depths] if column == 0 else [])
        if column == 0:
            axes.set_ylabel(y_axis)
        axes.set_xlabel("context, tokens" if row == rows - 1 else "")
    told = f"{scale.unit} and 95% interval in each cell · upright line: training context, to its right extrapolation"
    canvas.text(0.12 / width, 0.1 / height, told, fontsize=8, color=GREY, va="bottom")
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
            axes.text(at, middle, status, ha="center", va="center", rotation=90, fontsize=8.5, color=GREY)
            continue
        down = depths.index(entry[y_axis])
        shades[down, at] = entry["value"]
        ink = "white" if entry["value"] < 0.55 else "#1A1A1A"
        sure = entry["low"] is not None
        # the axis points down: less is higher
        above = down - 0.16 if sure else down
        axes.text(at, above, scale.text(entry["value"]), ha="center", va="center", fontsize=8.5, color=ink)
        if sure:
            ends = f"{scale.text(entry['low'])}-{scale.text(entry['high'])}"
            axes.text(at, down + 0.22, ends, ha="center", va="center", fontsize=6, color=ink)
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
    beyond = {entry["context_len"] for entry in line if entry["extrapolated"]}
    trained = len(contexts) - len(beyond)
    if 0 < trained < len(contexts):
        axes.axvline(trained - 0.5, color="#D55E00", linewidth=2.2)
