"""Numbers as people read them, and what a comparison says in a sentence."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ttbench.report.summary import NOT_COMPARABLE, NOT_SHOWN, RATIO
from ttbench.types import NO_ATTENTION

K, M = 1024, 1024**2  # tokens
# Units that are shown in multiples: (name, size in the raw unit), ascending.
_MULTIPLES: Mapping[str, Sequence[tuple[str, float]]] = {
    "s": (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)),
    "bytes": (("B", 1.0), ("KiB", 1024.0), ("MiB", 1024.0**2), ("GiB", 1024.0**3), ("TiB", 1024.0**4)),
}
_WORDS = {"bit/byte": "bits per byte", "bit/base": "bits per base", "1": ""}
MOST_IN_A_UNIT = 10_000  # a table moves to the next multiple before its largest number has more than four digits

UNCHECKED = "unchecked: scored by request without asking, or despite, the probes that find a look ahead"
BEYOND = "beyond the training context: extrapolation, no evidence that long context is used"

Record = Mapping[str, Any]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, None where missing."""
    rows = frame.astype(object).where(frame.notna(), None)
    return [dict(zip(map(str, frame.columns), values, strict=True)) for values in rows.itertuples(index=False)]


def context(num_tokens: int) -> str:
    """512, 1k, 32k, 1m: k = 1024 tokens, m = 1024^2."""
    for size, letter in ((M, "m"), (K, "k")):
        if num_tokens >= size and num_tokens % size == 0:
            return f"{num_tokens // size}{letter}"
    return str(num_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How the numbers of one metric are printed: divided by `size`, with `decimals`, in `unit`."""

    unit: str
    size: float
    decimals: int

    def text(self, value: float) -> str:
        """The number without its unit."""
        return f"{value / self.size:,.{self.decimals}f}"


def scale(unit: str, values: Iterable[float | None], *, statistic: str = "ratio", digits: int = 3) -> Scale:
    """A scale on which all values have about `digits` significant digits and none has too many before the point."""
    sizes = [abs(value) for value in values if value]
    least, most = (min(sizes), max(sizes)) if sizes else (1.0, 1.0)
    if statistic == "proportion":
        return Scale(unit="%", size=0.01, decimals=0)
    name, size = _WORDS.get(unit, unit), 1.0
    for name, size in _MULTIPLES.get(unit, ()):  # noqa: B007
        if most / size < MOST_IN_A_UNIT and least / size < 1000:
            break
    decimals = digits - 1 - math.floor(math.log10(least / size))
    # not too many digits on the other side, and no parts of a byte
    room = (0 if size == 1 else 4) if unit == "bytes" else 5
    room -= 1 + max(math.floor(math.log10(most / size)), 0)
    return Scale(unit=name, size=size, decimals=max(min(decimals, room, 3), 0))


def of_metric(entries: Sequence[Record], keys: Sequence[str] = ("value",)) -> Scale:
    """The scale of records of one metric."""
    first = entries[0]
    digits = 4 if first["cluster"] == "document" else 3
    values = [entry[key] for entry in entries for key in keys]
    return scale(first["unit"], values, statistic=first["statistic"], digits=digits)


def significant(value: float, digits: int = 2) -> str:
    """A number with so many significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{decimals}f}"


def interval(entry: Record, scale: Scale) -> str:
    """±0.118, or 81-96 where the two sides differ by more than a tenth."""
    value, low, high = entry["value"], entry["low"], entry["high"]
    below, above = value - low, high - value
    if abs(above - below) <= 0.1 * max(above, below):
        return f"±{scale.text(max(above, below))}"
    return f"{scale.text(low)}-{scale.text(high)}"


def noun(entry: Record) -> str:
    """What the clusters of an entry are, in the plural."""
    return f"{entry['cluster'] or 'sample'}s"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text wrapped to the terminal, indented, without the spaces at line ends that a padded box would leave."""

    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = textwrap.wrap(
            self.text, options.max_width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
        yield Text("\n".join(lines), style=self.style)


def settings(entries: Sequence[Record]) -> tuple[list[str], list[str]]:
    """Settings that all entries share, in words, and the columns of those that tell lines apart."""
    named = [*_SETTINGS, *(name for name in entries[0] if name.startswith("param_"))]
    constant, varying = [], []
    for name in named:
        # an architecture without attention has no setting of it
        found = list(dict.fromkeys(e[name] for e in entries if e.get(name) not in (None, NO_ATTENTION)))
        if len(found) > 1:
            varying.append(name)
        elif found:
            constant.append(setting(name, found[0]))
    # several weights under one name are told apart too
    weights = {(entry.get("checkpoint"), entry.get("weights_digest")) for entry in entries}
    if len(weights) > len({name for name, _ in weights}):
        varying.append("weights_digest")
    return constant, varying


_SETTINGS = ("corpus", "dtype", "device", "engine", "attention", "batch_size", "threads")


def told(entry: Record, varying: Sequence[str]) -> str:
    """The settings that tell an entry apart: `corpus code window 256`."""
    return " ".join(filter(None, (setting(name, entry[name]) for name in varying)))


def line_name(entry: Record, varying: Sequence[str]) -> str:
    """What a line is called: its checkpoint, the settings that tell it apart, and its place on other axes."""
    if entry["checkpoint"] is None:
        return f"{entry['label']} {told(entry, varying)}".rstrip()
    return " ".join(filter(None, [entry["checkpoint"], told(entry, varying), *places(entry)]))


def places(entry: Record) -> list[str]:
    """Where an entry stands on each axis but the context: `depth 0.5`, `code`; words need no name of their axis."""
    places = [(name, entry[name]) for name in entry["axes"].split(",") if name != "context_len"]
    found = [(name, value) for name, value in places if value is not None]
    return [value if isinstance(value, str) else f"{axis(name)} {plain(value)}" for name, value in found]


def axis(name: str) -> str:
    """An axis as people call it: `sent to`."""
    return name.replace("_", " ")


def plain(value: Any) -> str:
    """The value of a setting or an axis."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def setting(name: str, value: Any) -> str:
    """A setting as a caption says it."""
    if value in (None, NO_ATTENTION):
        return ""
    if name in ("dtype", "device", "engine", "attention"):
        return str(value)
    if name == "weights_digest":
        return f"weights {value[:6]}"
    return f"{name.removeprefix('param_').replace('_', ' ')} {plain(value)}"


def title(entry: Record, unit: str) -> str:
    """`prefill (ms, lower is better)`, `needles retrieved, by depth (%, higher is better)`."""
    extra = [name for name in entry["axes"].split(",") if name != "context_len"]
    better = "" if entry["better"] == "neither" else f"{entry['better']} is better"
    detail = ", ".join(part for part in (unit if unit != entry["label"] else "", better) if part)
    return (
        f"{entry['label']}{', by ' + ' and '.join(map(axis, extra)) if extra else ''}{f' ({detail})' if detail else ''}"
    )


# Sentences


def sentences(comparisons: Sequence[Record]) -> list[str]:
    """One sentence for each metric that is made by context alone: who is better, by how much, and how sure that is.

    Quality is told at the longest context that all were trained for, and beyond it apart; timings at the shortest and
    at the longest context. Settings that differ, two corpora say, have a sentence each.
    """
    found = []
    for metric in by([entry for entry in comparisons if entry["axes"] == "context_len"], "task", "metric"):
        _, varying = settings(metric)
        for entries in by(metric, *varying):
            found += _sentence(entries, told(entries[0], varying))
    return found


def _sentence(entries: Sequence[Record], where: str) -> list[str]:
    """What one metric says under one set of settings, if anything; `where` tells them from others."""
    label = entries[0]["label"]
    if _WORDS.get(entries[0]["unit"]) == label:
        label = ""  # the unit says it
    head = ", ".join(filter(None, (label, where)))
    clauses = [_clause(part, intro) for part, intro in _parts(entries)]
    # the same comparison as the ratio of the same sums, on another scale
    clauses = [] if entries[0]["statistic"] == "exp_ratio" else [clause for clause in clauses if clause]
    if clauses:
        said = "; ".join(clauses)
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
        told.append((part, f"beyond the training context{_trained(part)}, at {context(part[0]['context_len'])}, "))
    return told


def _fullest(entries: Sequence[Record]) -> list[Record]:
    """The comparisons of the context that has most of them, the longest of several."""
    return max(by(entries, "context_len"), key=lambda part: (len(part), part[0]["context_len"]))


def _trained(entries: Sequence[Record]) -> str:
    found = {entry[side]: entry[f"train_ctx_{side}"] for entry in entries for side in ("a", "b")}
    known = sorted({train_ctx for train_ctx in found.values() if train_ctx is not None})
    if len(known) == 1:
        return f" of {context(known[0])}"
    return f"s of {', '.join(map(context, known))}" if known else ""


def _clause(entries: Sequence[Record], intro: str) -> str:
    """What one point says: every other checkpoint against the best one."""
    lower = entries[0]["better"] == "lower"
    values = {entry[side]: entry[f"value_{side}"] for entry in entries for side in ("a", "b")}
    best = (min if lower else max)(values, key=lambda name: values[name])
    against = [_turn(entry, best) for entry in entries if best in (entry["a"], entry["b"])]
    shown = [entry for entry in against if entry["verdict"] != NOT_SHOWN]
    unsure = [entry for entry in against if entry["verdict"] == NOT_SHOWN]
    clauses = []
    if shown:
        first, *rest = sorted(shown, key=lambda entry: entry["value_b"], reverse=not lower)
        clauses.append(_gap(first, best))
        clauses += [_gap(entry, None) for entry in rest]
    clauses += [_no_gap(entry, best) for entry in unsure]
    return intro + ", ".join(clauses)


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
    size, higher = _size(entry, entry["effect"]), entry["better"] == "higher"
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
    if entry["method"] == "exact":
        return f"{best} and {entry['b']} are equal"
    return f"no difference between {best} and {entry['b']} is shown{_interval(entry, unsure=True)}"


def _size(entry: Record, value: float) -> str:
    """A difference or ratio with its unit, as precise as its interval allows."""
    if entry["kind"] == RATIO:
        return significant(value, 3)
    if entry["statistic"] == "proportion":
        return f"{_plain(100 * value, 0)} points of 100"
    unit = _WORDS.get(entry["unit"], entry["unit"])
    return f"{_plain(value, _decimals(entry))} {unit}".rstrip()


def _decimals(entry: Record) -> int:
    low, high = entry["low"], entry["high"]
    width = abs(entry["effect"]) if low is None or high is None else (high - low) / 2
    return 2 if width == 0 else min(max(1 - math.floor(math.log10(width)), 0), 3)


def _plain(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text


def _interval(entry: Record, *, unsure: bool = False) -> str:
    """The interval in brackets, or why there is none; when `unsure`, the effect before it and Holm's p after it."""
    if entry["method"] == "exact":
        return " (exact)"
    if entry["low"] is None:
        return f" (no interval: {entry['reason']})"
    size, low, high = _digits(entry)
    count = f"{entry['num_clusters']} {noun(entry)}"
    if not unsure:
        return f" (95% interval {low} to {high}, {count})"
    none = 1.0 if entry["kind"] == RATIO else 0.0
    effect_size = f"{size} points of 100" if entry["statistic"] == "proportion" else size
    corrected = ""
    if not entry["low"] <= none <= entry["high"] and entry["p_holm"] is not None:
        corrected = f"; p {significant(entry['p_holm'])} when corrected for all points"
    return f" ({effect_size}, 95% interval {low} to {high}, {count}{corrected})"


def effect(entry: Record) -> str:
    """0.119 (0.112 to 0.126): an effect as compared, a - b or a / b, with its interval."""
    size, low, high = _digits(entry)
    if entry["statistic"] == "proportion":
        size = f"{size} points"
    return size if entry["low"] is None else f"{size} ({low} to {high})"


def _digits(entry: Record) -> tuple[str, str, str]:
    """Effect and interval with enough digits to tell the ends apart."""
    # without an interval its place is taken by the effect
    values = [entry["effect"] if entry[name] is None else entry[name] for name in ("effect", "low", "high")]
    if entry["kind"] == RATIO:
        for digits in (3, 4, 5):
            size, low, high = (significant(value, digits) for value in values)
            if low != high or entry["low"] is None:
                break
        return f"{size} times", low, high
    if entry["statistic"] == "proportion":
        size, low, high = (_plain(100 * value, 0) for value in values)
    else:
        size, low, high = (_plain(value, _decimals(entry)) for value in values)
    return size, low, high


def by(entries: Iterable[Record], *names: str) -> list[list[Record]]:
    """Entries with equal values under these names, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry.get(name) for name in names), []).append(entry)
    return list(groups.values())
