"""The list of claims in docs/claims.md, made from their YAML files: `make columns`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from made import put

from ttbench.report.claims.claim import Claim
from ttbench.report.claims.claim_files import field_claims
from ttbench.report.claims.printed import all_borne_out
from ttbench.report.claims.telling import rule_told, sides_told

PAGE = Path(__file__).parents[1] / "docs" / "claims.md"


def lines() -> Iterator[str]:
    """Every claim of the field, with what its paper's own numbers say."""
    claims = field_claims()
    borne = all_borne_out(claims)
    yield ""
    for claim in claims:
        yield from _lines(claim, borne[claim.id].told())


def _lines(claim: Claim, told: str) -> Iterator[str]:
    yield f"### `{claim.id}`\n"
    yield f"{claim.statement}\n"
    yield f"- **Said by:** {'; '.join(origin.told() for origin in claim.sources)}"
    yield f"- **About:** {claim.scope.says}"
    yield f"- **Rows:** {sides_told(claim)}"
    yield f"- **Rule:** {rule_told(claim)}"
    yield f"- **The paper's own numbers:** {told}\n"


def page(text: str) -> str:
    """The text of docs/claims.md with the list made anew."""
    return put(text, "claims", lines())


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
