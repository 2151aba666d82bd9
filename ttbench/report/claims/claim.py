"""The nouns of `ttbench claims`: a claim, where it was made, what it is about, and the one number that decides it.

    Claim -> PrimaryCell (parties a and b) -> a number with an interval -> Rule -> supported, contradicted, not decided
          -> PrintedSides (the paper's own numbers) -> the same Rule, without an interval

A claim is data: a YAML file holds nothing else, and each field below is a key of it (docs/claims.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

Statistic = Literal["comparison", "slope", "curvature", "number", "spread"]
RuleKind = Literal["superior", "non-inferior", "equivalent", "constant"]
RULE = re.compile(r"(superior|non-inferior|equivalent|constant)(?:\(([0-9.e-]+)\))?")

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="small letters and digits joined by -")]
Text = Annotated[str, Field(min_length=1, description="a text that says something")]
Tokens = Annotated[int, Field(ge=1)]
Words = tuple[Text, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSource:
    """Where a claim was made."""

    kind: Literal["paper", "press"]
    work: Text  # the paper with its arXiv number, or the title of the article
    place: Text | None = None  # section, table or figure; a paper has one
    outlet: Text | None = None  # of press
    date: Text | None = None  # of press, as far as it is known

    def told(self) -> str:
        """In one line, for people."""
        return ", ".join(filter(None, (self.outlet, self.work, self.place, self.date)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a claim is about. Rows outside of it show a direction and decide nothing; a missing limit limits nothing."""

    says: Text
    least_params: Annotated[int, Field(ge=1)] | None = None  # parameters of each checkpoint
    most_params: Annotated[int, Field(ge=1)] | None = None
    corpora: Words = ()
    devices: Words = ()
    # what the training context has to do with the context of the number: nothing, not shorter, or exactly as long
    trained: Literal["any", "within", "at"] = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One side of a claim: which checkpoints, under which settings, at which place of an axis. Empty: any."""

    architecture: Words = ()
    checkpoint: Words = ()
    attention: Words = ()
    axes: Mapping[str, Words] = field(default_factory=dict)  # axis of the metric -> its places
    context: Tokens | None = None  # of this side alone; else that of the cell
    plus: Words = ()  # metrics of the task that are added round by round


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryCell:
    """The one number that decides a claim."""

    task: Text
    metric: Text  # as the rows of the task declare it
    a: Party
    b: Party | None = None  # of a comparison
    statistic: Statistic = "comparison"
    # a's number must lie on this side of b's, or of the reference, for the claim to be true
    direction: Literal["lower", "higher"] | None = None
    same: Literal["anything", "size", "checkpoint"] = (
        "anything"  # what a and b share: parameters to a tenth, or weights
    )
    context: Tokens | None = None  # of a comparison or a number; None: the longest
    least_context: Tokens = 1  # of a slope, a curvature or a spread: contexts from here on
    times: Words = ()  # of a number: metrics of the same rows that multiply it, round by round
    over: Words = ()  # of a number: metrics of the same rows that divide it
    reference: float | None = None  # of a slope, a curvature or a number: what it is held against
    where: Mapping[str, Words] = field(default_factory=dict)  # column of settings -> values that count


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The effects under which a claim is true: a region on the line of effects."""

    kind: RuleKind
    margin: float = 0.0  # in the unit of a difference; of a ratio, a share


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedSides:
    """The paper's own numbers that bear on a claim: lines of results/published/<paper>.csv."""

    paper: Name
    a: Mapping[str, Words]  # column -> values
    b: Mapping[str, Words] = field(default_factory=dict)
    where: Mapping[str, Words] = field(default_factory=dict)  # of both sides
    match: Words = ()  # columns in which a number of a and one of b are equal
    compared: Literal["difference", "ratio"] = "difference"
    statistic: Literal["comparison", "slope", "curvature", "spread", "number"] = "comparison"
    column: Literal["value", "num_params"] = "value"  # which number of a line is meant
    direction: Literal["lower", "higher"] | None = None  # where it is another than that of the cell
    least_context: Tokens = 1
    reference: float | None = None
    margin: float | None = None  # in the unit of these numbers; None: that of the rule
    note: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence of a paper or of the press, and what decides it."""

    id: Name
    statement: Text  # in our own words
    sources: tuple[ClaimSource, ...]
    scope: Scope
    cell: PrimaryCell
    rule: Annotated[
        str, Field(pattern=f"^{RULE.pattern}$", description="superior, non-inferior(M), equivalent(M) or constant")
    ]
    margin_source: Text | None = None
    printed: PrintedSides | None = None
    not_printed: Text | None = None  # why there is nothing to compute: "only drawn", "a press sentence"
    where: str = ""  # file and line

    @property
    def parsed_rule(self) -> Rule:
        """The rule with its margin as a number."""
        found = RULE.fullmatch(self.rule)
        assert found is not None
        kind: RuleKind = found[1]  # type: ignore[assignment]  # one of the four, by the pattern
        return Rule(kind=kind, margin=float(found[2]) if found[2] else 0.0)
