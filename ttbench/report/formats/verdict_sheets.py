"""What `ttbench compare` found as sheets: comparisons, places of the leaderboard, crossings and fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ttbench.report import words
from ttbench.report.comparison.sentences import effect_numbers
from ttbench.report.formats.number_sheets import NOTES, in_unit, plain, scaled, setting_cell, setting_head
from ttbench.report.formats.writing import Printed, RecordSheet
from ttbench.report.head_to_head.crossings import Crossing
from ttbench.report.head_to_head.fronts import Front
from ttbench.report.head_to_head.leaderboard import Board
from ttbench.report.head_to_head.verdicts import HeadToHead, said
from ttbench.report.summary import RATIO
from ttbench.report.table import EXTRAPOLATED
from ttbench.report.words import Record, Scale

_HEAD, _SIDES, _ENDS = ("task", "metric", "a", "b"), ("value_a", "value_b"), ("effect", "low", "high")
_TAIL = (*_SIDES, "unit", "kind", *_ENDS, "level", "joint_p", "verdict", "winner", "reason")
_TAIL = (*_TAIL, "training_sd", "num_pairs", "num_points", "extrapolated")


def verdict_sheets(found: HeadToHead) -> list[RecordSheet]:
    """All that was found head to head, a sheet for each kind."""
    boards = {(board.task, board.metric): board for board in found.boards}
    return [
        comparison_sheet(words.records(found.verdicts)),
        _places(found.boards if len(found.names) > 2 else ()),
        _crossings(found.crossings),
        _fronts(found.fronts, boards),
    ]


def comparison_sheet(entries: Sequence[Record], *, place: str = "context_len") -> RecordSheet:
    """Paired comparisons, of each metric a table.

    Args:
        entries: of `ttbench.report.comparison.compare.compare`, with or without winners.
        place: the column that tells the comparisons of a metric apart where they have no context.
    """
    axes = dict.fromkeys(axis for entry in entries for axis in (entry["axes"] or "").split(",") if axis in entry)
    places = dict.fromkeys([*([place] if entries and place in entries[0] else []), *axes])
    _, _, varying = words.settings(entries) if entries else ([], [], [])
    names = [*_HEAD, *(name for name in varying if name not in places), *places, *_TAIL]
    known = {name for entry in entries for name in entry}
    kept = [name for name in names if name in known]
    records = [{name: entry[name] for name in kept} for entry in entries]
    labels = {(entry["task"], entry["metric"]): entry["label"] for entry in entries}
    printed = [_comparisons(part, place, labels) for part in words.by(entries, "task", "metric")]
    return RecordSheet(kind="comparison", records=records, printed=printed)


def _comparisons(entries: Sequence[Record], place: str, labels: Mapping[tuple[str, str], str]) -> Printed:
    told = [entry for entry in entries if entry["effect"] is not None]
    scale = words.of_metric(told or entries, _SIDES)
    constant, asked, varying = words.settings(entries)
    axes = [name for name in (entries[0]["axes"] or "").split(",") if name in entries[0] and name != place]
    settings = [name for name in varying if name not in (*axes, place)]
    where = "context (tokens)" if place == "context_len" else words.axis(place)
    # times, bytes and perplexities are divided, all else is subtracted: one metric is one of the two
    first = (told or entries)[0]
    divided = first["kind"] == RATIO
    unit = "times" if divided else "points" if first["statistic"] == "proportion" else words.unit_words(first["unit"])
    heads = ["a", "b", *map(setting_head, settings), where, *map(words.axis, axes)]
    heads += [in_unit(name, scale) for name in ("value of a", "value of b")]
    made = "a / b" if divided else "a - b"
    heads += [f"{name} ({unit})" if unit else name for name in (made, "low", "high")]
    rows = [
        [
            entry["a"],
            entry["b"],
            *(setting_cell(name, entry.get(name)) for name in settings),
            plain(entry[place]),
            *(plain(entry[name]) for name in axes),
            *(scaled(entry[name], scale) for name in _SIDES),
            *effect_numbers(entry),
            _verdict(entry, labels),
            NOTES[EXTRAPOLATED] if entry["extrapolated"] else "",
        ]
        for entry in entries
    ]
    shown = {**entries[0], "axes": ",".join(("context_len", *axes))}
    title = ", ".join([f"{entries[0]['task']}: {words.title(shown, scale.unit)}", *constant, *asked])
    return Printed(title=title, heads=[*heads, "verdict", "notes"], rows=rows)


def _verdict(entry: Record, labels: Mapping[tuple[str, str], str]) -> str:
    """The verdict with the winner's name; of what restates another metric, which one is judged."""
    judged = labels.get((entry["task"], entry["restates"] or ""))
    return said(entry) if judged is None or entry["effect"] is None else f"see {judged}"


def _places(boards: Sequence[Board]) -> RecordSheet:
    shared = ("task", "metric", "settings", "context_len")
    records = [
        {name: getattr(board, name) for name in shared}
        | {"checkpoint": place.name, "value": place.value, "unit": board.unit, "best": place.best}
        | {"worst": place.worst, "better_than": _listed(place.better_than), "open": _listed(place.open)}
        for board in boards
        for place in board.places
    ]
    return RecordSheet(kind="place", records=records, printed=list(map(_board, boards)))


def _board(board: Board) -> Printed:
    scale = words.scale(board.unit, [place.value for place in board.places], statistic=board.statistic)
    rows = [
        [
            str(place.best) if place.best == place.worst else f"{place.best} to {place.worst}",
            place.name,
            scaled(place.value, scale),
            ", ".join(place.better_than),
            ", ".join(place.open),
        ]
        for place in board.places
    ]
    where = ", ".join(filter(None, (board.label, board.settings)))
    beyond = f", {NOTES[EXTRAPOLATED]}" if board.extrapolated else ""
    title = f"leaderboard: {where} at {words.context(board.context_len)} tokens{beyond} ({board.better} is better)"
    heads = ["places that it may have", "checkpoint", in_unit("value", scale), "shown to be better than"]
    return Printed(title=title, heads=[*heads, "not judged against"], rows=rows)


def _crossings(crossings: Sequence[Crossing]) -> RecordSheet:
    records = [one.to_json() for one in crossings]
    shown, none = [], []
    for one in crossings:
        pair = [", ".join(filter(None, (one.label, one.settings))), one.first, one.then]
        compared = [str(one.shortest), str(one.longest)]
        if one.context_len is None:
            none.append(pair + compared)
        else:
            numbers = ["" if number is None else f"{number:.0f}" for number in (one.context_len, one.low, one.high)]
            shown.append([*pair, *numbers, *compared, "counted" if one.exact else "measured"])
    ends = ["compared from (tokens)", "compared to (tokens)"]
    heads = ["metric", "ahead before", "ahead after", "crossing (tokens)", "low (tokens)", "high (tokens)"]
    printed = [
        Printed(title="crossings", heads=[*heads, *ends, "how"], rows=shown),
        Printed(title="no crossing shown", heads=["metric", "a", "b", *ends], rows=none),
    ]
    return RecordSheet(kind="crossing", records=records, printed=printed)


def _fronts(fronts: Sequence[Front], boards: Mapping[tuple[str, str], Board]) -> RecordSheet:
    records, printed = [], []
    for front in fronts:
        quality, cost = boards[front.task, front.quality], boards[front.cost_task, front.cost]
        shared = {name: getattr(front, name) for name in ("task", "quality", "quality_context")}
        shared |= {"quality_unit": quality.unit}
        shared |= {name: getattr(front, name) for name in ("cost_task", "cost", "cost_context")}
        shared |= {"cost_unit": cost.unit}
        rows = []
        scales = [_scale(quality, [m.quality for m in front.members]), _scale(cost, [m.cost for m in front.members])]
        for member in front.members:
            values = {"quality_value": member.quality, "cost_value": member.cost}
            front_of = {"checkpoint": member.name, "on_front": not member.beaten_by}
            records.append(shared | front_of | values | {"beaten_by": _listed(member.beaten_by)})
            numbers = [scaled(value, scale) for value, scale in zip(values.values(), scales, strict=True)]
            rows.append([member.name, *numbers, "no" if member.beaten_by else "yes", ", ".join(member.beaten_by)])
        told = (front.quality_label, front.quality_context, front.cost_label, front.cost_context)
        title = f"{told[0]} at {words.context(told[1])} tokens against {told[2]} at {words.context(told[3])} tokens"
        heads = ["checkpoint", in_unit(quality.label, scales[0]), in_unit(cost.label, scales[1]), "on the front"]
        heads.append("shown to be worse in both than")
        printed.append(Printed(title=title, heads=heads, rows=rows))
    return RecordSheet(kind="front", records=records, printed=printed)


def _scale(board: Board, values: Sequence[float]) -> Scale:
    return words.scale(board.unit, values, statistic=board.statistic)


def _listed(names: Sequence[str]) -> str:
    """Names in one cell of a CSV; they may hold commas."""
    return "; ".join(names)
