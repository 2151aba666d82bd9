"""Whether a paper's own printed numbers bear its claim out: the claim's rule on lines of results/published, computed.

Printed numbers have no interval, so each pair of them (or each line over contexts) holds or fails. Numbers read off a
figure, and numbers that others copied, are told apart from those of a table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ttbench.errors import SuiteError, UnknownNameError
from ttbench.report import words
from ttbench.report.claims.claim import Claim, PrintedSides
from ttbench.report.claims.measures import favour_of, region
from ttbench.report.papers.numbers import PublishedNumber, read_published
from ttbench.report.statistics import fits
from ttbench.report.summary import DIFFERENCE, RATIO

_HOWS = {"digitised": "read off the figure", "second-hand": "copied from others"}
# What chooses lines: columns of the files, and `parts`, one of the parts of the variant.
_CHOOSERS = ("table", "model", "method", "variant", "parts", "benchmark", "axis", "at", "metric", "unit", "num_params")


@dataclass(frozen=True, slots=True, kw_only=True)
class Borne:
    """What a paper's own numbers say of its claim."""

    answer: str  # holds, partly or fails; else why there is nothing to compute
    num_held: int = 0
    num_compared: int = 0  # 0: nothing was computed
    evidence: tuple[str, ...] = ()  # of the numbers: read, second-hand, digitised
    extreme: str = ""  # the least favourable numbers, in words
    note: str = ""

    def told(self) -> str:
        """In one line, for people."""
        if not self.num_compared:
            return self.answer
        how = [_HOWS[each] for each in self.evidence if each in _HOWS]
        count = f"{self.num_held} of {self.num_compared}"
        return "; ".join(filter(None, (f"{self.answer} ({', '.join([count, *how])})", self.extreme, self.note)))


def all_borne_out(claims: Iterable[Claim]) -> dict[str, Borne]:
    """What the published numbers say of each claim, by id; raises as `borne_out`."""
    read = functools.cache(read_published)
    return {claim.id: borne_out(claim, read=read) for claim in claims}


def borne_out(claim: Claim, *, read: Callable[[str], Sequence[PublishedNumber]] = read_published) -> Borne:
    """What the published numbers say of a claim; `read` gives the numbers of a paper.

    Raises SuiteError or UnknownNameError for a claim that names no line, or lines that cannot be compared.
    """
    printed = claim.printed
    if printed is None:
        return Borne(answer=claim.not_printed or "")
    numbers = _matching(read(printed.paper), printed.where, claim)
    ones = _matching(numbers, printed.a, claim)
    if printed.statistic == "comparison":
        held = _comparisons(claim, printed, ones, _matching(numbers, printed.b, claim))
    elif printed.statistic == "number":
        held = [
            _judge(claim, printed, _number(one, printed), DIFFERENCE, f"{_place(one)} {_text(one, printed)}", (one,))
            for one in ones
        ]
    else:
        held = _curves(claim, printed, ones)
    num_held, worst = sum(made.holds for made in held), min(held, key=lambda made: made.inside)
    answer = "holds" if num_held == len(held) else "partly" if num_held else "fails"
    return Borne(
        answer=answer,
        num_held=num_held,
        num_compared=len(held),
        evidence=tuple(dict.fromkeys(number.evidence for made in held for number in made.numbers)),
        extreme=f"{'nearest' if answer == 'holds' else 'furthest off'}: {worst.told}",
        note=printed.note or "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """One comparison of printed numbers, or one curve of them."""

    holds: bool
    inside: float  # how far inside of the rule's region it lies; of two borders the nearer counts
    told: str
    numbers: Sequence[PublishedNumber]


def _matching(
    numbers: Sequence[PublishedNumber], wanted: Mapping[str, Sequence[str]], claim: Claim
) -> list[PublishedNumber]:
    """The lines whose columns have these values. Raises UnknownNameError where a column or a value has no line."""
    for column, values in wanted.items():
        if column not in _CHOOSERS:
            raise UnknownNameError("column of published numbers", column, known=_CHOOSERS, where=claim.where)
        have = {value for number in numbers for value in _values(number, column)}
        for value in values:
            if value not in have:
                raise UnknownNameError(f"{column} of published numbers", value, known=have, where=claim.where)
    return [
        number
        for number in numbers
        if all(any(have in values for have in _values(number, column)) for column, values in wanted.items())
    ]


def _values(number: PublishedNumber, column: str) -> tuple[str, ...]:
    if column == "parts":
        return number.parts
    value = getattr(number, column)
    return ("" if value is None else f"{value:.0f}" if isinstance(value, float) else str(value),)


def _comparisons(
    claim: Claim, printed: PrintedSides, ones: Sequence[PublishedNumber], others: Sequence[PublishedNumber]
) -> list[_Held]:
    """Each number of a with each of b that agrees with it in the columns that match."""
    kind = RATIO if printed.compared == "ratio" else DIFFERENCE
    held = []
    for one in ones:
        for two in others:
            if one is two or any(_values(one, name) != _values(two, name) for name in printed.match):
                continue
            a, b = _number(one, printed), _number(two, printed)
            if one.unit != two.unit or (kind == RATIO and min(a, b) <= 0):
                raise SuiteError(
                    f"{claim.where}: claim '{claim.id}': {a:g} {one.unit} and {b:g} {two.unit} cannot be compared; "
                    "numbers of one unit can, and those of a ratio must be positive"
                )
            effect = a / b if kind == RATIO else a - b
            told = f"{_name(one, two)} {_text(one, printed)} against {_name(two, one)} {_text(two, printed)}"
            held.append(_judge(claim, printed, effect, kind, told, (one, two)))
    if not held:
        raise SuiteError(f"{claim.where}: claim '{claim.id}': no published number of a matches one of b")
    return held


def _curves(claim: Claim, printed: PrintedSides, ones: Sequence[PublishedNumber]) -> list[_Held]:
    """Each line over the contexts that `at` tells: numbers that agree in the columns that match."""
    by_line: dict[tuple[tuple[str, ...], ...], list[PublishedNumber]] = {}
    for number in ones:
        if number.at is not None and number.at >= printed.least_context:
            by_line.setdefault(tuple(_values(number, name) for name in printed.match), []).append(number)
    held = []
    for key, numbers in by_line.items():
        contexts, values = [number.at or 0.0 for number in numbers], [number.value for number in numbers]
        name = ", ".join(text for texts in key for text in texts) or "the line"
        if len(set(contexts)) < fits.MIN_SLOPE_CONTEXTS or min(values) <= 0:
            raise SuiteError(f"{claim.where}: claim '{claim.id}': {name} has too few published numbers, or not above 0")
        if printed.statistic == "spread":
            number, kind = max(values) / min(values), RATIO
            told = f"{name} changes by a factor of {number:.3g}"
        else:
            fit = fits.slopes if printed.statistic == "slope" else fits.curvatures
            number, kind = float(fit(contexts, np.array([values]))[0]), printed.statistic
            unit = f" {numbers[0].unit} per token squared" if printed.statistic == "curvature" else ""
            told = f"{name} has {printed.statistic} {number:.2g}{unit}"
        held.append(_judge(claim, printed, number, kind, told, numbers))
    if not held:
        raise SuiteError(f"{claim.where}: claim '{claim.id}': no published number has a place from there on in 'at'")
    return held


def _judge(
    claim: Claim, printed: PrintedSides, number: float, kind: str, told: str, numbers: Sequence[PublishedNumber]
) -> _Held:
    rule = claim.parsed_rule
    rule = rule if printed.margin is None else replace(rule, margin=printed.margin)
    favour = favour_of(number, kind, printed.direction or claim.cell.direction, printed.reference)
    low, high = region(rule, kind)
    two_sided = rule.kind in ("equivalent", "constant")
    return _Held(
        holds=favour == 0.0 if rule.kind == "constant" else low < favour < high,
        inside=-abs(favour) if two_sided else favour - low,
        told=told,
        numbers=numbers,
    )


def _number(number: PublishedNumber, printed: PrintedSides) -> float:
    return number.value if printed.column == "value" else float(number.num_params or 0)


def _text(number: PublishedNumber, printed: PrintedSides) -> str:
    """The number as it is printed, with its unit."""
    if printed.column == "num_params":
        return f"{number.num_params or 0:,} parameters"
    return f"{number.printed} {number.unit}".rstrip()


def _place(number: PublishedNumber) -> str:
    return ", ".join(filter(None, (number.model, number.benchmark)))


def _name(one: PublishedNumber, two: PublishedNumber) -> str:
    """What tells a line from the one that it is compared with, and where both stand."""
    texts = [(number.model, number.method, number.variant) for number in (one, two)]
    differing = [mine for mine, other in zip(*texts, strict=True) if mine != other and mine]
    name = ", ".join(differing[:2]) or one.model or one.variant
    place = one.benchmark if one.benchmark == two.benchmark else ""
    # a variant that tells them apart says where it is
    at = "" if one.at is None or one.variant in differing else _at(one)
    size = (
        ""
        if one.num_params is None or one.num_params != two.num_params
        else f"{words.significant(one.num_params / 1e6)} M"
    )
    model = one.model if one.model == two.model and one.model != name else ""
    where = ", ".join(filter(None, (model, place, size, at)))
    return f"{name} ({where})" if where else name


def _at(number: PublishedNumber) -> str:
    """The place of a line on its axis: `context 16k`, `batch 8`."""
    assert number.at is not None
    tokens = number.axis in ("context", "length", "token index")
    return f"{number.axis} {words.context(round(number.at)) if tokens else f'{number.at:g}'}"
