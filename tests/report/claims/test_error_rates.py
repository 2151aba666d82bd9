"""How often claims are decided wrongly where the truth lies on the border of their rule."""

from __future__ import annotations

import numpy as np
import pytest

from ttbench.report.claims.claim import Claim, ClaimSource, Party, PrimaryCell, Scope
from ttbench.report.claims.measures import ClaimNumber
from ttbench.report.claims.ruling import NOT_DECIDED, decide
from ttbench.report.statistics import fits, stats

NUM_TABLES = 400  # simulated files of claims
NUM_CLAIMS = 5  # of each
NUM_ROUNDS = 5


def claim_of(rule: str, direction: str | None) -> Claim:
    return Claim(
        id="border",
        statement="A sentence.",
        sources=(ClaimSource(kind="press", work="An article", outlet="A paper"),),
        scope=Scope(says="anything"),
        cell=PrimaryCell(
            task="latency",
            metric="prefill_s",
            a=Party(),
            statistic="slope",
            reference=1.0,
            direction=direction,  # type: ignore[arg-type]  # lower, higher or None
        ),
        rule=rule,
        not_printed="a test",
    )


@pytest.mark.parametrize(
    ("rule", "direction", "truth"),
    [
        ("superior", "lower", 1.0),
        ("superior", "higher", 1.0),
        ("non-inferior(0.1)", "lower", 1.1),
        ("equivalent(0.1)", None, 1.1),
        ("equivalent(0.1)", None, 0.9),
    ],
)
def test_on_the_border_any_of_five_claims_is_decided_at_most_five_times_in_a_hundred(
    rule: str, direction: str | None, truth: float
) -> None:
    rng = np.random.default_rng(0)
    level = stats.family_level(NUM_CLAIMS)
    claim = claim_of(rule, direction)
    contexts = np.array([2048, 4096, 8192, 16384])
    noise = np.exp(rng.normal(0, 0.05, (NUM_TABLES * NUM_CLAIMS * NUM_ROUNDS, len(contexts))))
    slopes = fits.slopes(contexts, contexts**truth * noise).reshape(NUM_TABLES, NUM_CLAIMS, NUM_ROUNDS)
    any_decided = 0
    for table in slopes:
        decided = []
        for values in table:
            made = fits.mean_of_rounds(values, level=level)
            assert made.low is not None
            assert made.high is not None
            measured = ClaimNumber(kind="slope", estimate=made, noun="round")
            decided.append(decide(claim, measured, (made.low, made.high))[0] != NOT_DECIDED)
        any_decided += any(decided)
    # 5 of 100 are asked for; three standard errors of 400 tables are 3.3
    assert any_decided / NUM_TABLES <= 0.083
    # and it is not so wide that nothing could ever be decided
    assert any_decided > 0
