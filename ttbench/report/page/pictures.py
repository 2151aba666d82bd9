"""The figures of a task on a page: charts, what they show in words, and the table of their numbers beneath them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttbench.report import words
from ttbench.report.drawing import prose
from ttbench.report.drawing.rooflines import Point, drawable, points_of, roofs_of
from ttbench.report.page import charts
from ttbench.report.page.charts import CONTEXT, Spec
from ttbench.report.page.markup import Markup, element, join, name, spelled
from ttbench.report.table import LEGEND, marks_of
from ttbench.report.words import Record, Scale
from ttbench.types import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePicture:
    """One figure: charts side by side, each with a name where there are several, and the table beneath."""

    title: str
    captions: tuple[str, ...]
    charts: tuple[tuple[str, Spec], ...]  # none where a table says more
    table: Markup


def pictures(
    declared: Sequence[Figure], everything: Sequence[Record], *, names: Sequence[str]
) -> Iterator[PagePicture]:
    """The figures of a task, of each corpus apart.

    Args:
        declared: by the task, as `ttbench.report.drawing.figures.declared` gives them.
        everything: the numbers of the task.
        names: every checkpoint of the page, so that each has one colour in all figures.
    """
    for figure in declared:
        parts = words.by([entry for entry in everything if entry["metric"] == figure.metric], "corpus")
        for entries in parts:
            corpus = entries[0]["corpus"]
            title = figure.title + (f", corpus {corpus}" if len(parts) > 1 else "")
            others = [entry for entry in everything if entry["corpus"] == corpus]
            made = _picture(figure, title, entries, others, names)
            if made is not None:
                yield made


def _picture(
    figure: Figure, title: str, entries: Sequence[Record], others: Sequence[Record], names: Sequence[str]
) -> PagePicture | None:
    if figure.kind == "roofline":
        return _roofline(figure, title, entries, others, names)
    axes = (figure.x_axis, figure.y_axis) if figure.kind == "heatmap" else None
    judged = prose.judge(entries, title=title, axes=axes)
    if judged is None:
        return None
    in_words = () if isinstance(judged, prose.Picture) else (_instead(judged),)
    made = _heatmap(figure, title, entries) if axes else _curves(figure, title, entries, others, names)
    return made if not in_words else PagePicture(title=title, captions=in_words, charts=(), table=made.table)


def _instead(judged: str) -> str:
    """What is told instead of a chart, without Markdown: a sentence, or where a table says more, that it does."""
    if "\n" in judged:
        return "Most of these intervals contain the other numbers, so that a table says more than a chart."
    return re.sub(r"^\*\*.*?\*\* ", "", judged)


def _curves(
    figure: Figure, title: str, entries: Sequence[Record], others: Sequence[Record], names: Sequence[str]
) -> PagePicture:
    # a line of one checkpoint's own is no reference of all
    shared = [entry for entry in others if entry["checkpoint"] is None]
    beneath = [[entry for entry in shared if entry["metric"] == metric] for metric in figure.references]
    beneath = [part for part in beneath if part]
    scale = words.of_metric([entry for part in (entries, *beneath) for entry in part])
    _, _, varying = words.settings(entries)
    lines = {
        spelled(words.line_name(line[0], varying)): _dashed(line)
        for line in words.by(entries, "checkpoint", *varying, *_other_axes(entries[0], CONTEXT))
    }
    references = {
        spelled(f"{line[0]['label'].removesuffix(' on the same documents')} {words.told(line[0], told)}".rstrip()): line
        for part in beneath
        for told in [words.settings(part)[2]]
        for line in words.by(part, *told)
    }
    domain = list(dict.fromkeys([*map(spelled, names), *lines])) if lines.keys() <= {*map(spelled, names)} else [*lines]
    described = f"{title}: a line for each of {', '.join(lines)}; the table beneath holds its numbers"
    spec = charts.curves(lines, references, scale, domain=domain, log_y=figure.log_y, description=described)
    told = _captions(entries, scale)
    if any(entry["low"] is not None for entry in entries):
        told.append(f"{'Whiskers' if entries[0]['cluster'] == 'round' else 'Bands'} are 95 % intervals.")
    if any(entry["extrapolated"] is True for entry in entries):
        told.append("Dashed lines and hollow marks are beyond the training context.")
    rows = {(line,): mine for line, mine in {**lines, **references}.items()}
    table = numbers(rows, scale, x_axis=CONTEXT, caption=title, corner=("checkpoint",))
    return PagePicture(title=title, captions=tuple(told), charts=(("", spec),), table=table)


def _dashed(line: Sequence[Record]) -> list[Record]:
    """The line by context; its last point inside the training context knows that the line goes on."""
    ordered = sorted(line, key=lambda entry: entry[CONTEXT])
    made = [entry for entry in ordered if entry["value"] is not None]
    inside = [entry for entry in made if entry["extrapolated"] is not True]
    goes_on = bool(inside) and made[-1] is not inside[-1]
    return [{**entry, "last_inside": goes_on and entry is inside[-1]} for entry in ordered]


def _heatmap(figure: Figure, title: str, entries: Sequence[Record]) -> PagePicture:
    x_axis, y_axis = figure.x_axis, figure.y_axis
    _, _, varying = words.settings(entries)
    others = [axis for axis in _other_axes(entries[0], x_axis, y_axis) if axis != CONTEXT or _several(entries)]
    scale = words.of_metric(entries)
    xs, ys = _on_axis(entries, x_axis), _on_axis(entries, y_axis)
    panels: dict[str, list[Record]] = {}
    for line in words.by(entries, "checkpoint", *varying, *others):
        told = words.line_name({**line[0], x_axis: None, y_axis: None}, varying)
        told += f" at {words.context(line[0][CONTEXT])}" if CONTEXT in others else ""
        panels[spelled(told)] = line
    specs = [
        (panel, charts.heatmap(line, scale, x_axis=x_axis, y_axis=y_axis, xs=xs, ys=ys))
        for panel, line in panels.items()
    ]
    rows = {
        (panel, charts.place(y_axis, y)): [entry for entry in line if entry[y_axis] == y]
        for panel, line in panels.items()
        for y in ys
    }
    table = numbers(rows, scale, x_axis=x_axis, caption=title, corner=("checkpoint", words.axis(y_axis)))
    told = _captions(entries, scale)
    told.append(f"Each cell is in {scale.unit}; dark is low and light is high, from 0 to 100 in every panel.")
    if x_axis == CONTEXT and any(entry["extrapolated"] is True for entry in entries):
        told.append("* beyond the training context.")
    return PagePicture(title=title, captions=tuple(told), charts=tuple(specs), table=table)


def _several(entries: Sequence[Record]) -> bool:
    return len({entry[CONTEXT] for entry in entries}) > 1


def _roofline(
    figure: Figure, title: str, entries: Sequence[Record], others: Sequence[Record], names: Sequence[str]
) -> PagePicture | None:
    moved, memory, arithmetic = (
        [entry for entry in others if entry["metric"] == metric] for metric in (figure.x_axis, *figure.references)
    )
    points = points_of(list(drawable(entries)), moved)
    if not points:
        return None
    scale = words.scale("FLOP/s", [point.rate for point in points])
    _, _, varying = words.settings([point.entry for point in points])
    by_line: dict[str, list[Point]] = {}
    for point in points:
        by_line.setdefault(spelled(words.line_name({**point.entry, "phase": None}, varying)), []).append(point)
    domain = list(dict.fromkeys([*map(spelled, names), *by_line]))
    spec = charts.roofline(by_line, roofs_of(memory, arithmetic), scale, domain=domain)
    rows = {
        (line, str(phase)): [point.entry for point in mine if point.entry["phase"] == phase]
        for line, mine in by_line.items()
        for phase in dict.fromkeys(point.entry["phase"] for point in mine)
    }
    table = numbers(rows, scale, x_axis=CONTEXT, caption=f"{title}, {scale.unit}", corner=("checkpoint", "phase"))
    told = ("Grey: the machine's ceilings, memory on the slope and arithmetic on the flat part.",)
    return PagePicture(title=title, captions=told, charts=(("", spec),), table=table)


def _captions(entries: Sequence[Record], scale: Scale) -> list[str]:
    first = entries[0]
    head = words.title(first, scale.unit)
    told = [words.sentence(head)]
    made = [entry for entry in entries if entry["value"] is not None]
    if made and first["statistic"] != words.COUNT:
        told.append(f"Each number rests on {words.basis(made)}.")
    return told


def _other_axes(entry: Record, *drawn: str) -> list[str]:
    return [axis for axis in entry["axes"].split(",") if axis not in drawn]


def _on_axis(entries: Sequence[Record], axis: str) -> list[Any]:
    return sorted({entry[axis] for entry in entries if entry[axis] is not None})


def numbers(
    rows: Mapping[tuple[str, ...], Sequence[Record]],
    scale: Scale,
    *,
    x_axis: str,
    caption: str,
    corner: tuple[str, ...],
) -> Markup:
    """A table of numbers with their intervals and marks: a row for each line, a column for each place on `x_axis`.

    Args:
        rows: entries, by what stands before them.
        scale: of all of them.
        x_axis: what stands across.
        caption: of the table.
        corner: heads of the columns before the numbers.
    """
    entries = [entry for line in rows.values() for entry in line]
    xs = _on_axis(entries, x_axis)
    across = [element("th", charts.place(x_axis, x), scope="col", class_="number") for x in xs]
    top = element("tr", [element("th", each, scope="col") for each in corner], across)
    body = []
    for named, mine in rows.items():
        if mine:
            cells = {entry[x_axis]: number_cell(entry, scale) for entry in mine}
            first = [element("th", name(each), scope="row") for each in named]
            body.append(element("tr", first, [cells.get(x, element("td", "", class_="number")) for x in xs]))
    head = element("caption", ", ".join(filter(None, (caption, scale.unit))))
    whole = element("table", head, element("thead", top), element("tbody", body))
    return join(scrolled(whole, label=f"numbers of: {caption}"), legend(entries))


def number_cell(entry: Record, scale: Scale) -> Markup:
    """A number with its marks and the interval beneath it, or why there is none."""
    if entry["value"] is None:
        return element("td", charts.value_text(entry, scale), class_="number lost", title=str(entry["reason"] or ""))
    interval = charts.interval_text(entry, scale)
    beneath = element("span", interval, class_="interval") if interval else None
    return element(
        "td", scale.text(entry["value"]), element("span", marks_of(entry), class_="mark"), beneath, class_="number"
    )


def legend(entries: Sequence[Record]) -> Markup | None:
    """What the marks beside these numbers mean."""
    seen = {mark for entry in entries for mark in marks_of(entry)}
    told = [f"{mark} {meaning}" for mark, meaning in LEGEND.items() if mark in seen]
    reasons = dict.fromkeys(str(e["reason"]) for e in entries if e["value"] is None and e["reason"])
    told += [f"no number: {reason}" for reason in reasons]
    return element("p", "; ".join(told) + ".", class_="note") if told else None


def scrolled(content: Markup, *, label: str) -> Markup:
    """Something wide, in a box that the keyboard can scroll."""
    return element("div", content, class_="scroll", tabindex=0, role="region", aria_label=label)
