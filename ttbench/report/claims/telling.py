"""Answers to claims as records, tables and sentences: for people on a terminal, and for machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from ttbench.report import words
from ttbench.report.claims.candidates import CandidateLine, party_told
from ttbench.report.claims.claim import Claim, Party
from ttbench.report.claims.measures import ClaimNumber
from ttbench.report.claims.printed import Borne
from ttbench.report.claims.ruling import CONTRADICTED, NOT_DECIDED, SUPPORTED, Finding, Ruling, Rulings, outside_told
from ttbench.report.statistics.stats import counted
from ttbench.report.summary import DIFFERENCE, RATIO

SHOWN_CELLS = 3  # ids in a line for people; the JSON has all
CELL_LETTERS = 8
STYLES = {SUPPORTED: "green", CONTRADICTED: "red", NOT_DECIDED: ""}


def records(rulings: Rulings, borne: Mapping[str, Borne]) -> dict[str, Any]:
    """Everything as plain data; `borne` has what each paper's own numbers say, by id."""
    return {
        "claims": [_record(ruling, borne[ruling.claim.id]) for ruling in rulings.answers],
        "counts": dict(rulings.counts()),
        "num_family": rulings.num_family,
        "level": rulings.level,
    }


def _record(ruling: Ruling, borne: Borne) -> dict[str, Any]:
    claim = ruling.claim
    return {
        "id": claim.id,
        "statement": claim.statement,
        "sources": [origin.told() for origin in claim.sources],
        "scope": claim.scope.says,
        "rows": sides_told(claim),
        "task": claim.cell.task,
        "metric": claim.cell.metric,
        "statistic": claim.cell.statistic,
        "rule": claim.rule,
        "direction": claim.cell.direction,
        "margin_source": claim.margin_source,
        "decision": ruling.decision,
        "reason": ruling.reason or None,
        "here": here(ruling) or None,
        "findings": [_finding_record(claim, finding) for finding in ruling.findings],
        "published": {
            "answer": borne.answer,
            "num_held": borne.num_held,
            "num_compared": borne.num_compared,
            "evidence": list(borne.evidence),
            "told": borne.told(),
        },
    }


def _finding_record(claim: Claim, finding: Finding) -> dict[str, Any]:
    candidate, measured = finding.candidate, finding.measured
    made = None if measured is None else measured.estimate
    ends = None if measured is None else measured.ends()
    return {
        "source": candidate.source,
        "a": _side(candidate.a, claim.cell.a),
        "b": None if candidate.b is None or claim.cell.b is None else _side(candidate.b, claim.cell.b),
        "contexts": list(candidate.contexts),
        "corpus": candidate.a.settings.get("corpus"),
        "decision": finding.decision,
        "reason": finding.reason or None,
        "outside": [f"{what} {how}" for what, how in candidate.outside],
        "kind": None if measured is None else measured.kind,
        "value_a": None if measured is None else measured.value_a,
        "value_b": None if measured is None else measured.value_b,
        "effect": None if made is None else float(made.value),
        "low": None if ends is None else float(ends[0]),
        "high": None if ends is None else float(ends[1]),
        "level": finding.level,
        "method": None if made is None else made.method,
        "num_clusters": None if made is None else made.num_clusters,
        "cells": list(finding.cells()),
    }


def table(rulings: Rulings, borne: Mapping[str, Borne]) -> list[list[Any]]:
    """A line for each claim: id, answer, where rows out of scope point, and what the paper's own numbers say."""
    rows = []
    for ruling in rulings.answers:
        mine = borne[ruling.claim.id]
        paper = f"{mine.answer} ({mine.num_held} of {mine.num_compared})" if mine.num_compared else mine.answer
        said = "; ".join(filter(None, (here(ruling), ruling.reason)))
        answer = Text(ruling.decision, style=STYLES[ruling.decision])
        rows.append([ruling.claim.id, answer, said or _short(ruling), paper])
    return rows


def here(ruling: Ruling) -> str:
    """Where numbers out of a claim's scope point; empty where there are none, or some are within it."""
    if not ruling.direction:
        return ""
    pointing = sum(finding.decision != NOT_DECIDED for finding in ruling.findings)
    some = 0 < pointing < len(ruling.findings) and ruling.direction != "both ways"
    told = f" in {pointing} of {len(ruling.findings)} pairs" if some else ""
    return f"here it points {ruling.direction}{told}"


def _short(ruling: Ruling) -> str:
    """What decided a claim: its first finding, and how many there are more."""
    more = len(ruling.findings) - 1
    return _told(ruling.claim, ruling.findings[0]) + (f"; and {more} more" if more else "")


def details(rulings: Rulings, borne: Mapping[str, Borne]) -> Group:
    """Each claim with its source, its rule and every finding, as a rich renderable."""
    parts: list[Text | words.Paragraph] = []
    for ruling in rulings.answers:
        claim = ruling.claim
        head = Text.assemble((claim.id, "bold"), ": ", (ruling.decision, STYLES[ruling.decision] or "bold"))
        parts += [head, words.Paragraph(claim.statement)]
        parts += [words.Paragraph(line) for line in _lines(ruling, borne[claim.id])]
        parts.append(Text())
    return Group(*parts)


def _lines(ruling: Ruling, borne: Borne) -> Iterator[str]:
    claim = ruling.claim
    if ruling.reason:
        yield f"why: {'; '.join(filter(None, (ruling.reason, here(ruling))))}"
    yield f"said by: {'; '.join(origin.told() for origin in claim.sources)}"
    yield f"about: {claim.scope.says}"
    yield f"rows: {sides_told(claim)}"
    yield f"rule: {rule_told(claim)}"
    for finding in ruling.findings:
        cells = [cell[:CELL_LETTERS] for cell in finding.cells()]
        more = "" if len(cells) <= SHOWN_CELLS else f" and {len(cells) - SHOWN_CELLS} more"
        where = f"{finding.candidate.source}, cells {', '.join(cells[:SHOWN_CELLS])}{more}"
        yield f"here: {_told(claim, finding)}: {_decision_told(finding)} ({where})"
    yield f"the paper's own numbers: {borne.told()}"


def _decision_told(finding: Finding) -> str:
    """What one finding says: a decision within the scope, a direction outside of it."""
    if finding.in_scope:
        return finding.decision
    points = {SUPPORTED: "points the same way", CONTRADICTED: "points the other way", NOT_DECIDED: "points nowhere"}
    return f"{points[finding.decision]}, out of scope: {outside_told(finding.candidate.outside)}"


def sides_told(claim: Claim) -> str:
    """Which rows are of a, which are of b, and at which context: `a: architecture ttt-linear; b: ...; at 8k`."""
    cell = claim.cell
    parties = {"a": cell.a, "b": cell.b}
    told = [
        f"{side}: {party_told(party)}" + ("" if party.context is None else f" at {words.context(party.context)}")
        for side, party in parties.items()
        if party is not None
    ]
    shared = {"anything": [], "size": ["of one size"], "checkpoint": ["of one checkpoint"]}[cell.same]
    at = [f"at {words.context(cell.context)}"] if cell.context is not None else []
    return "; ".join([*told, *shared, *at])


OPPOSITE = {"lower": "higher", "higher": "lower"}


def rule_told(claim: Claim) -> str:
    """The rule and its number in one sentence: `superior: prefill_s (latency) of a is lower than that of b`."""
    cell, rule = claim.cell, claim.parsed_rule
    what = f"{cell.metric} ({cell.task})"
    if cell.statistic in ("slope", "curvature"):
        what = f"the {cell.statistic} of {what} over contexts"
    elif cell.times or cell.over:
        what = " ".join([what, *(f"x {name}" for name in cell.times), *(f"/ {name}" for name in cell.over)])
    what, other = (
        (what, f"{cell.reference:g}")
        if cell.b is None and cell.reference is not None
        else (f"{what} of a", "that of b")
    )
    share = f"{rule.margin:g}"
    held = {
        "superior": f"{what} is {cell.direction} than {other}" + (f", by more than {share}" if rule.margin else ""),
        "non-inferior": f"{what} is not {OPPOSITE.get(cell.direction or '')} than {other} by {share} or more",
        "equivalent": f"{what} differs from {other} by less than {share}",
        "constant": f"{what} is the same at every context",
    }[rule.kind]
    text = f"{rule.kind}: {held}"
    return text if claim.margin_source is None else f"{text}. Margin: {claim.margin_source}"


def _side(line: CandidateLine, party: Party) -> str:
    """A side in words, with its attention where the claim is about that."""
    return f"{line.told()}, attention {line.settings['attention']}" if party.attention else line.told()


def _told(claim: Claim, finding: Finding) -> str:
    """Who was measured, and the number with its interval: `ttt-linear against transformer at 4k: 0.52 times ...`."""
    candidate, measured = finding.candidate, finding.measured
    at = " and ".join(dict.fromkeys(map(words.context, candidate.contexts)))
    if candidate.b is None and len(candidate.contexts) > 2:
        at = f"{words.context(candidate.contexts[0])} to {words.context(candidate.contexts[-1])}"
    corpus = candidate.a.settings.get("corpus")
    place = f" at {at}" + ("" if corpus is None else f" of {corpus}")
    sides = _side(candidate.a, claim.cell.a)
    if candidate.b is not None and claim.cell.b is not None:
        sides += f" against {_side(candidate.b, claim.cell.b)}"
    if measured is None:
        return f"{sides}{place}: {finding.reason}"
    return f"{sides}{place}: {_number(claim, measured, finding.level)}" + (
        f" ({finding.reason})" if finding.reason else ""
    )


def _number(claim: Claim, measured: ClaimNumber, level: float | None) -> str:
    made, ends = measured.estimate, measured.ends()
    if claim.cell.statistic == "spread":
        value = words.scale(measured.unit, [measured.value_a], statistic="count")
        assert measured.value_a is not None
        assert measured.value_b is not None
        same = made.value == 1.0
        texts = [f"{value.text(each)} {value.unit}" for each in (measured.value_b, measured.value_a)]
        return f"{texts[0]} at each" if same else f"{texts[0]} to {texts[1]}"
    text = _effect(measured, made.value)
    if measured.exact or ends is None or level is None:
        return text
    basis = counted(made.num_clusters, measured.noun)
    low, high = (_effect(measured, end, bare=True) for end in ends)
    return f"{text} ({low} to {high} at {100 * level:.4g}%, {basis})"


def _effect(measured: ClaimNumber, value: float, *, bare: bool = False) -> str:
    """A number as people read it: `0.52 times`, `-0.53 bits per byte`, `slope 1.02`."""
    if measured.kind == "curvature":
        return f"{value:.2g}" if bare else f"c = {value:.2g} {measured.unit} per token squared"
    size = words.significant(abs(value), 3) if abs(value) >= 1e-6 else f"{abs(value):.1g}"
    text = f"-{size}" if value < 0 else size
    if bare:
        return text
    if measured.kind == RATIO:
        return f"{text} times"
    return f"{text} {words.unit_words(measured.unit)}".rstrip() if measured.kind == DIFFERENCE else f"slope {text}"


def closing(rulings: Rulings) -> str:
    """How many were decided, what was out of scope, and how sure the family is."""
    counts = rulings.counts()
    decided = f"{counts[SUPPORTED]} supported, {counts[CONTRADICTED]} contradicted, {counts[NOT_DECIDED]} not decided"
    outside = [ruling.direction for ruling in rulings.answers if ruling.direction]
    told = [f"{way} for {outside.count(way)}" for way in dict.fromkeys(outside)]
    scope = (
        f" For {len(outside)} of the last there are rows outside of the claim's scope alone; these point "
        f"{', '.join(told)}."
        if told
        else ""
    )
    family = _family(rulings.num_family, rulings.level)
    return f"{counted(len(rulings.answers), 'claim')}: {decided}.{scope} {family}"


def _family(number: int, level: float) -> str:
    if number == 0:
        return "No finding within a scope has an interval, so none is corrected."
    if number == 1:
        return f"One finding within a scope has an interval, at {100 * level:.4g}%."
    return (
        f"{number} findings within a scope have intervals, at {100 * level:.4g}% each, "
        "so that all hold together in 95 of 100 (Bonferroni)."
    )
