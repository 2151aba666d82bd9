"""The list of claims in docs/claims.md, made from their YAML files and results/: `make columns`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from made import put

from ttbench.cli.gather import published_rows
from ttbench.report.claims.claim import Claim
from ttbench.report.claims.claim_files import field_claims
from ttbench.report.claims.printed import all_borne_out
from ttbench.report.claims.ruling import rule_on
from ttbench.report.claims.telling import closing, rule_told, sides_told, table
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "claims.md"


def lines() -> Iterator[str]:
    """How many claims of the field `results/` decides, and each claim with its answer and its paper's own numbers."""
    claims = field_claims()
    borne = all_borne_out(claims)
    rows = {path.parent.relative_to(ROOT).as_posix(): read_rows(path) for path in published_rows(ROOT / "results")}
    rulings = rule_on(claims, rows)
    answers = {name: f"{answer}: {why}" for name, answer, why, _ in table(rulings, borne)}
    yield f"\n{closing(rulings)}\n"
    for claim in claims:
        yield from _lines(claim, answers[claim.id], borne[claim.id].told())


def _lines(claim: Claim, answer: str, told: str) -> Iterator[str]:
    yield f"### `{claim.id}`\n"
    yield f"{claim.statement}\n"
    yield f"- **Said by:** {'; '.join(origin.told() for origin in claim.sources)}"
    yield f"- **About:** {claim.scope.says}"
    yield f"- **Rows:** {sides_told(claim)}"
    yield f"- **Rule:** {rule_told(claim)}"
    yield f"- **By [results](results.md):** {answer}"
    yield f"- **The paper's own numbers:** {told}\n"


def page(text: str) -> str:
    """The text of docs/claims.md with the list made anew."""
    return put(text, "claims", lines())


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
