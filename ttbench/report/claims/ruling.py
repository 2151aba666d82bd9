"""What rows say of claims: supported, contradicted or not decided, each time by one rule.

    a rule is a region of effects     superior: beyond the margin      non-inferior: not worse by the margin
                                      equivalent: within the margin    constant: no difference at all
    supported                         the whole interval lies inside of the region
    contradicted                      the whole interval lies outside of it
    not decided                       it lies across a border, or there is no interval, or the rows are out of scope,
                                      or another seed of training could move the difference across a border

For `equivalent` this is the pair of one-sided tests of Schuirmann (Journal of Pharmacokinetics and Biopharmaceutics 15,
1987), each at half of what the level leaves. The findings that can decide something (in scope, not exact) are one
family: their intervals hold together in 95 of 100 (Bonferroni). Out of scope an interval of 95 % shows a direction.
Several findings of one claim decide it only where all of them say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from ttbench.report import summary
from ttbench.report.claims.candidates import NO_ROWS, Candidate, RowSource, find
from ttbench.report.claims.claim import Claim
from ttbench.report.claims.measures import ClaimNumber, Measure, favour_of, measure_of, region
from ttbench.report.comparison import seeds
from ttbench.report.statistics import stats

Decision = Literal["supported", "contradicted", "not decided"]
Direction = Literal["", "the same way", "the other way", "both ways", "nowhere"]
SUPPORTED, CONTRADICTED, NOT_DECIDED = "supported", "contradicted", "not decided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the rows of one candidate say of a claim."""

    candidate: Candidate
    decision: Decision  # by the rule alone, scope apart
    reason: str  # why it is not decided; empty otherwise
    measured: ClaimNumber | None = None  # None: it could not be measured
    level: float | None = None  # of the interval; None without one

    @property
    def in_scope(self) -> bool:
        return not self.candidate.outside

    @property
    def has_interval(self) -> bool:
        return self.measured is not None and self.measured.ends() is not None

    def cells(self) -> tuple[str, ...]:
        """Ids of the cells whose rows were used."""
        lines = [self.candidate.a, self.candidate.b or self.candidate.a]
        places = list(zip(lines, self.candidate.contexts, strict=True)) if self.candidate.b is not None else []
        places = places or [(self.candidate.a, context) for context in self.candidate.contexts]
        groups = [group for line, context in places for group in line.numbers[context].values()]
        return tuple(dict.fromkeys(str(cell) for group in groups for cell in group.rows.values("cell_id")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """The answer to one claim."""

    claim: Claim
    decision: Decision
    reason: str  # why it is not decided; empty otherwise
    direction: Direction  # of what is out of scope; empty where something is in scope, or there is nothing
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rulings:
    """The answers to all claims, and the family that their intervals form."""

    answers: tuple[Ruling, ...]
    num_family: int  # findings that could decide something, and are not exact
    level: float  # of each of their intervals

    def of(self, claims: Sequence[Claim]) -> Rulings:
        """The answers to some of the claims, in their order; the family stays that of all."""
        found = {answer.claim.id: answer for answer in self.answers}
        return replace(self, answers=tuple(found[claim.id] for claim in claims))

    def counts(self) -> Mapping[str, int]:
        """How many claims were supported, contradicted and not decided."""
        found = Counter(answer.decision for answer in self.answers)
        return {name: found[name] for name in (SUPPORTED, CONTRADICTED, NOT_DECIDED)}


def rule_on(claims: Sequence[Claim], sources: Mapping[str, pd.DataFrame]) -> Rulings:
    """Answer each claim from the rows of several sources, the first of which go before later ones.

    Args:
        claims: what is asked.
        sources: name of a run or a folder of results -> its rows.
    """
    read = [RowSource(name, rows) for name, rows in sources.items()]
    found = {claim.id: _candidates(claim, read) for claim in claims}
    ready: dict[str, list[tuple[Candidate, Measure | str]]] = {}
    for claim in claims:
        candidates, _ = found[claim.id]
        ready[claim.id] = _first_sources([(each, measure_of(claim, each)) for each in candidates])
    in_scope = [made for pairs in ready.values() for candidate, made in pairs if not candidate.outside]
    num_family = sum(not isinstance(made, str) and _can_err(made) for made in in_scope)
    level = stats.family_level(num_family)
    answers = []
    for claim in claims:
        findings = [_finding(claim, candidate, made, level) for candidate, made in ready[claim.id]]
        answers.append(_ruling(claim, findings, found[claim.id][1]))
    return Rulings(answers=tuple(answers), num_family=num_family, level=level)


def _candidates(claim: Claim, sources: Sequence[RowSource]) -> tuple[list[Candidate], list[str]]:
    """Candidates in all sources, and what the sources without any said."""
    candidates: list[Candidate] = []
    said: list[str] = []
    for source in sources:
        made = find(claim, source)
        if isinstance(made, str):
            said.append(made)
        else:
            candidates += made
    return candidates, said


def _first_sources(pairs: Sequence[tuple[Candidate, Measure | str]]) -> list[tuple[Candidate, Measure | str]]:
    """Of the same checkpoints, those of the first source that can be measured; within the scope before outside."""
    best: dict[tuple[object, ...], tuple[tuple[bool, bool, int], str]] = {}
    for place, (candidate, made) in enumerate(pairs):
        rank = (bool(candidate.outside), isinstance(made, str), place)
        if candidate.key not in best or rank < best[candidate.key][0]:
            best[candidate.key] = (rank, candidate.source)
    kept = [(candidate, made) for candidate, made in pairs if best[candidate.key][1] == candidate.source]
    # beside what can be measured in scope, the same checkpoints under other settings add nothing
    scoped = {candidate.key for candidate, made in kept if not candidate.outside and not isinstance(made, str)}
    return [
        (candidate, made)
        for candidate, made in kept
        if candidate.key not in scoped or (not candidate.outside and not isinstance(made, str))
    ]


def _can_err(made: Measure) -> bool:
    """Whether a finding has an interval that could miss the truth: a count has none."""
    measured = made(stats.LEVEL)
    return not measured.exact and measured.ends() is not None


def _finding(claim: Claim, candidate: Candidate, made: Measure | str, level: float) -> Finding:
    if isinstance(made, str):
        return Finding(candidate=candidate, decision=NOT_DECIDED, reason=made)
    at = stats.LEVEL if candidate.outside else level
    measured = made(at)
    ends = measured.ends()
    if ends is None:
        reason = measured.estimate.reason or "no interval"
        return Finding(candidate=candidate, decision=NOT_DECIDED, reason=reason, measured=measured)
    decision, reason = decide(claim, measured, ends)
    if decision != NOT_DECIDED and _is_chance_of_training(claim, candidate, measured):
        decision, reason = NOT_DECIDED, summary.WITHIN_NOISE
    exact = None if measured.exact else at
    return Finding(candidate=candidate, decision=decision, reason=reason, measured=measured, level=exact)


def _is_chance_of_training(claim: Claim, candidate: Candidate, measured: ClaimNumber) -> bool:
    """Whether another seed could move a difference across a border of the rule."""
    sd, cell, rule = candidate.training_sd, claim.cell, claim.parsed_rule
    if sd is None or rule.kind == "constant":
        return False
    favour = favour_of(measured.estimate.value, measured.kind, cell.direction, cell.reference)
    return any(abs(favour - border) < seeds.WITHIN * sd for border in region(rule, measured.kind))


def decide(claim: Claim, measured: ClaimNumber, ends: tuple[float, float]) -> tuple[Decision, str]:
    """The rule: where an interval lies to the region in which the claim is true."""
    cell, rule = claim.cell, claim.parsed_rule
    favours = sorted(favour_of(end, measured.kind, cell.direction, cell.reference) for end in ends)
    if rule.kind == "constant":
        return (SUPPORTED, "") if favours == [0.0, 0.0] else (CONTRADICTED, "")
    low, high = region(rule, measured.kind)
    if low < favours[0] and favours[1] < high:
        return SUPPORTED, ""
    if favours[1] <= low or favours[0] >= high:
        return CONTRADICTED, ""
    return NOT_DECIDED, "the interval lies across the margin"


def _ruling(claim: Claim, findings: Sequence[Finding], said: Sequence[str]) -> Ruling:
    scoped = [finding for finding in findings if finding.in_scope]
    if not findings:
        return _undecided(claim, findings, _nearest(said), "")
    if not scoped:
        outside = outside_told(pair for finding in findings for pair in finding.candidate.outside)
        return _undecided(claim, findings, f"out of scope: {outside}", _direction(findings))
    # what has no interval says nothing; beside what has one it does not stand in the way
    scoped = [finding for finding in scoped if finding.has_interval] or scoped
    decisions = {finding.decision for finding in scoped}
    if len(decisions) == 1 and NOT_DECIDED not in decisions:
        return Ruling(claim=claim, decision=scoped[0].decision, reason="", direction="", findings=tuple(findings))
    counts = Counter(finding.decision for finding in scoped)
    if len(scoped) == 1:
        reason = scoped[0].reason
    elif len(counts) == 1:
        reason = "; ".join(dict.fromkeys(finding.reason for finding in scoped))
    else:
        how = "the checkpoints disagree" if {SUPPORTED, CONTRADICTED} <= decisions else "not all findings decide"
        reason = f"{how}: " + ", ".join(f"{number} {name}" for name, number in counts.items())
    return _undecided(claim, findings, reason, "")


def outside_told(pairs: Iterable[tuple[str, str]]) -> str:
    """What puts findings outside of a scope, in words: `size 1.1 M, 1.0 M; context 4k for 8k`."""
    held: dict[str, list[str]] = {}
    for what, how in dict.fromkeys(pairs):
        held.setdefault(what, []).append(how)
    return "; ".join(f"{what} {', '.join(hows)}" for what, hows in held.items())


def _undecided(claim: Claim, findings: Sequence[Finding], reason: str, direction: Direction) -> Ruling:
    return Ruling(claim=claim, decision=NOT_DECIDED, reason=reason, direction=direction, findings=tuple(findings))


def _nearest(said: Sequence[str]) -> str:
    """Of what sources without candidates said, what those said that came nearest: that have the task and most sides."""
    unlike = list(dict.fromkeys(said))
    nearer = [text for text in unlike if not text.startswith(f"{NO_ROWS} task")] or unlike
    fewest = min((text.count(NO_ROWS) for text in nearer), default=0)
    return "; elsewhere ".join(text for text in nearer if text.count(NO_ROWS) == fewest) or "no rows"


def _direction(findings: Sequence[Finding]) -> Direction:
    """Where findings out of scope point; those that point nowhere do not count beside others."""
    found = {finding.decision for finding in findings} - {NOT_DECIDED}
    if not found:
        return "nowhere"
    return "both ways" if len(found) == 2 else "the same way" if SUPPORTED in found else "the other way"
