"""Curves: one line per checkpoint against the context, with its 95 % intervals; its name at the right, with its value.

Solid as far as the checkpoint was trained, which an upright tick on the line marks; dashed and hollow beyond.
References are thin grey lines; cells without a number are crosses at the foot, with their status. More lines than
there are colours, and lines in each other's intervals, are drawn as small multiples: a pair of axes for each, with all
the others behind it in grey. Checkpoints with the same marks at every context share one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttbench.report import words
from ttbench.report.drawing import marks, prose
from ttbench.report.drawing.canvas import (
    COLOURS,
    DOT_NAMES,
    INK,
    MARKERS,
    PAGE,
    Layout,
    Sheet,
    head_heights,
    new_sheet,
    subtitle,
    text_width,
    wrap,
)
from ttbench.report.words import Record, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

MOST_LINES = len(COLOURS)  # in one pair of axes
_BEHIND = "#C9C9C9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """What stands at the right of a line."""

    height: float  # of the line's last point, on the upright axis
    text: str
    value: str  # of the last point
    colour: str
    marker: str | None = None  # of a checkpoint
    line: Any = "-"  # style of a reference's line


def draw_curves(
    title: str,
    entries: Sequence[Record],
    *,
    beneath: Sequence[Sequence[Record]],
    names: Sequence[str],
    log_y: bool,
    layout: Layout = PAGE,
) -> Canvas:
    """Draw one metric.

    Args:
        title: of the figure.
        entries: lines of a summary, of one metric.
        beneath: lines of each reference metric.
        names: every checkpoint of the summary, so that each has the same colour in all figures.
        log_y: a logarithmic upright axis.
        layout: the width that it is drawn for.
    """
    scale = _scale(entries, beneath)
    _, _, varying = words.settings(entries)
    lines = words.by(entries, "checkpoint", *varying)
    settings, varying = varying, _telling(lines, varying)
    made = [entry for entry in entries if entry["value"] is not None]
    if len(lines) > MOST_LINES or (len(lines) > prose.FEW_LINES and prose.is_mud(made)):
        # Small multiples have one interval each.
        alike = marks.merged(lines, settings)
        return _multiples(title, entries, alike, beneath, scale, varying, log_y=log_y, layout=layout)
    keys = [*lines, *(part for reference in beneath for part in words.by(reference, *words.settings(reference)[2]))]
    longest = max(text_width(f"{_name(line[0], varying)} 9.999", layout.text, "bold") for line in keys)
    beside = longest < 0.36 * layout.width
    row = layout.text * 1.45 / 72
    left, bottom, top = 0.075 + 0.055 * layout.text, 0.058 * layout.text, 0.026 * layout.text
    key = 0.0 if beside else len(keys) * row + 0.08
    sheet = new_sheet(
        title,
        subtitle(entries),
        _explained(entries, beneath, whiskers=is_timed(entries)),
        layout=layout,
        body=layout.body + key,
    )
    width = layout.width - left - (longest + 0.3 if beside else 0.12)
    height = layout.body - bottom - top
    axes = sheet.add_axes(left, bottom + key, width, height)
    _prepare(axes, entries, beneath, scale, log=log_y, layout=layout, width=width)
    _label_axes(axes, entries, scale, log=log_y, layout=layout, place=((0.12 - left) / width, 1 + 0.07 / height))
    found = _draw_references(axes, beneath, scale)
    lost = 0
    for index, line in enumerate(lines):
        place = names.index(line[0]["checkpoint"]) if not varying and len(names) <= MOST_LINES else index
        colour, marker = COLOURS[place], MARKERS[place]
        made = [entry for entry in line if entry["value"] is not None]
        if made:
            thick = max(2.3 - 0.3 * index, 1.4) * (1 if layout is PAGE else 0.75)
            marks.draw_line(axes, made, scale, colour, marker, width=thick, whiskers=is_timed(entries))
            value = made[-1]["value"]
            found.append(
                Name(
                    height=value / scale.size,
                    text=_name(line[0], varying) + unchecked_mark(made),
                    value=scale.text(value),
                    colour=colour,
                    marker=marker,
                )
            )
        failed = [entry for entry in line if entry["value"] is None]
        lost += bool(failed)
        marks.draw_crosses(axes, failed, colour, lost, size=layout.small)
    if beside:
        _place_beside(axes, found, layout=layout, width=width, height=height)
    else:
        _place_beneath(sheet, found, row)
    return sheet.canvas


def is_timed(entries: Sequence[Record]) -> bool:
    """Whether a number is made from rounds: few contexts far apart, between which nothing was measured."""
    return entries[0]["cluster"] == "round"


def is_unchecked(entry: Record) -> bool:
    """Whether a number was made without probes, by request."""
    return entry.get("checked") == "unchecked"


def unchecked_mark(entries: Sequence[Record]) -> str:
    """What stands behind a name with such a number, as in the table."""
    return " !" if any(map(is_unchecked, entries)) else ""


def _telling(lines: Sequence[Sequence[Record]], varying: Sequence[str]) -> list[str]:
    """Of what varies, what tells the lines apart: not the rounds, where each batch size has its own number of them."""
    kept: list[str] = []
    for name in varying:
        apart = [
            len({(line[0]["checkpoint"], *map(line[0].get, held)) for line in lines}) for held in (kept, [*kept, name])
        ]
        if apart[1] > apart[0]:
            kept.append(name)
    return kept


def _name(entry: Record, varying: Sequence[str]) -> str:
    if entry["checkpoint"] is not None:
        return words.line_name(entry, varying)
    return re.sub(r",? on the same (documents|windows)$", "", entry["label"])


def _scale(entries: Sequence[Record], beneath: Sequence[Sequence[Record]]) -> Scale:
    found = words.of_metric([entry for part in (entries, *beneath) for entry in part])
    return Scale(unit=found.unit, size=found.size, decimals=0 if found.unit == "%" else found.decimals)


def _prepare(
    axes: Axes,
    entries: Sequence[Record],
    beneath: Sequence[Sequence[Record]],
    scale: Scale,
    *,
    log: bool,
    layout: Layout,
    width: float,
) -> None:
    """Scales, limits and ticks, before anything is drawn: the training context's tick needs them."""
    if log:
        axes.set_yscale("log")
    marks.set_context_axis(axes, sorted({entry["context_len"] for entry in entries}), layout=layout, width=width)
    lost = sum(any(entry["value"] is None for entry in line) for line in words.by(entries, "checkpoint"))
    everything = [entry for part in (entries, *beneath) for entry in part]
    marks.fit_y(axes, everything, scale, log=log, lost=lost)
    marks.set_value_axis(axes, log=log, layout=layout)


def _label_axes(
    axes: Axes, entries: Sequence[Record], scale: Scale, *, log: bool, layout: Layout, place: tuple[float, float]
) -> None:
    axes.set_xlabel(f"context, tokens ({marks.LOG})", fontsize=layout.text)
    # level, where it is read first, and never cut off by wide numbers
    axes.text(*place, upright_label(entries, scale, log=log), transform=axes.transAxes, fontsize=layout.text)


def upright_label(entries: Sequence[Record], scale: Scale, *, log: bool) -> str:
    """The metric and its unit, and that the axis is logarithmic."""
    label = f"{entries[0]['label']}, {scale.unit}" if scale.unit != entries[0]["label"] else scale.unit
    return f"{label} ({marks.LOG})" if log else label


def _draw_references(axes: Axes, beneath: Sequence[Sequence[Record]], scale: Scale) -> list[Name]:
    found: list[Name] = []
    for part, differing in _references(beneath):
        height, colour, line = marks.draw_reference(axes, part, scale, len(found))
        text, value = _reference_name(part[0], differing), scale.text(height * scale.size)
        found.append(Name(height=height, text=text, value=value, colour=colour, line=line))
    return found


def _references(beneath: Sequence[Sequence[Record]]) -> Iterator[tuple[list[Record], list[str]]]:
    """The lines of references that have a number, and the settings that tell each from others of its metric."""
    for reference in beneath:
        _, _, differing = words.settings(reference)
        for part in words.by(reference, *differing):
            if any(entry["value"] is not None for entry in part):
                yield part, differing


def _reference_name(entry: Record, differing: Sequence[str]) -> str:
    return f"{_name(entry, differing)} {words.told(entry, differing)}".rstrip()


def _place_beside(axes: Axes, names: Sequence[Name], *, layout: Layout, width: float, height: float) -> None:
    """Names to the right of the lines, in their order of height, pushed apart until none touches another."""
    gap = layout.text * 1.4 / 72 / height
    transform = axes.transData + axes.transAxes.inverted()
    ends = [float(transform.transform((axes.get_xlim()[1], name.height))[1]) for name in names]
    order = sorted(range(len(names)), key=lambda index: ends[index])
    places = [min(max(ends[index], 0.0), 1.0) for index in order]
    for _ in range(200):
        for index in range(1, len(places)):
            overlap = gap - (places[index] - places[index - 1])
            if overlap > 1e-9:
                places[index - 1] -= overlap / 2
                places[index] += overlap / 2
    edge = axes.get_position().x0 * layout.width
    right = (layout.width - edge - 0.1) / width
    for place, index in zip(places, order, strict=True):
        _write_name(axes, names[index], layout, left=1 + 0.05 / width, right=right, height=place, inch=1 / width)


def _place_beneath(sheet: Sheet, names: Sequence[Name], row: float) -> None:
    """Names that are too long to stand beside the lines, one below the other at the foot."""
    layout, width = sheet.layout, sheet.layout.width - 0.24
    axes = sheet.add_axes(0.12, 0.04, width, len(names) * row)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for index, name in enumerate(sorted(names, key=lambda name: -name.height)):
        height = 1 - (index + 0.5) / len(names)
        _write_name(axes, name, layout, left=0.0, right=1.0, height=height, inch=1 / width)


def _write_name(
    axes: Axes, name: Name, layout: Layout, *, left: float, right: float, height: float, inch: float
) -> None:
    """The mark of a line, its name, and its last value at `right`; all in parts of the axes, as an inch is."""
    ours = name.marker is not None
    at: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False, "color": name.colour}
    ends = [left, left + 0.14 * inch]
    axes.plot(ends, [height, height], linewidth=1.2, linestyle="-" if ours else name.line, **at)
    if ours:
        axes.plot([sum(ends) / 2], [height], marker=name.marker, markersize=layout.text / 2, **at)
    written = {"fontsize": layout.text, "va": "center", **at}
    axes.text(left + 0.19 * inch, height, name.text, fontweight="bold" if ours else "normal", **written)
    axes.text(right, height, name.value, ha="right", **written)


def _multiples(
    title: str,
    entries: Sequence[Record],
    lines: Sequence[Sequence[Record]],
    beneath: Sequence[Sequence[Record]],
    scale: Scale,
    varying: Sequence[str],
    *,
    log_y: bool,
    layout: Layout,
) -> Canvas:
    """A pair of axes for each line, all with the same limits; `entries` are those of all checkpoints, merged or not."""
    columns = layout.panels
    rows = -(-len(lines) // columns)
    left, bottom, gap = 0.075 + 0.055 * layout.text, 0.058 * layout.text, 0.14
    height = layout.body * 0.38
    width = (layout.width - left - 0.12 - gap * (columns - 1)) / columns
    ends = {last["context_len"] for line in lines if (last := _last(line))}
    names = [
        wrap(_titled(line, scale, varying, placed=len(ends) > 1), width + gap / 2, layout.text, "bold")
        for line in lines
    ]
    heads = head_heights(names, columns, layout, space=0.4)
    explained = [*_explained(entries, beneath, whiskers=is_timed(entries)), "light grey: the other lines"]
    if len(ends) == 1:
        explained.append(f"number above a panel: at {words.context(*ends)}")
    explained += _told_references(beneath, scale)
    told = [upright_label(entries, scale, log=log_y), *subtitle(entries)]
    body = sum(heads) + rows * height + 0.08 * (rows - 1) + bottom
    sheet = new_sheet(title, told, explained, layout=layout, body=body)
    for index, line in enumerate(lines):
        row, column = divmod(index, columns)
        up = bottom + (rows - 1 - row) * (height + 0.08) + sum(heads[row + 1 :])
        axes = sheet.add_axes(left + column * (width + gap), up, width, height)
        _prepare(axes, entries, beneath, scale, log=log_y, layout=layout, width=width)
        lowest = index + columns >= len(lines)
        axes.tick_params(labelleft=column == 0, labelbottom=lowest, labelsize=layout.small)
        if lowest:
            axes.set_xlabel(f"context, tokens ({marks.LOG})", fontsize=layout.small)
        _draw_references(axes, beneath, scale)
        for other in lines:
            points = sorted((e["context_len"], e["value"] / scale.size) for e in other if e["value"] is not None)
            if other is not line and points:
                axes.plot(*zip(*points, strict=True), color=_BEHIND, linewidth=0.9, zorder=1.2)
        made = [entry for entry in line if entry["value"] is not None]
        if made:
            marks.draw_line(axes, made, scale, COLOURS[0], MARKERS[0], width=1.4, whiskers=is_timed(entries))
        failed = [entry for entry in line if entry["value"] is None]
        marks.draw_crosses(axes, failed, COLOURS[0], 1, size=layout.small)
        name = "\n".join(names[index])
        axes.set_title(name, fontsize=layout.text, fontweight="bold", color=INK, loc="left", pad=3, linespacing=1.2)
    return sheet.canvas


def _last(line: Sequence[Record]) -> Record | None:
    """The last number of a line."""
    return next((entry for entry in reversed(line) if entry["value"] is not None), None)


def _titled(line: Sequence[Record], scale: Scale, varying: Sequence[str], *, placed: bool) -> str:
    """What stands above a pair of axes: the line's name and its last value; `placed`: and at which context that is."""
    name, last = _name(line[0], varying) + unchecked_mark([e for e in line if e["value"] is not None]), _last(line)
    if last is None:
        return name
    value = scale.text(last["value"]) + ("\N{NO-BREAK SPACE}%" if scale.unit == "%" else "")
    return f"{name}: {value}" + (f" at {words.context(last['context_len'])}" if placed else "")


def _told_references(beneath: Sequence[Sequence[Record]], scale: Scale) -> list[str]:
    """The line of each reference, and the numbers between which it lies."""
    found = []
    for part, differing in _references(beneath):
        made = [entry["value"] for entry in part if entry["value"] is not None]
        ends = dict.fromkeys((scale.text(min(made)), scale.text(max(made))))
        style = DOT_NAMES[len(found) % len(DOT_NAMES)]
        found.append(f"{_reference_name(part[0], differing)} ({style}), {' to '.join(ends)}")
    return [f"thin dark lines: {'; '.join(found)}"] if found else []


def _explained(entries: Sequence[Record], beneath: Sequence[Sequence[Record]], *, whiskers: bool) -> list[str]:
    """How to read the marks, and which references were counted on a part of what was scored."""
    made = [entry for entry in entries if entry["low"] is not None]
    told = []
    if made:
        told.append(f"{'whiskers' if whiskers else 'band'}: 95% interval over {words.basis(made)}")
    most = max((entry["num_clusters"] for entry in made), default=0)
    for reference in beneath:
        counts = [entry["num_clusters"] for entry in reference if entry["value"] is not None]
        if counts and min(counts) < most:
            told.append(f"{_name(reference[0], ())}: {min(counts)} of the {most} {made[0]['cluster']}s")
    if any(entry["train_ctx"] is not None for entry in entries):
        told.append("tick: end of the training context")
    if any(entry["extrapolated"] for entry in entries):
        told.append("dashed, hollow: beyond it")
    if any(is_unchecked(entry) for entry in entries):
        told.append("! " + words.UNCHECKED)
    if any(entry["value"] is None for entry in entries):
        told.append("cross: no number")
    return told
