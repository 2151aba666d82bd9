"""Files of a paper's figures: for each a CSV and its drawings, and one page that says what is what.

    <folder>/<figure>.csv                 every number, with its word, source and note; what was not run has a line too
             <figure>.md or .tex          the same as tables, where that is asked for
             <figure>.png .svg .pdf       and <figure>_column.pdf
             README.md                    the figures and their tables

The same numbers give the same bytes: CSV everywhere, with six digits, drawings within one environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ttbench.errors import UsageError
from ttbench.report import words
from ttbench.report.drawing.canvas import style
from ttbench.report.drawing.figures import write_drawings
from ttbench.report.drawing.paper_panels import PUBLISHED, RERUN, STAND_IN, Curve, PanelDrawing, draw_paper
from ttbench.report.formats.writing import CSV, Printed, RecordSheet, csv_text, write_sheet
from ttbench.report.papers.curves import NOT_RUN, PaperLine, PaperRows, measured_lines, protocol, published_lines
from ttbench.report.papers.numbers import read_published
from ttbench.report.papers.preset import PaperFigure, PaperPanel, Preset
from ttbench.report.statistics.stats import counted
from ttbench.store.files import write_whole

MOST_COLOURS = 6
PAGE = "README.md"
COLUMNS = ("figure", "panel", "word", "line", "place", "axis", "at", "value", "low", "high", "printed", "unit")
COLUMNS += ("checkpoint", "revision", "weights_digest", "evidence", "source", "note")
Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledPanel:
    """A panel with its lines: published, run, and not run."""

    panel: PaperPanel
    lines: tuple[PaperLine, ...]

    def of(self, *kinds: str) -> list[PaperLine]:
        """Its lines of these words that have points."""
        return [line for line in self.lines if line.word in kinds and line.points]


def fill(preset: Preset, sources: Sequence[pd.DataFrame]) -> list[tuple[PaperFigure, list[FilledPanel]]]:
    """The figures of a paper with the numbers of each panel.

    Args:
        preset: of the paper.
        sources: rows of runs and results; where several have a checkpoint, the first is believed.

    Raises what `ttbench.report.papers.numbers.read_published` raises.
    """
    rows = [PaperRows.of(source) for source in sources if len(source)]
    filled = []
    for figure in preset.figures:
        panels = []
        for panel in figure.panels:
            paper = preset.name if panel.printed is None else panel.printed.paper or preset.name
            numbers = read_published(paper) if panel.printed is not None else ()
            printed = published_lines(panel, numbers, kind=figure.kind)
            run, missing = measured_lines(preset, figure, panel, rows)
            panels.append(FilledPanel(panel=panel, lines=(*printed, *run, *missing)))
        filled.append((figure, panels))
    return filled


def write_paper(
    preset: Preset, sources: Sequence[pd.DataFrame], folder: Path, *, form: str | None = None, warn: Warn
) -> list[Path]:
    """Write CSV, drawings and page of every figure of a paper into `folder`; returns the files.

    The CSV has six digits, or all of them where `form` is "csv"; another `form` is written beside it.

    Raises UsageError where the folder cannot be made, and what `fill` raises.
    """
    filled = fill(preset, sources)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"figures cannot go into {folder}: {error.strerror}; name a folder with --into DIR") from error
    files = []
    for figure, panels in filled:
        path = folder / f"{figure.name}.csv"
        write_whole(path, as_csv(figure, panels, whole=form == CSV).encode())
        files.append(path)
        if form not in (None, CSV):
            files.append(write_sheet(paper_sheet(figure, panels), folder / figure.name, form))
        files += [*draw_figure(preset, figure, panels, folder, warn=warn)]
    write_whole(folder / PAGE, page(preset, filled).encode())
    return [*files, folder / PAGE]


def as_csv(figure: PaperFigure, panels: Sequence[FilledPanel], *, whole: bool = False) -> str:
    """Every number of a figure, with six digits or the `whole` of them, and a line for each that is not there."""
    entries = [entry for panel in panels for line in panel.lines for entry in _entries(figure, panel.panel, line)]
    if not whole:
        entries = [
            {name: _six(value) if isinstance(value, float | int) else value for name, value in entry.items()}
            for entry in entries
        ]
    return csv_text(COLUMNS, entries)


def paper_sheet(figure: PaperFigure, panels: Sequence[FilledPanel]) -> RecordSheet:
    """The numbers of a figure, a table for each panel and unit."""
    return RecordSheet(
        kind="published",
        records=[entry for panel in panels for line in panel.lines for entry in _entries(figure, panel.panel, line)],
        printed=[_printed(panel.panel, lines) for panel in panels for lines in _alike(panel)],
    )


def _alike(filled: FilledPanel) -> Iterator[list[PaperLine]]:
    """The lines of a panel whose numbers can stand in one column; a line without numbers goes with the first."""
    kinds = dict.fromkeys((line.unit, _label(filled.panel, line)) for line in filled.lines if line.points)
    lost = [line for line in filled.lines if not line.points]
    for place, kind in enumerate(kinds):
        found = [line for line in filled.lines if line.points and (line.unit, _label(filled.panel, line)) == kind]
        yield [*found, *(lost if place == 0 else [])]
    if lost and not kinds:
        yield lost


def _label(panel: PaperPanel, line: PaperLine) -> str:
    """What the numbers of a line are; those of a stand-in may be of another metric."""
    return line.label if line.word == STAND_IN and line.measured is panel.stand_in else panel.label


def _printed(panel: PaperPanel, lines: Sequence[PaperLine]) -> Printed:
    unit, rows = lines[0].unit, []
    for line in lines:
        for point in line.points:
            ends = (_six(point.low) or "", _six(point.high) or "")
            rows.append([line.name, line.word, point.name, point.printed or _six(point.value) or "", *ends, line.note])
        if not line.points:
            rows.append([line.name, line.word, "", "", "", "", line.note])
    axis = next((line.axis for line in lines if line.axis), "")
    numbers = [f"{name} ({unit})" if unit else name for name in ("value", "low", "high")]
    title = f"{panel.title}: {_label(panel, lines[0])}"
    return Printed(title=title, heads=["line", "word", words.axis(axis) or "place", *numbers, "note"], rows=rows)


def _entries(figure: PaperFigure, panel: PaperPanel, line: PaperLine) -> list[dict[str, object]]:
    shared: dict[str, object] = {
        "figure": figure.name,
        "panel": panel.title,
        "word": line.word,
        "line": line.name,
        "axis": line.axis or None,
        "unit": line.unit or None,
        "checkpoint": line.checkpoint,
        "revision": line.revision,
        "weights_digest": line.weights,
        "evidence": line.evidence or None,
        "source": line.source or None,
        "note": line.note or None,
    }
    if not line.points:
        return [shared]
    return [
        shared
        | {"place": point.name, "at": point.at, "value": point.value, "printed": point.printed}
        | {"low": point.low, "high": point.high}
        for point in line.points
    ]


def _six(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"


# Drawings


def drawings(figure: PaperFigure, panels: Sequence[FilledPanel]) -> list[PanelDrawing]:
    """What is drawn: published numbers with reruns, then stand-ins apart; panels without numbers are left out.

    Numbers have the six digits of the CSV, so that the last bits of another processor move no pixel.
    """
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.of(PUBLISHED, RERUN)))
    shown = [name for name in figure.shown if name in names] or names[:MOST_COLOURS]
    ours = list(dict.fromkeys(line.name for panel in panels for line in panel.of(STAND_IN)))
    found = []
    for filled in panels:
        panel = filled.panel
        together = filled.of(PUBLISHED, RERUN)
        if together:
            found.append(_drawing(figure, panel, together, shown, title=f"{panel.title}: {_heading(together)}"))
    for filled in panels:
        panel, stand_ins = filled.panel, filled.of(STAND_IN)
        if stand_ins:
            measured = stand_ins[0].measured
            told = protocol(measured) if measured is not None and measured is panel.stand_in else panel.title
            title = f"{told or panel.title}: {STAND_IN}"
            found.append(_drawing(figure, panel, stand_ins, ours[:MOST_COLOURS], title=title))
    return found


def _heading(lines: Sequence[PaperLine]) -> str:
    kinds = dict.fromkeys(line.word for line in lines)
    digitised = all("digitised" in line.evidence for line in lines if line.word == PUBLISHED)
    shown = [f"{word}, read off a drawing" if word == PUBLISHED and digitised else word for word in kinds]
    return " and ".join(shown)


def _drawing(
    figure: PaperFigure, panel: PaperPanel, lines: Sequence[PaperLine], shown: Sequence[str], *, title: str
) -> PanelDrawing:
    stands_in = lines[0].word == STAND_IN
    source = lines[0].measured
    axis = next((line.axis for line in lines if line.axis), "")
    unit, label = lines[0].unit, _label(panel, lines[0])
    curves = []
    for line in lines:
        place = shown.index(line.name) if line.name in shown else None
        rounded = tuple(
            dataclasses.replace(
                point,
                value=float(f"{point.value:.6g}"),
                low=None if point.low is None else float(f"{point.low:.6g}"),
                high=None if point.high is None else float(f"{point.high:.6g}"),
            )
            for point in line.points
        )
        curve = line.curve
        curves.append(Curve(word=curve.word, name=curve.name, points=rounded, colour=place))
    return PanelDrawing(
        title=title,
        label=f"{label}, {unit}" if unit and unit not in label else label,
        x_label=source.label if stands_in and source else panel.x_label,
        x_kind=axis,
        log=panel.log,
        x_log=panel.x_log,
        curves=tuple(curves),
    )


def draw_figure(
    preset: Preset, figure: PaperFigure, panels: Sequence[FilledPanel], folder: Path, *, warn: Warn
) -> list[Path]:
    """Draw one figure into `folder`; no file where it has no number at all. Returns the files."""
    drawn = drawings(figure, panels)
    if not drawn:
        return []
    missing = [line for panel in panels for line in panel.lines if line.word == NOT_RUN]
    grey = {c.name for panel in drawn for c in panel.curves if c.colour is None}
    explained = [f"grey: {counted(len(grey), 'other line')}, in the table"] if grey else []
    lost = len({line.name for line in missing})
    explained += [f"{NOT_RUN}: {counted(lost, 'line')}; the table says what each needs"] if lost else []
    told = [f"{preset.source}, {figure.where}", _regenerated(panels), figure.note]
    texts = {text for panel in drawn for text in (panel.title, panel.label, *(c.name for c in panel.curves))}
    with style(texts) as letters:
        if letters:
            warn(f"no installed font has {letters}: boxes stand for these letters in {figure.name}")
        return list(
            write_drawings(
                lambda layout: draw_paper(
                    figure.title, told, drawn, kind=figure.kind, explained=explained, layout=layout
                ),
                folder,
                figure.name,
            )
        )


def _regenerated(panels: Sequence[FilledPanel]) -> str:
    """What may be called regenerated: reruns alone."""
    names = dict.fromkeys(line.name for panel in panels for line in panel.of(RERUN))
    return f"regenerated: {', '.join(names)}" if names else "nothing here is regenerated"


# Page


def page(preset: Preset, filled: Sequence[tuple[PaperFigure, Sequence[FilledPanel]]]) -> str:
    """All figures of a paper in Markdown, each with its table."""
    parts = [
        f"# {preset.title}",
        f"{preset.source}. *published*: the paper's numbers. *rerun*: the authors' checkpoint at its "
        "commit, by their protocol; only a rerun regenerates a figure. *stand-in*: a model of ours in its place.",
    ]
    for figure, panels in filled:
        parts.append(f"## {figure.title} ({figure.where})")
        parts += [words.sentence(_regenerated(panels))]
        if drawings(figure, panels):
            parts.append(f"![{_plain(figure.title)}]({figure.name}.png)")
        parts += [table_of(figure, panel) for panel in panels]
    return "\n\n".join(parts) + "\n"


def table_of(figure: PaperFigure, filled: FilledPanel) -> str:
    """One panel as a table: lines downwards, places across; of what was not run, what it needs."""
    panel = filled.panel
    lines = [["line", "word", f"{panel.label}{f', {panel.unit}' if panel.unit else ''}", "note"]]
    lines.append(["---"] * 4)
    for line in filled.lines:
        several = len(line.points) > 1 or figure.kind == "dots"
        shown = "; ".join(
            f"{f'{point.name}: ' if several else ''}{point.printed or _six(point.value)}" for point in line.points
        )
        unit = line.unit if line.unit != panel.unit else ""
        lines.append([_plain(line.name), line.word, f"{shown} {unit}".strip(), _plain(line.note)])
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {panel.title}\n\n{rows}"


def _plain(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
