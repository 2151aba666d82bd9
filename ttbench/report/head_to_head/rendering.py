"""Checkpoints head to head on a terminal. Two stand side by side; more have a grid for each metric.

bits per byte (lower is better)
                  256     1k     4k
  ttt-linear   1.65 a 1.47 a 1.60 a     checkpoints that share a letter at a context are not shown to differ
  transformer  2.07 b 2.00 b 4.63 c
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from ttbench.report import words
from ttbench.report.comparison.compare import render_comparison
from ttbench.report.comparison.seeds import WITHIN, is_moved
from ttbench.report.comparison.sentences import caption
from ttbench.report.comparison.variants import read_variant
from ttbench.report.head_to_head import crossings
from ttbench.report.head_to_head.fronts import Front
from ttbench.report.head_to_head.leaderboard import Board, is_ranked, shared_values
from ttbench.report.head_to_head.verdicts import HeadToHead
from ttbench.report.statistics.stats import counted
from ttbench.report.summary import A_BETTER, B_BETTER, NOT_COMPARABLE, NOT_JUDGED, RATIO, WITHIN_NOISE
from ttbench.report.words import Paragraph, Record

LETTERS = "checkpoints that share a letter at a context are not shown to differ there by as much as matters"


def render(found: HeadToHead) -> Group:
    """Everything that was found: tables by task, then the leaderboard, crossings and fronts."""
    entries = words.records(found.verdicts)
    parts: list[RenderableType] = []
    if len(found.names) == 2:
        parts.append(render_comparison(found.verdicts))
    else:
        for task in words.by(entries, "task"):
            parts += _task(task, num=len(found.names))
    parts += [Paragraph(text, "dim") for text in _noises(entries)]
    parts.append(Paragraph(f"{found.training_noise}; no verdict is about an architecture", "dim"))
    if len(found.names) > 2 and found.boards:
        parts += [Text(), Text("leaderboard", style="bold")]
        parts += [Paragraph("places that a checkpoint may have, as far as differences are shown", "dim")]
        for board in found.boards:
            parts += _board(board)
    if found.crossings:
        parts += [Text(), Text("crossings", style="bold")]
        parts += [Paragraph(text) for text in crossings.sentences(found.crossings)]
    if found.fronts:
        parts += [Text(), Text("quality against cost", style="bold")]
        parts += [Paragraph("on the front: not shown to be worse than any one checkpoint in both", "dim")]
        parts += [Paragraph(front_sentence(front)) for front in found.fronts]
    return Group(*parts)


def _task(entries: Sequence[Record], *, num: int) -> Iterator[RenderableType]:
    """The tables of one task for three checkpoints and more."""
    yield Text(f"{entries[0]['task']}: {num} checkpoints, each pair on the same targets", style="bold")
    labels = {entry["metric"]: entry["label"] for entry in entries}
    for metric in words.by(entries, "metric"):
        yield Text()
        first = metric[0]
        if first["restates"] is not None or not is_ranked(first):
            yield Paragraph(_told(metric, labels), "dim")
            continue
        scale = words.of_metric(metric, ("value_a", "value_b"))
        yield Text(words.title(first, scale.unit), style="bold")
        _, _, varying = words.settings(metric)
        able = [entry for entry in metric if entry["verdict"] != NOT_COMPARABLE]
        for part in words.by(able, *varying):
            if varying:
                yield Paragraph(words.told(part[0], varying))
            yield _grid(part, scale)
        if able:
            yield Paragraph(caption(able), "dim")
        yield from (Paragraph(line, "dim") for line in _refused(metric))
    yield Text()
    judged = any(entry.get("training_sd") is not None for entry in entries)
    legend = [f"{LETTERS}, or by twice the training noise" if judged else LETTERS]
    if any(entry["extrapolated"] for entry in entries):
        legend.append(f"* {words.BEYOND}")
    marks = words.probed(entries).values()
    legend += [f"{mark} {meaning}" for mark, meaning in words.CHECKED.values() if mark in marks]
    yield from (Paragraph(line, "dim") for line in legend)
    yield Text()


def _noises(entries: Sequence[Record]) -> Iterator[str]:
    """For each metric, the training noise of its differences, and where seeds tell none of what is shown."""
    if not any(entry.get("training_sd") is not None for entry in entries):
        return
    for metric in words.by([entry for entry in entries if is_moved(entry)], "task", "metric"):
        known = [entry for entry in metric if entry["training_sd"] is not None]
        shown = [entry for entry in metric if entry["verdict"] in (A_BETTER, B_BETTER, WITHIN_NOISE)]
        _, _, varying = words.settings(metric)
        lacking = [entry for entry in shown if entry["training_sd"] is None and not _one_training(entry)]
        told = _points_told(known, varying)
        if lacking:
            told.append(f"not known {', '.join(dict.fromkeys(_point(entry, varying) for entry in lacking))}")
        if not told:
            continue
        judged = [entry for entry in shown if entry["training_sd"] is not None]
        within = sum(entry["verdict"] == WITHIN_NOISE for entry in judged)
        noun = f"{metric[0]['cluster'] or 'sample'}s"
        ratio = metric[0]["kind"] == RATIO
        less = "lie within" if ratio else "less than twice"
        count = f" Of {counted(len(judged), 'difference')} that the {noun} show there, {within} {less} this."
        yield f"training noise of differences in {_named(metric[0])}, {_size(known)}: " + (
            f"{'; '.join(told)}.{count if judged else ''}"
        )


def _one_training(entry: Record) -> bool:
    """Whether two settings of one checkpoint are compared, which have no training noise between them."""
    return read_variant(entry["a"]).name == read_variant(entry["b"]).name


def _named(entry: Record) -> str:
    """The metric, and what it is told by beside the context: two metrics may have one label."""
    extra = [words.axis(name) for name in entry["axes"].split(",") if name not in ("", "context_len")]
    return ", ".join([str(entry["label"]), *([f"by {' and '.join(extra)}"] if extra else [])])


def _size(known: Sequence[Record]) -> str:
    """What is told at each point: a standard deviation with its unit; of ratios how far twice of it reaches."""
    if known and known[0]["kind"] == RATIO:
        return "a ratio that two standard deviations of its logarithm reach"
    return f"one standard deviation{_unit(known)}"


def _unit(known: Sequence[Record]) -> str:
    if not known:
        return ""
    if known[0]["statistic"] == "proportion":
        return " in points of 100"
    unit = words.of_metric(known, ("effect", "training_sd")).unit
    return f" in {unit}" if unit and unit != known[0]["label"] else ""


def _points_told(known: Sequence[Record], varying: Sequence[str]) -> list[str]:
    """Training noise at each point; the pairs are named where not all of a point have one noise."""
    if not known:
        return []
    scale = words.of_metric(known, ("effect", "training_sd"))
    points: dict[str, dict[str, list[str]]] = {}
    for entry in known:
        sd = _sd(entry, scale)
        points.setdefault(_point(entry, varying), {}).setdefault(sd, []).append(f"{entry['a']} and {entry['b']}")
    return [
        f"{sd} {point}".rstrip() + ("" if len(noises) == 1 else f" ({', '.join(pairs)})")
        for point, noises in points.items()
        for sd, pairs in noises.items()
    ]


def _sd(entry: Record, scale: words.Scale) -> str:
    if entry["kind"] == RATIO:
        return words.significant(math.exp(WITHIN * entry["training_sd"]), 3)
    if entry["statistic"] == "proportion":
        return f"{100 * entry['training_sd']:.1f}"
    return scale.text(entry["training_sd"])


def _point(entry: Record, varying: Sequence[str]) -> str:
    return f"{_where(entry)} {words.told(entry, varying)}".strip()


def _where(entry: Record) -> str:
    """The point of a comparison: `at 512 depth 0.5`."""
    context_len = entry.get("context_len")
    found = [*([] if context_len is None else [words.context(context_len)]), *words.places(entry)]
    return f"at {' '.join(found)}" if found else ""


def _told(metric: Sequence[Record], labels: Mapping[str, str]) -> str:
    """A metric that has no grid, in one line; `labels` are what other metrics are called."""
    first = metric[0]
    if first["restates"] is not None:
        return f"{first['label']}: see {labels.get(first['restates'], first['restates'])}, which it restates"
    won = sum(entry["verdict"] in (A_BETTER, B_BETTER) for entry in metric)
    extra = [words.axis(name) for name in first["axes"].split(",") if name != "context_len"]
    by = f", by {' and '.join(extra)}" if extra else ""
    return f"{first['label']}{by}: {won} of {len(metric)} comparisons have a winner; --json has them all"


def _refused(metric: Sequence[Record]) -> Iterator[str]:
    """What could not be compared or judged, once for each reason, with its cells."""
    refused = [entry for entry in metric if entry["verdict"] in (NOT_COMPARABLE, NOT_JUDGED)]
    for part in words.by(refused, "verdict", "reason"):
        contexts = sorted({entry["context_len"] for entry in part if entry["context_len"] is not None})
        where = f" at {', '.join(map(words.context, contexts))}" if contexts else ""
        pairs = dict.fromkeys(f"{entry['a']} and {entry['b']}" for entry in part)
        yield f"{part[0]['verdict']}{where}, {part[0]['reason']}: {', '.join(pairs)}"


def _grid(part: Sequence[Record], scale: words.Scale) -> _Grid:
    columns: dict[str, dict[str, str]] = {}
    worst: dict[str, float] = {}
    for here in sorted(words.by(part, "context_len"), key=lambda entries: entries[0]["context_len"]):
        sign = 1 if here[0]["better"] == "lower" else -1
        values = dict(sorted(shared_values(here).items(), key=lambda item: sign * item[1]))
        told, marks = letters(list(values), here), words.probed(here)
        width = max((len(text) for text in told.values()), default=0)
        beyond = "*" if here[0]["extrapolated"] else ""
        columns[words.context(here[0]["context_len"]) + beyond] = {
            name: f"{scale.text(value)}{marks.get(name, '')} {told[name].ljust(width)}"
            for name, value in values.items()
        }
        worst |= {name: sign * value for name, value in values.items()}
    names = sorted(worst, key=lambda name: worst[name])
    return _Grid(names, columns)


def letters(order: Sequence[str], here: Sequence[Record]) -> dict[str, str]:
    """Letters for each checkpoint such that two share one exactly where they are not shown to differ.

    Args:
        order: the best first.
        here: comparisons of all pairs at one point.
    """
    apart = {frozenset((e["a"], e["b"])) for e in here if e["verdict"] in (A_BETTER, B_BETTER)}
    groups: list[list[str]] = [list(order)]
    for one, two in itertools.combinations(order, 2):
        if frozenset((one, two)) in apart:
            split: list[list[str]] = []
            for group in groups:
                if one in group and two in group:
                    split += [[name for name in group if name != one], [name for name in group if name != two]]
                else:
                    split.append(group)
            sets = [set(group) for group in split]
            groups = [
                group
                for index, group in enumerate(split)
                if not any(
                    sets[index] < other or (sets[index] == other and place < index) for place, other in enumerate(sets)
                )
            ]
    groups.sort(key=lambda group: [order.index(name) for name in group])
    return {name: "".join(_letter(index) for index, group in enumerate(groups) if name in group) for name in order}


def _letter(index: int) -> str:
    many, place = divmod(index, len(ascii_lowercase))
    return ascii_lowercase[place] + (str(many) if many else "")


@dataclass(frozen=True, slots=True)
class _Grid:
    """Checkpoints down, contexts across; in blocks where the terminal is too narrow."""

    names: Sequence[str]
    columns: Mapping[str, Mapping[str, str]]  # head -> name -> cell

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left = min(max(map(cell_len, self.names)), max(options.max_width // 3, 12))
        wide = {head: max(len(head), *map(len, cells.values())) for head, cells in self.columns.items()}
        blocks: list[list[str]] = [[]]
        for head, width in wide.items():
            used = sum(wide[other] + 2 for other in blocks[-1])
            if blocks[-1] and 2 + left + used + 2 + width > options.max_width:
                blocks.append([])
            blocks[-1].append(head)
        for block in blocks:
            heads = "".join("  " + head.rjust(wide[head]) for head in block)
            yield Text((" " * (2 + left) + heads).rstrip(), style="dim", no_wrap=True)
            for name in self.names:
                rows = textwrap.wrap(name, left, break_on_hyphens=True) or [""]
                for index, row in enumerate(rows):
                    cells = [self.columns[head].get(name, "-") if index == 0 else "" for head in block]
                    line = "".join("  " + cell.rjust(wide[head]) for head, cell in zip(block, cells, strict=True))
                    yield Text(f"  {row}{' ' * (left - cell_len(row))}{line}".rstrip(), no_wrap=True)


def _board(board: Board) -> Iterator[RenderableType]:
    """One line for each checkpoint: its places, its number, and whom it is shown to beat."""
    scale = words.scale(board.unit, [place.value for place in board.places], statistic=board.statistic)
    head = ", ".join(filter(None, (board.label, board.settings)))
    unit = f", {scale.unit}" if scale.unit != board.label and scale.unit else ""
    beyond = "*" if board.extrapolated else ""
    yield Paragraph(f"{head} at {words.context(board.context_len)}{beyond}{unit} ({board.better} is better)", "bold")
    for place in board.places:
        where = str(place.best) if place.best == place.worst else f"{place.best}-{place.worst}"
        over = f"; shown to be better than {', '.join(place.better_than)}" if place.better_than else ""
        unknown = f"; not judged against {', '.join(place.open)}" if place.open else ""
        yield Paragraph(f"{where} {place.name} {scale.text(place.value)}{over}{unknown}")


def front_sentence(front: Front) -> str:
    """Who is on a front, and who is shown to be behind whom."""
    quality = f"{front.quality_label} at {words.context(front.quality_context)}"
    ahead = [member.name for member in front.members if not member.beaten_by]
    behind = [
        f"{member.name} is shown to be worse in both than {', '.join(member.beaten_by)}"
        for member in front.members
        if member.beaten_by
    ]
    told = "; ".join([f"on the front: {', '.join(ahead)}", *behind])
    return f"{quality} against {front.cost_label} at {words.context(front.cost_context)}: {told}."
