"""What a comparison says in sentences, and how its numbers were made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ttbench.report.comparison.seeds import WITHIN
from ttbench.report.statistics.stats import counted
from ttbench.report.summary import EXACT, NOT_COMPARABLE, NOT_JUDGED, NOT_SHOWN, RATIO, TOO_SMALL, WITHIN_NOISE
from ttbench.report.words import Record, basis, by, context, probed, settings, significant, told, unit_words


def sentences(comparisons: Sequence[Record]) -> list[str]:
    """One sentence for each metric that is made by context alone: who is better, by how much, and how sure that is.

    Quality is told at the longest context that all were trained for, and beyond it apart; timings at the shortest and
    at the longest context. Settings that differ, two corpora say, have a sentence each.
    """
    found = []
    for metric in by([entry for entry in comparisons if entry["axes"] == "context_len"], "task", "metric"):
        _, _, varying = settings(metric)
        for entries in by(metric, *varying):
            found += _sentence(entries, told(entries[0], varying))
    return found


def _sentence(entries: Sequence[Record], where: str) -> list[str]:
    """What one metric says under one set of settings, if anything; `where` tells them from others."""
    label = entries[0]["label"]
    if unit_words(entries[0]["unit"]) == label:
        label = ""  # the unit says it
    head = ", ".join(filter(None, (label, where)))
    # one quantity, one verdict: what restates another metric is told there
    parts = [] if entries[0]["restates"] or entries[0]["statistic"] == "exp_ratio" else _parts(entries)
    clauses = [clause for clause in (_clause(part, intro) for part, intro in parts) if clause]
    if clauses:
        said = "; ".join(clauses)
        together = together_of(entries[0])
        said += f"; intervals hold{together}" if together and "95% interval" in said else ""
        unchecked = [name for name, mark in probed(e for part, _ in parts for e in part).items() if mark == "!"]
        said += f"; scored unchecked: {', '.join(unchecked)}" if unchecked else ""
        said = f"{head}: {said}." if head else f"{said[0].upper()}{said[1:]}."
        return [said[0].upper() + said[1:] if where and not label else said]
    refused = sorted({entry["reason"] for entry in entries if entry["verdict"] == NOT_COMPARABLE and entry["reason"]})
    if len(refused) == 1 and all(entry["verdict"] == NOT_COMPARABLE for entry in entries):
        return [f"{', '.join(filter(None, (entries[0]['label'], where)))}: not ranked ({refused[0]})."]
    return []


def _parts(entries: Sequence[Record]) -> list[tuple[list[Record], str]]:
    """Which points to tell, each with the words before it: the comparisons of one context."""
    able = [entry for entry in entries if entry["verdict"] != NOT_COMPARABLE]
    if not able:
        return []
    if entries[0]["cluster"] == "round":
        ends = dict.fromkeys((min(e["context_len"] for e in able), max(e["context_len"] for e in able)))
        return [([e for e in able if e["context_len"] == end], f"at {context(end)} tokens ") for end in ends]
    within, beyond = ([e for e in able if (e["extrapolated"] is True) == past] for past in (False, True))
    told = []
    if within:
        part = _fullest(within)
        told.append((part, f"at {context(part[0]['context_len'])} tokens "))
    if beyond:
        part = _fullest(beyond)
        where = f"at {context(part[0]['context_len'])} tokens"
        told.append((part, f"{where}, in sequences longer than in training{_trained(part)}, "))
    return told


def _fullest(entries: Sequence[Record]) -> list[Record]:
    """The comparisons of the context that has most of them, the longest of several."""
    return max(by(entries, "context_len"), key=lambda part: (len(part), part[0]["context_len"]))


def _trained(entries: Sequence[Record]) -> str:
    found = {entry[side]: entry[f"train_ctx_{side}"] for entry in entries for side in ("a", "b")}
    known = sorted({train_ctx for train_ctx in found.values() if train_ctx is not None})
    return f" ({', '.join(map(context, known))})" if known else ""


def _clause(entries: Sequence[Record], intro: str) -> str:
    """What one point says: every other checkpoint against the best one."""
    lower = entries[0]["better"] == "lower"
    values = {entry[side]: entry[f"value_{side}"] for entry in entries for side in ("a", "b")}
    best = (min if lower else max)(values, key=lambda name: values[name])
    against = [_turn(entry, best) for entry in entries if best in (entry["a"], entry["b"])]
    shown = [entry for entry in against if entry["verdict"] not in _WITHOUT_WINNER]
    others = [entry for entry in against if entry["verdict"] in _WITHOUT_WINNER]
    clauses = []
    if shown:
        first, *rest = sorted(shown, key=lambda entry: entry["value_b"], reverse=not lower)
        clauses.append(_gap(first, best))
        clauses += [_gap(entry, None) for entry in rest]
    clauses += [_no_gap(entry, best) for entry in others]
    return intro + ", ".join(clauses)


_WITHOUT_WINNER = (NOT_SHOWN, TOO_SMALL, NOT_JUDGED, WITHIN_NOISE)


def _turn(entry: Record, best: str) -> dict[str, Any]:
    """The comparison seen from the best: a is the best, and the effect is how far b is from it, without sign."""
    turned, ratio = dict(entry), entry["kind"] == RATIO
    if entry["b"] == best:
        turned |= {"a": entry["b"], "b": entry["a"], "value_a": entry["value_b"], "value_b": entry["value_a"]}
    # b's excess over a (or a's over b where more is better), from an effect that is a - b or a / b of the original
    flip = (entry["a"] == best) == (entry["better"] == "lower")
    if flip:
        ends = [entry[name] for name in ("effect", "high", "low")]
        invert = (lambda x: 1 / x) if ratio else (lambda x: -x)
        turned |= dict(zip(("effect", "low", "high"), [None if x is None else invert(x) for x in ends], strict=True))
    return turned


def _gap(entry: Record, best: str | None) -> str:
    """How far a checkpoint is behind the best, which is named in the first clause only."""
    size, higher = _size(entry), entry["better"] == "higher"
    if entry["kind"] == RATIO:
        if higher:
            lead = f"{best} reaches" if best else "and"
            return f"{lead} {size} times that of {entry['b']}{_interval(entry)}"
        tail = f" that of {best}" if best else ""
        return f"{entry['b']} {'needs ' if best else ''}{size} times{tail}{_interval(entry)}"
    if higher:
        lead = f"{best} scores" if best else "and"
        return f"{lead} {size} more than {entry['b']}{_interval(entry)}"
    return f"{entry['b']} {'needs ' if best else ''}{size} more{f' than {best}' if best else ''}{_interval(entry)}"


def _no_gap(entry: Record, best: str) -> str:
    both = f"{best} and {entry['b']}"
    if entry["verdict"] == NOT_JUDGED:
        return f"{both} are not judged ({entry['reason']})"
    if entry["verdict"] == TOO_SMALL:
        sure = _is_within_smallest(entry)
        little = f"{both} {'differ' if sure else 'are estimated to differ'} by less than {smallest(entry)}"
        little += ", too little to matter" if sure else ", which would be too little to matter"
        return f"{little}{_interval(entry, of=_made(entry))}"
    if entry["verdict"] == WITHIN_NOISE:
        chance = f"{WITHIN_NOISE} (other seeds could make {_reach(entry)})"
        alone = f"although the {entry['cluster'] or 'sample'}s alone would show it"
        return f"the difference between {both} is {chance}, {alone}{_interval(entry, of=_made(entry))}"
    if entry["method"] == EXACT:
        return f"{both} are equal"
    why = f", {entry['reason']}" if entry["reason"] else ""
    return f"no difference between {both} is shown{_interval(entry, of=_made(entry))}{why}"


def _made(entry: Record) -> str:
    """What the effect of a comparison that `_turn` turned is, in words: the excess of the worse of the two."""
    worse, better = (entry["b"], entry["a"]) if entry["better"] == "lower" else (entry["a"], entry["b"])
    return f"{worse} {'over' if entry['kind'] == RATIO else 'minus'} {better}"


def smallest(entry: Record) -> str:
    """The smallest effect of interest: `1%`, `0.005 bits per byte`, `1 point of 100`."""
    size = entry["smallest_effect"]
    if entry["kind"] == RATIO:
        return f"{100 * size:g}%"
    if entry["statistic"] == "proportion":
        return f"{counted(1, 'point') if size == 0.01 else f'{100 * size:g} points'} of 100"
    return f"{size:g} {unit_words(entry['unit'])}".rstrip()


def _is_within_smallest(entry: Record) -> bool:
    """Whether the whole interval is smaller than matters, not the estimate alone."""
    if entry["low"] is None or entry["high"] is None:
        return True
    if entry["kind"] == RATIO:
        return bool(max(entry["high"], 1 / entry["low"]) < 1 + entry["smallest_effect"])
    return bool(max(entry["high"], -entry["low"]) < entry["smallest_effect"])


def caption(entries: Sequence[Record]) -> str:
    """How the effects of one metric were made, what each rests on, and what judges them."""
    first = entries[0]
    made = "a / b" if first["kind"] == RATIO else "a - b"
    if first["method"] == EXACT:
        return f"{made} of exact counts; less than {smallest(first)} does not matter"
    mean = " of geometric means" if first["cluster"] == "round" else ""
    methods = dict.fromkeys(entry["method"] for entry in entries if entry["low"] is not None)
    by = f"; intervals by {', '.join(methods)}" if methods else ""
    together = together_of(first)
    told = f"{made}{mean} over {basis(entries)}{by}{f', 95%{together}' if by and together else ''}"
    return f"{told}; less than {smallest(first)} does not matter"


def together_of(entry: Record) -> str:
    """What an interval is corrected for: ` for 5 comparisons together`; nothing where there is one."""
    return f" for {entry['num_points']} comparisons together" if (entry["num_points"] or 1) > 1 else ""


def _size(entry: Record) -> str:
    """A difference with its unit, or a ratio without, as precise as its interval allows."""
    size = _numbers(entry)[0]
    return size if entry["kind"] == RATIO else _with_unit(entry, size)


def _with_unit(entry: Record, difference: str) -> str:
    if entry["statistic"] == "proportion":
        return f"{difference} points of 100"
    return f"{difference} {unit_words(entry['unit'])}".rstrip()


def _reach(entry: Record) -> str:
    """How far training noise reaches, with its unit; never printed as the difference that is within it."""
    reach = WITHIN * entry["training_sd"]
    size, least = abs(entry["effect"]), _least_digits(entry)
    texts = [(_text(entry, reach, digits), _text(entry, size, digits)) for digits in range(least, least + 5)]
    return _with_unit(entry, next((text for text, other in texts if text != other), texts[-1][0]))


def _interval(entry: Record, *, of: str = "") -> str:
    """The interval in brackets, or that there is none to make; before it the effect, where it is said what it is of."""
    _, low, high = _numbers(entry)
    size = f"{_size(entry)} times" if entry["kind"] == RATIO else _size(entry)
    whole = f"{of}: {size}, " if of else ""
    if entry["method"] == EXACT:
        return f" ({whole}exact)"
    count = counted(entry["num_clusters"], entry["cluster"] or "sample")
    return f" ({whole}95% interval {low} to {high}, {count})"


def effect(entry: Record) -> str:
    """0.119 (0.112 to 0.126): an effect as compared, a - b or a / b, with its interval."""
    size, low, high = _numbers(entry)
    unit = " times" if entry["kind"] == RATIO else " points" if entry["statistic"] == "proportion" else ""
    return size + unit if entry["low"] is None else f"{size}{unit} ({low} to {high})"


def effect_numbers(entry: Record) -> tuple[str, str, str]:
    """Effect, low and high as `effect` tells them, each without a unit; empty where there is none."""
    if entry["effect"] is None:
        return "", "", ""
    size, low, high = _numbers(entry)
    return (size, "", "") if entry["low"] is None else (size, low, high)


def _numbers(entry: Record) -> tuple[str, str, str]:
    """Effect and interval, with enough digits to tell the ends from each other and from "none"."""
    # without an interval its place is taken by the effect
    values = [entry["effect"] if entry[name] is None else entry[name] for name in ("effect", "low", "high")]
    none, smallest = (1.0 if entry["kind"] == RATIO else 0.0), entry["smallest_effect"]
    # ends and effect must not be printed as no effect, nor as the smallest one of interest, when they are not
    borders = (none, none + smallest, 1 / (1 + smallest) if none else -smallest)
    least = _least_digits(entry)
    texts: list[str] = []
    for digits in range(least, least + 5):
        texts = [_text(entry, value, digits) for value in values]
        blurred = any(
            value != border and text == _text(entry, border, digits)
            for value, text in zip(values, texts, strict=True)
            for border in borders[: 3 if entry["verdict"] == TOO_SMALL else 1]
        )
        if not blurred and (texts[1] != texts[2] or values[1] == values[2]):
            break
    return texts[0], texts[1], texts[2]


def _least_digits(entry: Record) -> int:
    """Digits of a ratio, decimals of a difference."""
    if entry["kind"] == RATIO:
        return 3
    if entry["statistic"] == "proportion":
        return 0
    low, high = entry["low"], entry["high"]
    width = abs(entry["effect"]) if low is None or high is None else (high - low) / 2
    return 2 if width == 0 else min(max(1 - math.floor(math.log10(width)), 0), 3)


def _text(entry: Record, value: float, digits: int) -> str:
    if entry["kind"] == RATIO:
        return significant(value, digits)
    text = f"{100 * value if entry['statistic'] == 'proportion' else value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text
