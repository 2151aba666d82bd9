"""What is told in words or as a table, because a picture would say less: zeros, one column, too many intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from ttbench.report import words
from ttbench.report.words import Record, Scale

CONTEXT = "context_len"
HEAD = "# Figures"  # first line of a page
FEW_LINES = 3  # that a table tells better than small multiples, where their intervals cover each other


@dataclass(frozen=True, slots=True)
class Picture:
    """Says that a picture tells more than words."""


def judge(entries: Sequence[Record], *, title: str, axes: tuple[str, str] | None) -> Picture | str | None:
    """Whether numbers of one metric and corpus are drawn, or what is told instead, as Markdown; None: neither.

    Args:
        entries: lines of a summary.
        title: of the figure.
        axes: to the right and downwards, of a heat map; None: curves against the context.
    """
    made = [entry for entry in entries if entry["value"] is not None and entry["checkpoint"] is not None]
    several = {entry[CONTEXT] for entry in made}
    if not made or (axes is None and len(several) < 2):
        # one context is a column of the overview
        return None
    head = f"**{title}.** {_where(made)}"
    scale = words.of_metric(made)
    if all(entry["value"] == 0 for entry in made):
        return f"{head}: {_zero(made, scale)}."
    if axes is not None:
        x_axis, y_axis = axes
        across, down = (sorted({entry[axis] for entry in made}) for axis in axes)
        cells = {(entry[x_axis], entry[y_axis]) for entry in made}
        if len(cells) > max(len(across), len(down)):
            return Picture()
        if len(cells) == 1:
            return None
        # one column, one row, or a diagonal: a number for each place on the longer axis
        along = y_axis if len(down) >= len(across) else x_axis
        return f"{head}: {_one_column(made, scale, along)}."
    return f"{head}:\n\n{_table(entries, scale)}" if num_lines(made) <= FEW_LINES and is_mud(made) else Picture()


def _where(entries: Sequence[Record]) -> str:
    contexts = list(map(words.context, sorted({entry[CONTEXT] for entry in entries})))
    corpora = sorted({str(entry["corpus"]) for entry in entries if entry["corpus"] is not None})
    return f"At {', '.join(contexts)} tokens{' of corpus ' + ', '.join(corpora) if corpora else ''}"


def _zero(entries: Sequence[Record], scale: Scale) -> str:
    checkpoints = list(dict.fromkeys(entry["checkpoint"] for entry in entries))
    highs = [entry["high"] for entry in entries if entry["high"] is not None]
    ends = list(dict.fromkeys((scale.text(min(highs)), scale.text(max(highs))))) if highs else []
    sure = f"; the 95% intervals end at {' to '.join(ends)}{scale.unit}" if ends else ""
    return f"0{scale.unit} everywhere, for {', '.join(checkpoints)}{sure}"


def _one_column(entries: Sequence[Record], scale: Scale, along: str) -> str:
    """What a heat map with one place on an axis holds: `transformer 33, 40, 50%`."""
    _, _, varying = words.settings(entries)
    others = [name for name in entries[0]["axes"].split(",") if name not in (CONTEXT, along)]
    told = []
    for line in words.by(entries, "checkpoint", *varying, *others):
        line = sorted(line, key=lambda entry: entry[along])
        name = words.line_name({**line[0], along: None}, varying)
        told.append(f"{name} {', '.join(scale.text(entry['value']) for entry in line)}{scale.unit}")
    places = sorted({entry[along] for entry in entries})
    shown = [words.context(place) if along == CONTEXT else words.plain(place) for place in places]
    return f"by {'context' if along == CONTEXT else words.axis(along)} {', '.join(shown)}: {'; '.join(told)}"


def num_lines(entries: Sequence[Record]) -> int:
    """Lines of a figure of these numbers."""
    _, _, varying = words.settings(entries)
    return len(words.by(entries, "checkpoint", *varying))


def is_mud(entries: Sequence[Record]) -> bool:
    """Whether at more than half of the contexts three lines lie in each other's intervals."""
    points = words.by(entries, CONTEXT)
    return sum(any(map(_cover_each_other, combinations(part, 3))) for part in points) > len(points) / 2


def _cover_each_other(entries: Sequence[Record]) -> bool:
    return all(
        one["low"] is not None and one["low"] <= other["value"] <= one["high"] for one in entries for other in entries
    )


def _table(entries: Sequence[Record], scale: Scale) -> str:
    """Numbers with their intervals, a line per checkpoint, a column per context."""
    _, _, varying = words.settings(entries)
    contexts = sorted({entry[CONTEXT] for entry in entries})
    first = entries[0]
    unit = scale.unit if scale.unit == first["label"] else f"{first['label']}, {scale.unit}"
    lines = [[unit, *map(words.context, contexts)], ["---", *["---:"] * len(contexts)]]
    for line in words.by(entries, "checkpoint", *varying):
        cells = {entry[CONTEXT]: _cell(entry, scale) for entry in line}
        lines.append([words.line_name(line[0], varying), *(cells.get(context_len, "") for context_len in contexts)])
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _cell(entry: Record, scale: Scale) -> str:
    if entry["value"] is None:
        return str(entry["status"])
    mark = "*" if entry["extrapolated"] else ""
    sure = "" if entry["low"] is None else f" ({scale.text(entry['low'])} to {scale.text(entry['high'])})"
    return f"{scale.text(entry['value'])}{mark}{sure}"


def page(pictures: Sequence[Path], told: Sequence[str]) -> str:
    """The figures of a folder on one page of Markdown, with what is told instead of others; empty without either."""
    if not pictures and not told:
        return ""
    parts: list[Any] = [
        f"{HEAD}\n\nThe same drawings are beside this page as SVG and PDF, and for a column of a paper."
    ]
    parts += [f"![{path.stem.replace('_', ' ')}]({path.name})" for path in pictures]
    if told:
        parts.append("Not drawn, because words or a table say more (* beyond the training context):")
    return "\n\n".join([*parts, *told]) + "\n"
