"""Claims from YAML files: those that ship with the package, and a user's own.

    claims:
      - id: ttt-state-constant
        statement: The state of a TTT layer is as large after reading much as after reading little.
        ...

Everything wrong is a SuiteError or an UnknownNameError that names file and line. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ttbench.errors import UnknownNameError
from ttbench.report.claims.claim import RULE, Claim, PrintedSides
from ttbench.strict_yaml.nodes import Node, read_yaml
from ttbench.strict_yaml.typed import read

FOLDER = Path(__file__).parent / "field"
FITS = ("slope", "curvature")


def field_claims() -> tuple[Claim, ...]:
    """The claims that ship with the package, in the order of their files."""
    return read_claims(sorted(FOLDER.glob("*.yaml")))


def read_claims(paths: Iterable[Path]) -> tuple[Claim, ...]:
    """The claims of some files.

    Raises SuiteError or UnknownNameError with file and line; also for an id that stands twice.
    """
    found: dict[str, Claim] = {}
    for path in paths:
        top = read_yaml(path, noun="file of claims", needs="claims")
        keys = top.mapping(["claims"])
        if "claims" not in keys or not keys["claims"].items():
            raise top.error("key 'claims' is missing or empty; it is a list of claims")
        for node in keys["claims"].items():
            claim = read(node, Claim, where=node.where)
            if claim.id in found:
                raise node.error(f"claim '{claim.id}' stands already at {found[claim.id].where}; give it another id")
            _require_whole(claim, node)
            found[claim.id] = claim
    return tuple(found.values())


def chosen(claims: Sequence[Claim], ids: Sequence[str]) -> tuple[Claim, ...]:
    """The claims with these ids in the order asked for; all without any. Raises UnknownNameError."""
    known = {claim.id: claim for claim in claims}
    for name in ids:
        if name not in known:
            raise UnknownNameError("claim", name, known=known)
    return tuple(known[name] for name in dict.fromkeys(ids)) if ids else tuple(claims)


def _require_whole(claim: Claim, node: Node) -> None:
    """Raises SuiteError for a claim whose parts do not fit together."""
    for said in _flaws(claim):
        raise node.error(f"claim '{claim.id}': {said}")


def _flaws(claim: Claim) -> Iterable[str]:
    yield from _flaws_of_sources(claim)
    yield from _flaws_of_rule(claim)
    yield from _flaws_of_cell(claim)
    if (claim.printed is None) == (claim.not_printed is None):
        yield "give either 'printed' (the paper's own numbers) or 'not_printed' (why there are none)"
    if claim.printed is not None:
        yield from _flaws_of_printed(claim.printed)
    least, most = claim.scope.least_params, claim.scope.most_params
    if least is not None and most is not None and least > most:
        yield f"least_params {least} is above most_params {most}"


def _flaws_of_sources(claim: Claim) -> Iterable[str]:
    if not claim.sources:
        yield "it needs a source"
    for origin in claim.sources:
        if origin.kind == "paper" and origin.place is None:
            yield f"source '{origin.work}' needs 'place': the section, table or figure of the paper"
        if origin.kind == "press" and origin.outlet is None:
            yield f"source '{origin.work}' needs 'outlet': who printed it"


def _flaws_of_rule(claim: Claim) -> Iterable[str]:
    found = RULE.fullmatch(claim.rule)
    assert found is not None
    kind, margin = found[1], found[2]
    try:
        size = float(margin) if margin else 0.0
    except ValueError:
        yield f"the margin of rule '{claim.rule}' is no number"
        return
    if kind in ("non-inferior", "equivalent") and size <= 0:
        yield f"rule {kind} needs a margin above 0: {kind}(0.01)"
    if kind == "constant" and margin:
        yield "rule constant has no margin; write equivalent(M) for a number that may move by M"
    if size > 0 and claim.margin_source is None:
        yield "a margin needs 'margin_source': where it is from"
    if (kind in ("superior", "non-inferior")) != (claim.cell.direction is not None):
        yield f"rule {kind} {'has no' if claim.cell.direction else 'needs a'} direction (lower or higher) in its cell"
    if (kind == "constant") != (claim.cell.statistic == "spread"):
        yield "rule constant and statistic spread go together"


def _flaws_of_cell(claim: Claim) -> Iterable[str]:
    cell = claim.cell
    if (cell.b is None) == (cell.statistic == "comparison"):
        yield "a comparison needs party b" if cell.b is None else f"statistic {cell.statistic} has no party b"
    if (cell.reference is not None) != (cell.statistic in (*FITS, "number")):
        needs = "has no" if cell.reference is not None else "needs a"
        yield f"statistic {cell.statistic} {needs} reference"
    if cell.statistic != "number" and (cell.times or cell.over):
        yield "'times' and 'over' belong to statistic number"
    if cell.statistic == "number" and cell.reference is not None and cell.reference <= 0:
        yield "the reference of a number must be positive: the two are compared by their ratio"
    contexts = [party.context for party in (cell.a, cell.b) if party is not None]
    if any(contexts) and not (all(contexts) and cell.statistic == "comparison" and cell.context is None):
        yield "a context of one party needs one of the other, and none of the cell"


def _flaws_of_printed(printed: PrintedSides) -> Iterable[str]:
    if bool(printed.b) != (printed.statistic == "comparison"):
        yield "printed numbers need side b for a comparison, and for nothing else"
    if (printed.reference is not None) != (printed.statistic in (*FITS, "number")):
        yield "printed: a slope, a curvature or a number needs a reference, and nothing else has one"
