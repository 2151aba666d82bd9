"""What all figures share: style, palette, title. matplotlib is imported when something is drawn."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from ttbench.report import words
from ttbench.report.words import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's palette, told apart by readers with any colour vision; with a marker each, for print without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6B6B6B"
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
    "text.color": "#1A1A1A",
    "axes.labelcolor": "#1A1A1A",
    # the same ids in every SVG; letters as shapes, so that it looks the same everywhere
    "svg.hashsalt": "ttbench",
    "svg.fonttype": "path",
    "path.simplify": False,
    # names are text: a dollar sign begins no formula
    "text.parse_math": False,
}
SIZE = (7.0, 4.0)  # inches; README width
DPI = 180  # dots per inch of the PNG


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


def new_canvas(title: str, entries: Sequence[Record], size: tuple[float, float]) -> Canvas:
    """An empty canvas of `size` inches with a title, and beneath it what holds for all entries."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=size)
    width, height = size
    canvas.text(0.12 / width, 1 - 0.12 / height, title, fontsize=12.5, fontweight="bold", va="top")
    better = "" if entries[0]["better"] == "neither" else f"{entries[0]['better']} is better"
    told = [better, *words.settings(entries)[0][:3]]
    canvas.text(0.12 / width, 1 - 0.38 / height, " · ".join(filter(None, told)), fontsize=9, color=GREY, va="top")
    return canvas
