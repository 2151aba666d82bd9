"""What all figures share: style, palette, sizes, and the sheet with its title and foot.

matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ttbench.report import words
from ttbench.report.words import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's palette, told apart by readers with any colour vision; with a marker each, for print without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#6B6B6B"
INK = "#1A1A1A"
# References: greys and line styles that no checkpoint has; dashes are for extrapolation.
GREYS = ("#6B6B6B", "#9A9A9A", "#404040", "#B5B5B5")
DOTS = ("-", (0, (1, 1.4)), (0, (6, 1.4, 1, 1.4)), (0, (1, 3.5)))
DOT_NAMES = ("solid", "dotted", "dash-dotted", "sparsely dotted")
_STYLE: Mapping[str, object] = {
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
    "text.color": INK,
    "axes.labelcolor": INK,
    # the same ids in every SVG; text is text there, to be searched, read aloud and edited
    "svg.hashsalt": "ttbench",
    "svg.fonttype": "none",
    # TrueType, which publishers ask for
    "pdf.fonttype": 42,
    "path.simplify": False,
    # names are text: a dollar sign begins no formula
    "text.parse_math": False,
}
DPI = 180  # dots per inch of the PNG
_MARGIN = 0.12  # inches around the sheet
_EM = {"normal": 0.54, "bold": 0.66}  # mean width of a letter of the figures' font, in sizes of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A width that figures are drawn for."""

    suffix: str  # of the files' names
    width: float  # inches
    title: float  # points, as the next three
    subtitle: float
    text: float
    small: float
    body: float  # inches of height of one pair of axes, with what is written on them
    panels: int  # small multiples side by side


PAGE = Layout(suffix="", width=7.0, title=12.5, subtitle=9, text=9.5, small=8, body=3.1, panels=3)
# one of the two columns of a conference page
COLUMN = Layout(suffix="_column", width=3.25, title=8.5, subtitle=7, text=7, small=6.5, body=2.15, panels=2)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A canvas with title and foot, and free room between them."""

    canvas: Canvas
    layout: Layout
    foot: float  # inches below the free room

    def add_axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes in inches; `bottom` counts from the lower edge of the free room."""
        across, up = self.canvas.get_size_inches()
        return self.canvas.add_axes((left / across, (self.foot + bottom) / up, width / across, height / up))


def load_library() -> None:
    """Import matplotlib; before anything else of it is imported.

    Raises ImportError or OSError where it is broken. A notebook's MPLBACKEND names a window, which need not be
    installed here and is not needed for files.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib  # noqa: F401
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


@contextmanager
def style(texts: Iterable[str] = ()) -> Iterator[str]:
    """matplotlib's settings for one figure with these texts, put back afterwards.

    Yields the letters that no installed font can draw; they come out as boxes.
    """
    load_library()
    import matplotlib

    from ttbench.report.drawing import fonts

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        preferred = fonts.users_families()
        matplotlib.rcdefaults()
        families, missing = fonts.families(texts, preferred=preferred)
        matplotlib.rcParams.update(cast("Any", {**_STYLE, "font.family": families}))
        yield missing


def new_sheet(title: str, told: Sequence[str], explained: Sequence[str], *, layout: Layout, body: float) -> Sheet:
    """A canvas as wide as the layout, with `body` inches of free room.

    Args:
        title: of the figure.
        told: what holds for everything in it, beneath the title.
        explained: how to read the marks, at the foot.
        layout: width and letters.
        body: inches.
    """
    from matplotlib.figure import Figure as Canvas

    room = layout.width - 2 * _MARGIN
    heads = wrap(title, room, layout.title, "bold")
    subheads = wrap(" · ".join(filter(None, told)), room, layout.subtitle)
    feet = wrap(" · ".join(filter(None, explained)), room, layout.small)
    head = len(heads) * _line_height(layout.title) + len(subheads) * _line_height(layout.subtitle) + 0.1
    foot = len(feet) * _line_height(layout.small) + 0.1
    height = _MARGIN + head + body + foot
    canvas = Canvas(figsize=(layout.width, height))
    left, top = _MARGIN / layout.width, 1 - _MARGIN / height
    canvas.text(left, top, "\n".join(heads), fontsize=layout.title, fontweight="bold", va="top")
    top -= len(heads) * _line_height(layout.title) / height
    canvas.text(left, top, "\n".join(subheads), fontsize=layout.subtitle, color=GREY, va="top")
    canvas.text(left, 0.08 / height, "\n".join(feet), fontsize=layout.small, color=GREY, va="bottom")
    return Sheet(canvas, layout, foot)


def subtitle(entries: Sequence[Record]) -> list[str]:
    """Which way is better, and the settings that all entries share."""
    better = "" if entries[0]["better"] == "neither" else f"{entries[0]['better']} is better"
    return [better, *words.settings(entries)[0][:3]]


def head_heights(names: Sequence[Sequence[str]], columns: int, layout: Layout, *, space: float) -> list[float]:
    """Inches above each row of panels, so many side by side: its longest name, in lines, and `space` lines beside."""
    rows = [names[start : start + columns] for start in range(0, len(names), columns)]
    return [layout.text * (space + 1.2 * max(map(len, row))) / 72 for row in rows]


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """About how wide a text is, inches."""
    return len(text) * size * _EM[weight] / 72


def _line_height(size: float) -> float:
    return size * 1.35 / 72


def wrap(text: str, room: float, size: float, weight: str = "normal") -> list[str]:
    """Lines of a text that fit into so many inches; there is room for eight letters at least."""
    if text_width(text, size, weight) <= room:
        return [text]
    return textwrap.wrap(text, max(8, int(room / text_width("x", size, weight))), break_on_hyphens=False)
