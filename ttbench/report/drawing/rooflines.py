"""Rooflines: arithmetic reached against FLOP per byte moved, under what the machine can do at best.

    ceiling at x FLOP per byte = min(x * bytes/s, FLOP/s)       grey; one for each device, dtype and number of threads

A point on the slope is bound by memory, one under the flat part by arithmetic; how far it lies beneath the ceiling is
what the implementation leaves unused. Both axes are logarithmic. Each line joins the contexts of one checkpoint in one
phase, and its marks grow with the context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttbench.report import words
from ttbench.report.drawing import marks
from ttbench.report.drawing.canvas import COLOURS, GREY, INK, MARKERS, PAGE, Layout, Sheet, new_sheet, subtitle
from ttbench.report.words import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# What makes a ceiling another one.
_MACHINE = ("machine", "software", "device", "dtype", "threads")
_PHASES = ("prefill", "decode")  # hollow, filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement: FLOP per byte, and FLOP/s."""

    entry: Record
    intensity: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """What one machine can do at best."""

    name: str  # empty where there is one
    bytes_per_s: float
    flops_per_s: float

    @property
    def ridge(self) -> float:
        """FLOP per byte from which on arithmetic is the bound."""
        return self.flops_per_s / self.bytes_per_s

    def at(self, intensity: float) -> float:
        """FLOP/s that are possible."""
        return min(intensity * self.bytes_per_s, self.flops_per_s)


def points_of(entries: Sequence[Record], moved: Sequence[Record]) -> list[Point]:
    """Entries in FLOP/s with the entries in bytes/s of the same line, context and phase."""
    by_place = {_place(entry): entry["value"] for entry in moved if entry["value"]}
    return [
        Point(entry=entry, intensity=entry["value"] / by_place[_place(entry)], rate=entry["value"])
        for entry in entries
        if entry["value"] and _place(entry) in by_place
    ]


# What differs between the two metrics of one measurement.
_OF_THE_NUMBER = frozenset(
    ("metric", "label", "unit", "value", "low", "high", "noisy", "num_outliers", "reason", "method", "num_samples")
)


def _place(entry: Record) -> tuple[Any, ...]:
    return tuple((name, value) for name, value in entry.items() if name not in _OF_THE_NUMBER)


def roofs_of(memory: Sequence[Record], arithmetic: Sequence[Record]) -> list[Roof]:
    """The ceilings of each machine and setting: the highest of those that its rows tell."""
    found = []
    differing = [name for name in _MACHINE if len({entry.get(name) for entry in memory}) > 1]
    for part in words.by(memory, *_MACHINE):
        mine = {name: part[0].get(name) for name in _MACHINE}
        flat = [entry["value"] for entry in arithmetic if _has(entry, mine) and entry["value"]]
        slope = [entry["value"] for entry in part if entry["value"]]
        if flat and slope:
            name = words.told(part[0], differing)
            found.append(Roof(name=name, bytes_per_s=max(slope), flops_per_s=max(flat)))
    return found


def _has(entry: Record, wanted: Mapping[str, Any]) -> bool:
    return all(entry.get(name) == value for name, value in wanted.items())


def draw_roofline(
    title: str,
    entries: Sequence[Record],
    *,
    moved: Sequence[Record],
    memory: Sequence[Record],
    arithmetic: Sequence[Record],
    names: Sequence[str],
    layout: Layout = PAGE,
) -> Canvas:
    """Draw the roofline of one task.

    Args:
        title: of the figure.
        entries: lines of a summary in FLOP/s, by phase.
        moved: the same in bytes/s.
        memory: ceilings in bytes/s.
        arithmetic: ceilings in FLOP/s.
        names: every checkpoint of the summary, so that each has the same colour in all figures.
        layout: the width that it is drawn for.
    """
    points, roofs = points_of(entries, moved), roofs_of(memory, arithmetic)
    _, _, varying = words.settings([point.entry for point in points])
    lines = words.by([point.entry for point in points], "checkpoint", *varying)
    by_entry = {id(point.entry): point for point in points}
    row = layout.text * 1.45 / 72
    key = (len(lines) + len(roofs)) * row + 0.08
    sheet = new_sheet(title, _told(points), _explained(points, roofs), layout=layout, body=layout.body + key)
    left, bottom, top = 0.075 + 0.055 * layout.text, 0.058 * layout.text, 0.026 * layout.text
    width, height = layout.width - left - 0.2, layout.body - bottom - top
    axes = sheet.add_axes(left, bottom + key, width, height)
    scale = words.scale("FLOP/s", [point.rate for point in points])
    _prepare(axes, points, roofs, scale.size, layout)
    axes.set_xlabel(f"FLOP per byte of weights and state ({marks.LOG})", fontsize=layout.text)
    place = ((0.12 - left) / width, 1 + 0.07 / height)
    axes.text(
        *place, f"{entries[0]['label']}, {scale.unit} ({marks.LOG})", transform=axes.transAxes, fontsize=layout.text
    )
    keys: list[tuple[str, str, str | None]] = []
    for roof in roofs:
        _draw_roof(axes, roof, scale.size)
        memory_scale = words.scale("bytes/s", [roof.bytes_per_s])
        told = f"{memory_scale.text(roof.bytes_per_s)} {memory_scale.unit}, {scale.text(roof.flops_per_s)} {scale.unit}"
        keys.append((f"ceiling{f' {roof.name}' if roof.name else ''}: {told}", GREY, None))
    for index, line in enumerate(lines):
        at = names.index(line[0]["checkpoint"]) if not varying and len(names) <= len(COLOURS) else index
        colour, marker = COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]
        for phase in _PHASES:
            mine = [by_entry[id(entry)] for entry in line if entry["phase"] == phase]
            _draw_points(axes, mine, scale.size, colour, marker, hollow=phase == _PHASES[0], layout=layout)
        name = words.line_name({**line[0], "phase": None}, varying)
        keys.append((name, colour, marker))
    _place_keys(sheet, keys, row)
    return sheet.canvas


def _told(points: Sequence[Point]) -> list[str]:
    return subtitle([point.entry for point in points])


def _explained(points: Sequence[Point], roofs: Sequence[Roof]) -> list[str]:
    phases = {point.entry["phase"] for point in points}
    told = [f"{how}: {phase}" for phase, how in zip(_PHASES, ("hollow", "filled"), strict=True) if phase in phases]
    told.append("larger marks: longer contexts")
    if roofs:
        told.append("grey: the machine's ceilings, memory on the slope and arithmetic on the flat part")
    return told


def _prepare(axes: Axes, points: Sequence[Point], roofs: Sequence[Roof], size: float, layout: Layout) -> None:
    """Logarithmic axes around all points and ridges."""
    xs = [point.intensity for point in points] + [roof.ridge for roof in roofs]
    ys = [point.rate / size for point in points] + [roof.flops_per_s / size for roof in roofs]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(xs) / 1.6, max(xs) * 1.6)
    axes.set_ylim(min(ys) / 1.6, max(ys) * 1.6)
    marks.set_value_axis(axes, log=True, layout=layout)
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(marks.log_ticks(*axes.get_xlim()))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.tick_params(labelsize=layout.text)


def _draw_roof(axes: Axes, roof: Roof, size: float) -> None:
    low, high = axes.get_xlim()
    corners = [low, *([roof.ridge] if low < roof.ridge < high else []), high]
    axes.plot(corners, [roof.at(x) / size for x in corners], color=GREY, linewidth=1.4, zorder=1.5)


def _draw_points(
    axes: Axes, points: Sequence[Point], size: float, colour: str, marker: str, *, hollow: bool, layout: Layout
) -> None:
    points = sorted(points, key=lambda point: point.entry["context_len"])
    if not points:
        return
    xs, ys = [point.intensity for point in points], [point.rate / size for point in points]
    axes.plot(xs, ys, color=colour, linewidth=1.0, zorder=2.5)
    areas = [(layout.text / 2) ** 2 * (0.7 + 0.5 * index) for index in range(len(points))]
    axes.scatter(
        xs, ys, s=areas, marker=marker, c="white" if hollow else colour, edgecolors=colour, linewidths=1.2, zorder=4
    )


def _place_keys(sheet: Sheet, keys: Sequence[tuple[str, str, str | None]], row: float) -> None:
    """Names beneath the axes, each with its mark; the ceilings first."""
    layout, width = sheet.layout, sheet.layout.width - 0.24
    axes = sheet.add_axes(0.12, 0.04, width, len(keys) * row)
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(0, len(keys))
    for index, (name, colour, marker) in enumerate(keys):
        height = len(keys) - index - 0.5
        axes.plot([0, 0.14], [height, height], color=colour, linewidth=1.2, clip_on=False)
        if marker is not None:
            axes.plot([0.07], [height], marker=marker, markersize=layout.text / 2, color=colour, clip_on=False)
        axes.text(0.2, height, name, fontsize=layout.text, va="center", color=INK if marker is None else colour)


def drawable(entries: Sequence[Record]) -> Iterator[Record]:
    """The entries that have a place in a roofline."""
    return (entry for entry in entries if entry["value"] is not None and entry.get("phase") in _PHASES)
