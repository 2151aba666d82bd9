"""The parts of a page that are read from top to bottom, as HTML that stands without any script."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ttbench.report import words
from ttbench.report.comparison import seeds
from ttbench.report.comparison.sentences import sentences
from ttbench.report.comparison.variants import sides
from ttbench.report.drawing.figures import headlines
from ttbench.report.head_to_head import crossings
from ttbench.report.head_to_head.leaderboard import Board
from ttbench.report.head_to_head.rendering import front_sentence
from ttbench.report.head_to_head.verdicts import HeadToHead, head_to_head
from ttbench.report.overview import OverviewColumn, overview
from ttbench.report.page.charts import interval_text
from ttbench.report.page.markup import Markup, element, join, name
from ttbench.report.page.pictures import PagePicture, legend, scrolled
from ttbench.report.statistics.stats import counted
from ttbench.report.table import marks_of, tabulate
from ttbench.report.words import Record


@dataclass(frozen=True, kw_only=True)
class PageSource:
    """Rows that belong together, with their summary: of runs, or of one folder of published results."""

    label: str  # what they were called
    rows: pd.DataFrame
    table: pd.DataFrame  # of `ttbench.report.table.tabulate`
    entries: Sequence[Record]  # the table as records
    found: HeadToHead | None  # of all pairs; None for one checkpoint alone
    evidence: str  # a sentence: what of the samples is in the page, and what is not

    @property
    def tasks(self) -> list[str]:
        """Its tasks, in the order of the rows."""
        return list(dict.fromkeys(self.rows["task"]))

    def of_task(self, task: str) -> list[Record]:
        """The numbers of one task."""
        return [entry for entry in self.entries if entry["task"] == task]

    @functools.cached_property
    def drawn(self) -> list[Record]:
        """The numbers that figures show: of trainings that differ in their seed alone those of the first."""
        shown = seeds.drawn_trainings(self.table)
        return [entry for entry in self.entries if entry["checkpoint"] in (None, *shown)]

    def compared(self, task: str) -> list[Record]:
        """The paired comparisons of one task."""
        return [entry for entry in self.pairs if entry["task"] == task]

    @functools.cached_property
    def pairs(self) -> list[Record]:
        """Every pair at every point, with its verdict."""
        return [] if self.found is None else [*words.records(self.found.verdicts)]


def source_of(label: str, rows: pd.DataFrame, *, evidence: str) -> PageSource:
    """Rows as `ttbench.store.rows` reads them, tabulated and compared once."""
    table = tabulate(rows)
    found = head_to_head(rows) if len(sides(rows)) > 1 else None
    return PageSource(label=label, rows=rows, table=table, entries=words.records(table), found=found, evidence=evidence)


def checkpoints_of(sources: Iterable[PageSource]) -> list[str]:
    """Names of all checkpoints, in order of appearance."""
    return list(dict.fromkeys(str(each) for source in sources for each in source.rows["checkpoint"]))


def title_of(sources: Sequence[PageSource]) -> str:
    """`transformer, ttt-linear and titans-mac`, or how many there are."""
    names = checkpoints_of(sources)
    if len(names) > 4:
        return f"{len(names)} checkpoints compared"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def masthead(sources: Sequence[PageSource]) -> Markup:
    """Title, and what the page was made from."""
    started = sorted(str(each)[:10] for source in sources for each in source.rows["started"].dropna())
    tasks = list(dict.fromkeys(task for source in sources for task in source.tasks))
    num_rows = sum(len(source.rows) for source in sources)
    when = dict.fromkeys((started[0], started[-1])) if started else ()
    facts = [
        ("checkpoints", len(checkpoints_of(sources))),
        ("tasks", ", ".join(tasks)),
        ("samples", f"{num_rows:,}"),
        ("measured", " to ".join(when) or "not told"),
        ("read from", ", ".join(source.label for source in sources)),
    ]
    return element(
        "header",
        element("p", "ttbench report", class_="kicker"),
        element("h1", name(title_of(sources))),
        element("dl", [element("div", element("dt", term), element("dd", name(told))) for term, told in facts]),
        class_="masthead",
    )


def verdicts(sources: Sequence[PageSource]) -> Markup:
    """What the paired comparisons show, in words, task by task; then where checkpoints cross."""
    parts: list[Markup] = []
    for source in sources:
        for task in source.tasks:
            compared = source.compared(task)
            first, more = _said(source, task)
            if first or more:
                rests = f" {counted(len(compared), 'comparison')}"
                parts.append(element("h3", task, element("span", rests, class_="source"), _of(source, sources)))
                parts.append(_listed(first))
            if more:
                parts.append(element("details", element("summary", f"More of {task}"), _listed(more)))
    found = [source.found for source in sources if source.found is not None]
    notes = [note for source in sources for note in source.table.attrs.get("notes", ())]
    # of further seeds the notes of a table tell; a page has no names to give
    notes += dict.fromkeys(text for each in found for text in each.left_out if not text.startswith(tuple(notes)))
    nothing = None if parts else element("p", "There is nothing to compare: no two checkpoints were measured alike.")
    told = [element("p", note) for note in notes]
    noises = dict.fromkeys(each.training_noise for each in found) or [seeds.NOT_KNOWN]
    trainings = " ".join(map(words.sentence, noises))
    how = f"{_HOW} {trainings} No verdict is about an architecture. {_WHERE}"
    return section("verdicts", "Verdicts", parts, nothing, told, element("p", how, class_="note"))


_HOW = (
    "Checkpoints are compared in pairs on the same targets. All pairs, contexts and settings of one metric are one "
    "family: a table of equal checkpoints holds any false verdict in about 5 of 100. “Not shown” is not “equal”."
)
_WHERE = "All pairs with their intervals stand in the tables of each task."


def _said(source: PageSource, task: str) -> tuple[list[str], list[str]]:
    """Sentences about the metrics that figures show; and about the others, and crossings that are not shown."""
    drawn = {metric for of, metric in headlines(source.table) if of == task}
    first: list[str] = []
    more: list[str] = []
    for part in words.by(source.compared(task), "metric"):
        metric = part[0]["metric"]
        (first if metric in drawn else more).extend(sentences(part))
        crossed = [] if source.found is None else source.found.crossings
        mine = [one for one in crossed if (one.task, one.metric) == (task, metric)]
        shown = [one for one in mine if one.context_len is not None]
        (first if metric in drawn else more).extend(crossings.sentences(shown))
        more.extend(crossings.sentences([one for one in mine if one.context_len is None]))
    return (first, more) if first else (more, [])


def _listed(said: Sequence[str]) -> Markup:
    return element("ul", [_verdict(sentence) for sentence in said], class_="verdicts")


# Between what one context says, what another one says, and how sure it is; never within brackets.
_CLAUSES = re.compile(r"; (?=at \S+ tokens|intervals hold|scored unchecked|\S+ is shown to be worse)")


def _verdict(sentence: str) -> Markup:
    """A sentence, with a line for each of its clauses."""
    clauses = _CLAUSES.split(sentence)
    ends = [*[";"] * (len(clauses) - 1), ""]
    return element("li", [element("span", clause + end) for clause, end in zip(clauses, ends, strict=True)])


def _of(source: PageSource, sources: Sequence[PageSource]) -> Markup | None:
    """Where a part comes from, where there are several sources."""
    return element("span", " ", name(source.label), class_="source") if len(sources) > 1 else None


def leaderboard(sources: Sequence[PageSource]) -> Markup:
    """One row per model, one column per metric; sources that hold the same task have tables of their own."""
    groups: list[list[PageSource]] = []
    for source in sources:
        tasks = set(source.tasks)
        free = [group for group in groups if not any(tasks & set(other.tasks) for other in group)]
        free[0].append(source) if free else groups.append([source])
    made = [(group, table) for group in groups if (table := _ranking(group)) is not None]
    if not made:
        return section("leaderboard", "Leaderboard", element("p", "There is one model only, or no number to rank."))
    several = len(made) > 1
    parts = [
        (element("h3", name(", ".join(source.label for source in group))) if several else None, table, _fronts(group))
        for group, table in made
    ]
    note = (
        "Each strip spans its column; the dot is the value and the line its 95 % interval, each for its number alone. "
        "Quality stands at the longest context that all models were trained for, times and memory at the longest of "
        "all. Places are those that a model may have, as far as differences are shown."
    )
    return section("leaderboard", "Leaderboard", [join(*part) for part in parts], element("p", note, class_="note"))


def _fronts(sources: Sequence[PageSource]) -> Markup | None:
    """Quality against cost, in words."""
    found = [front for source in sources if source.found is not None for front in source.found.fronts]
    if not found:
        return None
    head = "Quality against cost: on the front are those that no other is shown to beat in both."
    return join(element("p", head), _listed([front_sentence(front) for front in found]))


def _ranking(sources: Sequence[PageSource]) -> Markup | None:
    """The table of sources of different tasks; None for one model alone, or without numbers."""
    entries = [entry for source in sources for entry in source.entries]
    metrics = dict.fromkeys(metric for source in sources for metric in headlines(source.table))
    found = overview(entries, tuple(metrics))
    if found is None:
        return None
    boards = [board for source in sources if source.found is not None for board in source.found.boards]
    heads = [element("th", "model", scope="col")]
    for column in found.columns:
        where = f"{column.where}{', * beyond training' if column.extrapolated else ''}"
        told = element("span", where, class_="interval")
        heads.append(element("th", column.title, told, scope="col", class_="number"))
    body = [
        element("tr", element("th", name(row), scope="row"), [_ranked(column, row, boards) for column in found.columns])
        for row in found.rows
    ]
    caption = element("caption", "All models side by side: value, and its 95 % interval beneath")
    whole = element("table", caption, element("thead", element("tr", heads)), element("tbody", body), class_="ranking")
    cells = [entry for column in found.columns for entry in column.cells.values()]
    return join(scrolled(whole, label=f"leaderboard of {sources[0].label}"), legend(cells))


def _ranked(column: OverviewColumn, row: str, boards: Sequence[Board]) -> Markup:
    entry, scale = column.cells.get(row), column.scale
    if entry is None:
        return element("td", "not measured", class_="number lost", data_order="")
    if entry["value"] is None:
        return element("td", str(entry["status"]).replace("_", " "), class_="number lost", data_order="")
    interval = interval_text(entry, scale)
    return element(
        "td",
        scale.text(entry["value"]),
        element("span", marks_of(entry), class_="mark"),
        element("span", interval, class_="interval") if interval else None,
        _strip(column, entry),
        _place_of(entry, column, boards),
        class_="number",
        data_order=f"{entry['value']:.9g}",
    )


def _place_of(entry: Record, column: OverviewColumn, boards: Sequence[Board]) -> Markup | None:
    """The places that a checkpoint may have, as far as differences are shown."""
    same = (entry["task"], entry["metric"], entry["context_len"])
    mine = [board for board in boards if (board.task, board.metric, board.context_len) == same]
    mine = mine if len(mine) == 1 else [board for board in mine if board.settings == column.told]
    for place in (place for board in mine for place in board.places if place.name == entry["checkpoint"]):
        told = f"place {place.best}" if place.best == place.worst else f"place {place.best} to {place.worst}"
        return element("span", told, class_="interval")
    return None


def _strip(column: OverviewColumn, entry: Record) -> Markup | None:
    """A dot and its interval on the scale of the column."""
    made = [cell for cell in column.cells.values() if cell["value"] is not None]
    ends = [cell[end] for cell in made for end in ("value", "low", "high") if cell[end] is not None]
    least, most = min(ends), max(ends)
    if least == most:
        return None

    def across(value: float) -> str:
        return f"{3 + 94 * (value - least) / (most - least):.1f}"

    line = None
    if entry["low"] is not None:
        line = element("line", x1=across(entry["low"]), x2=across(entry["high"]), y1=6, y2=6)
    kind = "strip beyond" if entry["extrapolated"] else "strip"
    dot = element("circle", cx=across(entry["value"]), cy=6, r="3")
    axis = element("line", x1=0, x2=100, y1=6, y2=6, class_="axis")
    return element("svg", axis, line, dot, viewBox="0 0 100 12", class_=kind, aria_hidden="true", focusable="false")


def task_section(source: PageSource, task: str, found: Sequence[PagePicture], *, key: str, several: bool) -> Markup:
    """Figures, each with its table; then places for the tables that a script fills."""
    entries = source.of_task(task)
    constant, asked, _ = words.settings(entries)
    told = " · ".join([*constant, *asked])
    figures = []
    for index, picture in enumerate(found):
        panels = [
            element(
                "div",
                element("h4", name(panel)) if panel else None,
                element("div", class_="chart", id=f"{key}-{index}-{place}"),
                class_="panel",
            )
            for place, (panel, _) in enumerate(picture.charts)
        ]
        caption = element("figcaption", " ".join(picture.captions))
        numbers = element(
            "details",
            element("summary", f"Numbers of this figure: {picture.title}"),
            picture.table,
            open=not picture.charts,
        )
        small = " small" if len(panels) > 1 else ""
        body = element("div", panels, class_=f"panels{small}") if panels else None
        figures.append(element("figure", element("h3", picture.title), body, caption, numbers))
    return section(
        key,
        join(task, element("span", " ", name(source.label), class_="source") if several else None),
        element("p", told, class_="settings") if told else None,
        figures,
        _place("numbers", key, "All numbers", len(entries)),
        _place("comparisons", key, "Paired comparisons", len(source.compared(task))),
        _place("samples", key, "Samples", list(source.rows["task"]).count(task), source.evidence),
    )


def _place(kind: str, key: str, title: str, num_rows: int, note: str = "") -> Markup:
    """Where a script puts a table once it is opened."""
    return element(
        "details",
        element("summary", title, element("span", f" {counted(num_rows, 'row')}", class_="count")),
        element("p", note, class_="note") if note else None,
        element("div", class_="listing", data_table=f"{kind}-{key}"),
        class_="listed",
    )


def environments(sources: Sequence[PageSource]) -> Markup:
    """What the rows were measured on and with."""
    parts: list[Markup] = []
    kept: dict[str, str] = {}
    where: dict[str, list[str]] = {}
    for source in sources:
        kept |= source.rows.attrs.get("environments", {})
        for digest, part in source.rows.groupby("environment", sort=False, dropna=False):
            labels = where.setdefault(str(digest), [])
            labels.append(f"{', '.join(dict.fromkeys(part['task']))} ({counted(len(part), 'sample')})")
    for digest, labels in where.items():
        tasks = "; ".join(labels)
        if digest not in kept:
            parts.append(element("h3", tasks))
            parts.append(element("p", "The environment of these rows was not kept: they were published without it."))
            continue
        parts.append(element("h3", tasks))
        parts.append(_environment(json.loads(kept[digest])))
    return section("environment", "Environment", _checkpoints(sources), parts)


def _environment(found: Mapping[str, Any]) -> Markup:
    facts = [
        ("processor", f"{found['processor']}, {counted(found['num_cores'], 'core')}"),
        ("memory", f"{found['memory_bytes'] / 2**30:.1f} GiB"),
        ("accelerator", found.get("accelerator") or "none"),
        ("platform", found.get("platform")),
        ("Python", found.get("python")),
        ("ttbench", f"{found['ttbench']}, commit {found.get('commit') or 'unknown'}"),
        ("machine", found.get("machine")),
        ("variables", ", ".join(f"{key}={value}" for key, value in (found.get("variables") or {}).items())),
    ]
    packages = ", ".join(f"{key} {value}" for key, value in (found.get("packages") or {}).items())
    return join(
        element(
            "dl",
            [element("div", element("dt", key), element("dd", name(told))) for key, told in facts if told],
            class_="facts",
        ),
        element("details", element("summary", "Packages"), element("p", name(packages))) if packages else None,
    )


def _checkpoints(sources: Sequence[PageSource]) -> Markup:
    """What each name stands for."""
    heads = ("checkpoint", "architecture", "parameters", "without embeddings", "trained at", "from", "weights")
    seen: dict[tuple[Any, ...], list[Markup | str]] = {}
    for source in sources:
        for entry in words.records(source.rows.drop_duplicates(["checkpoint", "weights_digest"])):
            weights = str(entry["weights_digest"] or "")
            trained = "not told" if entry["train_ctx"] is None else words.context(entry["train_ctx"])
            sizes = ["" if entry[size] is None else f"{entry[size]:,}" for size in _SIZES]
            origin = " ".join(filter(None, (entry["provenance"], entry["revision"])))
            key = (entry["checkpoint"], weights)
            seen[key] = [name(entry["checkpoint"]), str(entry["architecture"]), *sizes, trained, origin, weights[:12]]
    rows = [
        element("tr", element("th", cells[0], scope="row"), [element("td", cell) for cell in cells[1:]])
        for cells in seen.values()
    ]
    head = element("tr", [element("th", each, scope="col") for each in heads])
    table = element("table", element("caption", "Checkpoints"), element("thead", head), element("tbody", rows))
    return scrolled(table, label="checkpoints")


_SIZES = ("num_params", "num_params_non_embedding")


def section(key: str, title: Markup | str, *parts: Any) -> Markup:
    """A part of the page that the contents name."""
    return element("section", element("h2", title, id=key), *parts, aria_labelledby=key)
