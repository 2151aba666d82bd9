"""Figures of papers: published numbers, reruns and stand-ins, in panels that say in words which is which.

Published numbers and reruns share a panel, in the paper's unit. Stand-ins never stand beside them: they have a panel of
their own, with axes of their own and a watermark across it.

    curves     a line for each series; those not in colour are grey
    dots       a place for each name, downwards in the paper's order, and a mark for each series
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ttbench.report.drawing import marks
from ttbench.report.drawing.canvas import COLOURS, GREY, INK, MARKERS, Layout, Sheet, new_sheet, text_width
from ttbench.report.words import K, context

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

PUBLISHED, RERUN, STAND_IN = "published", "rerun", "stand-in"
EXPLAINED = {
    PUBLISHED: "published: the paper's numbers",
    RERUN: "rerun: the authors' checkpoint at its commit, by their protocol",
    STAND_IN: "stand-in: a model of ours in the place of theirs, regenerates nothing",
}
_BEHIND = "#BDBDBD"
_TOKENS = ("context", "length", "token index", "context_len", "position")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One number of a line."""

    name: str  # of its place; of curves, as the paper writes it
    at: float | None  # place on the axis of curves
    value: float  # in the panel's unit
    low: float | None = None  # of its 95 % interval
    high: float | None = None
    printed: str | None = None  # with the paper's digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The numbers of one line, all of one kind."""

    word: Literal["published", "rerun", "stand-in"]
    name: str
    points: tuple[CurvePoint, ...]
    colour: int | None = None  # place in the palette; None: grey, behind the others
    mark: str = ""  # behind its name


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelDrawing:
    """One pair of axes."""

    title: str
    label: str  # of the values, with their unit
    x_label: str
    x_kind: str  # axis, which decides how places are written
    log: bool
    x_log: bool
    curves: tuple[Curve, ...]

    @property
    def stands_in(self) -> bool:
        return any(curve.word == STAND_IN for curve in self.curves)

    @property
    def is_log(self) -> bool:
        """Whether values are drawn on a logarithmic axis, on which a zero has no place: not where all are zero."""
        return self.log and any(point.value > 0 for curve in self.curves for point in curve.points)

    @property
    def is_x_log(self) -> bool:
        """Whether places are drawn on a logarithmic axis: not where one is zero, as the first token's index is."""
        return self.x_log and all((point.at or 0) > 0 for curve in self.curves for point in curve.points)


def draw_paper(
    title: str,
    told: Sequence[str],
    panels: Sequence[PanelDrawing],
    *,
    kind: str,
    explained: Sequence[str],
    layout: Layout,
) -> Canvas:
    """Draw the panels of one figure, as many side by side as the layout has room for.

    Args:
        title: of the figure.
        told: where it is from, and what it must not be taken for.
        panels: with at least one number each; none: a sheet that says so.
        kind: curves or dots.
        explained: what else to say at the foot.
        layout: width and letters.
    """
    across = min(_across(panels, kind, layout), max(len(panels), 1))
    width = (layout.width - 0.1) / across
    rows = [panels[start : start + across] for start in range(0, len(panels), across)]
    heights = [max(_height(panel, kind, layout) for panel in row) for row in rows]
    # room for titles above and for the names of places and of the axis below
    line = layout.small * 1.35 / 72
    heads = [0.16 + line * max(len(_wrapped(panel, width, layout)) for panel in row) for row in rows]
    foot = 3.1 * line
    keys, row = _flow(_keys(panels), layout), layout.text * 1.5 / 72
    body = sum(heights) + sum(heads) + foot * len(rows) + len(keys) * row + 0.1
    words = [EXPLAINED[word] for word in EXPLAINED if any(c.word == word for panel in panels for c in panel.curves)]
    sheet = new_sheet(title, told, [*words, *explained], layout=layout, body=body)
    bottom = body
    draw = _draw_curves if kind == "curves" else _draw_dots
    for panels_of_row, height, head in zip(rows, heights, heads, strict=True):
        bottom -= height + head + foot
        for column, panel in enumerate(panels_of_row):
            margin = _margin(panel, kind, layout)
            free = width - margin - 0.14
            axes = sheet.add_axes(column * width + margin, bottom + foot, free, height)
            draw(axes, panel, layout=layout, width=free)
            place = ((0.12 - margin) / free, 1 + 0.07 / height)
            name = {"fontsize": layout.small, "fontweight": "bold", "va": "bottom", "transform": axes.transAxes}
            axes.text(*place, "\n".join(_wrapped(panel, width, layout)), **name)
            if panel.stands_in:
                _watermark(axes, layout, width=free)
    _place_keys(sheet, keys, row)
    return sheet.canvas


def _wrapped(panel: PanelDrawing, width: float, layout: Layout) -> list[str]:
    """The title of a panel in lines."""
    return textwrap.wrap(panel.title, int((width - 0.2) / text_width("x", layout.small, "bold")))


def _across(panels: Sequence[PanelDrawing], kind: str, layout: Layout) -> int:
    if kind == "dots" and any(_margin(panel, kind, layout) > 0.24 * layout.width for panel in panels):
        return max(layout.panels - 1, 1)
    return layout.panels - 1 if len(panels) in (2, 4) and layout.panels > 2 else layout.panels


def _height(panel: PanelDrawing, kind: str, layout: Layout) -> float:
    if kind == "dots":
        return max(len(_places(panel)), 2) * layout.small * 1.75 / 72
    return layout.body * 0.6


def _margin(panel: PanelDrawing, kind: str, layout: Layout) -> float:
    """Room at the left of the axes, inches."""
    if kind == "dots":
        longest = max(text_width(name, layout.small) for name in _places(panel))
        return 0.26 + min(1.05 * longest, 0.4 * layout.width)
    return 0.12 + 0.062 * layout.small


def _places(panel: PanelDrawing) -> list[str]:
    """Names of dots, the paper's first."""
    return list(dict.fromkeys(point.name for curve in panel.curves for point in curve.points))


def _style(curve: Curve) -> dict[str, Any]:
    colour = _BEHIND if curve.colour is None else COLOURS[curve.colour % len(COLOURS)]
    filled = curve.word != PUBLISHED
    marker = MARKERS[(curve.colour or 0) % len(MARKERS)]
    return {"color": colour, "marker": marker, "markerfacecolor": colour if filled else "white"}


def _draw_curves(axes: Axes, panel: PanelDrawing, *, layout: Layout, width: float) -> None:
    for curve in sorted(panel.curves, key=lambda curve: curve.colour is not None):
        drawn = [(point.at, point) for point in curve.points if point.at is not None]
        drawn = [(at, point) for at, point in drawn if point.value > 0 or not panel.is_log]
        drawn = sorted(drawn, key=lambda pair: pair[0])
        style = _style(curve)
        if curve.colour is None:
            style |= {"marker": "", "linewidth": 0.9, "zorder": 1.5}
        else:
            style |= {"markersize": layout.small / 1.9, "linewidth": 1.5, "zorder": 3}
        line = (0, (3.5, 2)) if curve.word == STAND_IN else (0, (1, 1.2)) if curve.word == PUBLISHED else "-"
        axes.plot([at for at, _ in drawn], [point.value for _, point in drawn], linestyle=line, **style)
        sure = [(at, p.low, p.high) for at, p in drawn if p.low is not None and p.high is not None]
        if sure and curve.colour is not None:
            at, low, high = zip(*sure, strict=True)
            axes.fill_between(at, low, high, color=style["color"], alpha=0.13, linewidth=0, zorder=2)
    _set_axes(axes, panel, layout=layout, width=width)


def _set_axes(axes: Axes, panel: PanelDrawing, *, layout: Layout, width: float) -> None:
    points = [point for curve in panel.curves for point in curve.points if point.at is not None]
    places = sorted({point.at for point in points if point.at is not None})
    heights = [n for p in points for n in (p.value, p.low, p.high) if n is not None and (n > 0 or not panel.is_log)]
    low, high = min(heights), max(heights)
    if panel.is_log:
        axes.set_yscale("log")
        factor = max((high / low) ** 0.07, 1.05)
        axes.set_ylim(low / factor, high * factor)
    else:
        pad = 0.07 * (high - low or abs(high) or 1)
        axes.set_ylim(low - pad, high + pad)
    marks.set_value_axis(axes, log=panel.is_log, layout=layout)
    if panel.x_kind in _TOKENS and panel.is_x_log:
        marks.set_context_axis(axes, _few(places), layout=layout, width=width)
        axes.set_xlim(places[0] / 1.12, places[-1] * 1.12)
    elif panel.is_x_log:
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xlim(places[0] / 1.2, places[-1] * 1.2)
        _round_ticks(axes, places)
    elif panel.x_kind in _TOKENS:
        few = _few(places)
        few = few[:: -(-len(few) // 6)]
        axes.set_xticks(few, [context(place) for place in few])
    axes.tick_params(labelsize=layout.small)
    axes.set_xlabel(f"{panel.x_label}{f' ({marks.LOG})' if panel.is_x_log else ''}", fontsize=layout.small)
    axes.set_ylabel(f"{panel.label}{f' ({marks.LOG})' if panel.is_log else ''}", fontsize=layout.small)


def _few(places: Sequence[float]) -> list[int]:
    """Places that get a tick: whole multiples of the smallest power of two, at most nine."""
    whole = [round(place) for place in places]
    named = [place for place in whole if place % K == 0 or place < K] or whole
    return named[:: -(-len(named) // 9)]


def _round_ticks(axes: Axes, places: Sequence[float]) -> None:
    low, high = axes.get_xlim()
    ticks = marks.log_ticks(low, high)
    if high / low > 1e4:
        ticks = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    few = list(places) if len(places) <= 8 and high / low < 1e4 else ticks[:: -(-len(ticks) // 5)]
    axes.set_xticks(few, [_short(tick) for tick in few])


def _short(value: float) -> str:
    if value >= 1e6 or 0 < value < 1e-3:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    return f"{value:,.6g}"


def _draw_dots(axes: Axes, panel: PanelDrawing, *, layout: Layout, width: float) -> None:
    places = _places(panel)
    room = text_width("x", layout.small)
    for curve in panel.curves:
        style = _style(curve) | {"linestyle": "", "markersize": layout.small / 1.7, "markeredgewidth": 1.3, "zorder": 3}
        heights = [len(places) - 1 - places.index(point.name) for point in curve.points]
        axes.plot([point.value for point in curve.points], heights, **style)
        for point, height in zip(curve.points, heights, strict=True):
            if point.low is not None and point.high is not None:
                axes.plot([point.low, point.high], [height, height], color=style["color"], linewidth=1.1, zorder=2)
    axes.set_ylim(-0.6, len(places) - 0.4)
    letters = int(0.4 * layout.width / room)
    axes.set_yticks(range(len(places)), [_cut(name, letters) for name in reversed(places)])
    values = [n for c in panel.curves for p in c.points for n in (p.value, p.low, p.high) if n is not None]
    low, high = min(values), max(values)
    if panel.is_log and low > 0:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        axes.minorticks_off()
        _round_ticks(axes, marks.log_ticks(low / 1.3, high * 1.3))
    else:
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        pad = 0.08 * (high - low or abs(high) or 1)
        axes.set_xlim(low - pad, high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.tick_params(labelsize=layout.small)
    axes.set_xlabel(f"{panel.label}{f' ({marks.LOG})' if panel.is_log else ''}", fontsize=layout.small)


def _cut(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[: letters - 3]}..."


def _watermark(axes: Axes, layout: Layout, *, width: float) -> None:
    axes.text(
        0.5,
        0.5,
        STAND_IN.upper(),
        transform=axes.transAxes,
        # as wide as the axes at most
        fontsize=min(layout.title * 1.7, 72 * width / 7),
        fontweight="bold",
        color=GREY,
        alpha=0.22,
        rotation=18,
        ha="center",
        va="center",
        zorder=6,
    )


def _keys(panels: Sequence[PanelDrawing]) -> list[Curve]:
    """One entry for each line in colour, and one for all the others."""
    found: dict[tuple[str, str], Curve] = {}
    for panel in panels:
        for curve in panel.curves:
            if curve.colour is not None:
                found.setdefault((curve.word, curve.name + curve.mark), curve)
    return list(found.values())


def key_text(curve: Curve) -> str:
    """What the key says of a line: its name and its word."""
    return f"{curve.name}{curve.mark}, {curve.word}"


def _flow(keys: Sequence[Curve], layout: Layout) -> list[list[tuple[float, Curve]]]:
    """Keys in lines, each with its place from the left, inches."""
    lines: list[list[tuple[float, Curve]]] = [[]]
    place = 0.0
    for key in keys:
        wide = 0.42 + text_width(key_text(key), layout.small)
        if lines[-1] and place + wide > layout.width - 0.24:
            lines.append([])
            place = 0.0
        lines[-1].append((place, key))
        place += wide
    return lines


def _place_keys(sheet: Sheet, lines: Sequence[Sequence[tuple[float, Curve]]], row: float) -> None:
    layout, width = sheet.layout, sheet.layout.width - 0.24
    axes = sheet.add_axes(0.12, 0.02, width, len(lines) * row)
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(0, len(lines))
    for index, line in enumerate(lines):
        height = len(lines) - index - 0.5
        for left, curve in line:
            style = _style(curve)
            axes.plot(
                [left + 0.09], [height], markersize=layout.small / 1.7, markeredgewidth=1.3, linestyle="", **style
            )
            axes.text(left + 0.22, height, key_text(curve), fontsize=layout.small, va="center", color=INK)


def place_name(at: float, axis: str) -> str:
    """A place on an axis in words: `8k` for tokens."""
    return context(round(at)) if axis in _TOKENS and at == round(at) else f"{at:.6g}"
