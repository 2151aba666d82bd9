"""Numbers, settings and places as people read them."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ttbench.report.statistics.stats import counted
from ttbench.types import NO_ATTENTION

K, M = 1024, 1024**2  # tokens
# Units that are shown in multiples: (name, size in the raw unit), ascending.
_MULTIPLES: Mapping[str, Sequence[tuple[str, float]]] = {
    "s": (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)),
    "bytes": (("B", 1.0), ("KiB", 1024.0), ("MiB", 1024.0**2), ("GiB", 1024.0**3), ("TiB", 1024.0**4)),
    "bytes/s": (("MiB/s", 1024.0**2), ("GiB/s", 1024.0**3), ("TiB/s", 1024.0**4)),
    "FLOP/s": (("MFLOP/s", 1e6), ("GFLOP/s", 1e9), ("TFLOP/s", 1e12)),
}
MOST_IN_A_UNIT = 10_000  # a table moves to the next multiple before its largest number has more than four digits

UNCHECKED = "unchecked: scored on request, without the probes for look-ahead or although one of them failed"
PARTLY = "the probes for look-ahead covered only part of the text behind this number (probed_tokens in kernel_path)"
CHECKED = {"unchecked": ("!", UNCHECKED), "partly": ("?", PARTLY)}  # what rows say of their probes: mark and meaning
COUNT = "count"  # statistic of what is declared a count
_PER = re.compile(r"bit/(\w+)")
BEYOND = "beyond the training context: extrapolation, which does not show that the model uses a long context"

Record = Mapping[str, Any]


class Carried(list[Record]):
    """Records that a table carries in its `attrs` and that nobody changes.

    pandas copies `attrs` in depth with every column and row that it hands out; these are shared.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Carried:
        return self


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, None where missing."""
    bare = frame.copy(deep=False)
    # pandas copies what a table carries beside its columns with every row that it gives
    bare.attrs = {}
    rows = bare.astype(object).where(bare.notna(), None)
    return [dict(zip(map(str, frame.columns), values, strict=True)) for values in rows.itertuples(index=False)]


def sentence(text: str) -> str:
    """A text as a sentence of its own: with a capital and a full stop."""
    return f"{capital(text)}."


def capital(text: str) -> str:
    """A text that begins with a capital; its other letters stay as they are."""
    return f"{text[:1].upper()}{text[1:]}"


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


def unit_words(unit: str) -> str:
    """A unit as people read it: `bits per byte` for bit/byte, nothing for 1."""
    per = _PER.fullmatch(unit)
    return f"bits per {per[1]}" if per else "" if unit == "1" else unit


def scale(unit: str, values: Iterable[float | None], *, statistic: str = "ratio", digits: int = 3) -> Scale:
    """A scale on which all values have about `digits` significant digits and none has too many before the point."""
    values = list(values)
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    least, most = (min(sizes), max(sizes)) if sizes else (1.0, 1.0)
    if statistic == "proportion":
        return Scale(unit="%", size=0.01, decimals=0)
    name, size = unit_words(unit), 1.0
    if all(value is None for value in values):
        # Which multiple is not known where there is no number.
        return Scale(unit=name, size=size, decimals=0)
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
    # of the rounded number: 0.9996 with three digits is 1.00, not 1.000
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:,.{max(digits - 1 - exponent, 0)}f}"


def interval(entry: Record, scale: Scale) -> str:
    """±0.118, or 81-96 where the two sides differ by more than a tenth; ±<1 where the digits show less than one."""
    value, low, high = entry["value"], entry["low"], entry["high"]
    below, above = value - low, high - value
    if abs(above - below) <= 0.1 * max(above, below):
        size = scale.text(max(above, below))
        least = scale.text(scale.size * 10.0**-scale.decimals)
        return f"±<{least}" if max(above, below) > 0 and float(size.replace(",", "")) == 0 else f"±{size}"
    return f"{scale.text(low)}-{scale.text(high)}"


def basis(entries: Sequence[Record]) -> str:
    """What each of these numbers of one metric rests on: `34 documents, 68 windows, 17,408 bytes`, `3 to 5 rounds`."""
    noun = entries[0]["cluster"] or "sample"
    found = [_count([entry["num_clusters"] for entry in entries], noun)]
    if entries[0]["statistic"] == COUNT or noun == "round":
        return found[0]
    samples = [_samples(entry) for entry in entries]
    if noun == "document":
        # a row of a document is a window of it, and a document is hardly ever read whole
        found.append(_count(samples, "window"))
    measure = entries[0].get("counts")
    sums = [round(entry["num_counted"]) for entry in entries if entry["num_counted"] is not None]
    if measure not in (None, noun) and sums:
        found.append(_count(sums, measure))
    return ", ".join(found)


def _samples(entry: Record) -> int:
    found = entry.get("num_pairs")
    return entry["num_samples"] if found is None else found


def _count(numbers: Sequence[int], noun: str) -> str:
    least, most = min(numbers), max(numbers)
    return counted(most, noun) if least == most else f"{least:,} to {counted(most, noun)}"


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


def settings(entries: Sequence[Record]) -> tuple[list[str], list[str], list[str]]:
    """Settings and parameters that all entries share, in words, and the columns of those that tell lines apart.

    Parameters are what a task was asked for. How much it read is another thing: a limit leaves out, and 2 windows that
    are dealt to 12 documents become 12.
    """
    named = [*_SETTINGS, *(name for name in entries[0] if name.startswith("param_"))]
    constant, asked, varying = [], [], []
    for name in named:
        # an architecture without attention has no setting of it
        found = list(dict.fromkeys(e[name] for e in entries if e.get(name) not in (None, NO_ATTENTION)))
        if len(found) > 1:
            varying.append(name)
        elif found:
            (asked if name.startswith("param_") else constant).append(setting(name, found[0]))
    # what else may differ under one name is told apart too; quality has no machine, and old rows no code
    for name in _APART:
        known = [entry for entry in entries if entry.get("checkpoint") is not None]
        known = [entry for entry in known if name == "code_digest" or entry.get(name) is not None]
        found = {(entry["checkpoint"], entry.get("engine"), entry.get(name)) for entry in known}
        if len(found) > len({entry[:2] for entry in found}):
            varying.append(name)
    return constant, asked, varying


_APART = ("weights_digest", "config_digest", "tokenizer_digest", "code_digest", "machine", "software")
_SETTINGS = ("seed", "corpus", "dtype", "device", "engine", "attention", "batch_size", "threads")


def told(entry: Record, varying: Sequence[str]) -> str:
    """The settings that tell an entry apart: `corpus code window 256`."""
    return " ".join(filter(None, (setting(name, entry[name]) for name in varying)))


def probed(entries: Iterable[Record]) -> dict[str, str]:
    """Of comparisons: checkpoints whose probes did not pass over all that was read, with the mark of the worst."""
    entries = list(entries)
    sides = [(entry[side], entry.get(f"checked_{side}")) for entry in entries for side in ("a", "b")]
    return {name: mark for worst, (mark, _) in reversed(CHECKED.items()) for name, word in sides if word == worst}


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
    if name == "software":
        return str(value)
    if name in _APART:
        return f"{name.removesuffix('_digest')} {value[:6]}"
    return f"{name.removeprefix('param_').replace('_', ' ')} {plain(value)}"


def title(entry: Record, unit: str) -> str:
    """`prefill (ms, lower is better)`, `needles retrieved, by depth (%, higher is better)`."""
    extra = [name for name in entry["axes"].split(",") if name != "context_len"]
    better = "" if entry["better"] == "neither" else f"{entry['better']} is better"
    detail = ", ".join(part for part in (unit if unit != entry["label"] else "", better) if part)
    return (
        f"{entry['label']}{', by ' + ' and '.join(map(axis, extra)) if extra else ''}{f' ({detail})' if detail else ''}"
    )


def by(entries: Iterable[Record], *names: str) -> list[list[Record]]:
    """Entries with equal values under these names, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry.get(name) for name in names), []).append(entry)
    return list(groups.values())
