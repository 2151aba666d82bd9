"""What rows say of claims: by rule, within a scope, and the same when sides are swapped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
from rows import CONTEXTS, TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.report.claims.claim import Claim, ClaimSource, Party, PrimaryCell, Scope
from ttbench.report.claims.measures import ClaimNumber
from ttbench.report.claims.ruling import CONTRADICTED, NOT_DECIDED, SUPPORTED, Ruling, decide, rule_on
from ttbench.report.statistics.stats import Estimate

ORIGIN = ClaimSource(kind="press", work="An article", outlet="A paper")


def claim_of(rule: str = "superior", *, scope: Scope | None = None, name: str = "claim", **cell: Any) -> Claim:
    cell = {"a": Party(architecture=("ttt",)), "b": Party(architecture=("transformer",)), **cell}
    return Claim(
        id=name,
        statement="A sentence.",
        sources=(ORIGIN,),
        scope=scope or Scope(says="anything"),
        cell=PrimaryCell(**cell),
        rule=rule,
        margin_source="a test",
        not_printed="a press sentence",
    )


PREFILL: dict[str, Any] = {"task": "latency", "metric": "prefill_s", "context": 2048}
BITS: dict[str, Any] = {"task": "perplexity", "metric": "bits_per_byte", "context": 2048}
ALONE: dict[str, Any] = {"b": None, "context": None}


def over(base: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Fields of a cell, some of them changed."""
    return {**base, **more}


def answer(claim: Claim, rows: pd.DataFrame, **more: pd.DataFrame) -> Ruling:
    return rule_on([claim], {"here": rows, **more}).answers[0]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    models = [TRANSFORMER, TTT]
    return make_rows(
        perplexity_rows(models, CONTEXTS), needle_rows(models, (512,)), timing_rows(models, CONTEXTS, num_rounds=6)
    )


def effect(low: float, high: float, kind: str) -> ClaimNumber:
    return ClaimNumber(
        kind=kind, estimate=Estimate(value=(low + high) / 2, low=low, high=high, method="t"), noun="round"
    )


@pytest.mark.parametrize(
    ("rule", "direction", "kind", "low", "high", "decision"),
    [
        ("superior", "lower", "difference", -0.3, -0.1, SUPPORTED),
        ("superior", "lower", "difference", 0.1, 0.3, CONTRADICTED),
        ("superior", "lower", "difference", -0.1, 0.1, NOT_DECIDED),
        ("superior", "lower", "difference", -0.1, 0.0, NOT_DECIDED),
        ("superior", "higher", "difference", 0.1, 0.3, SUPPORTED),
        ("superior", "lower", "ratio", 0.5, 0.9, SUPPORTED),
        ("superior", "lower", "ratio", 1.1, 1.9, CONTRADICTED),
        ("superior(3.0)", "lower", "ratio", 0.1, 0.24, SUPPORTED),
        ("superior(3.0)", "lower", "ratio", 0.26, 0.9, CONTRADICTED),
        ("superior(3.0)", "lower", "ratio", 0.24, 0.26, NOT_DECIDED),
        ("non-inferior(0.1)", "lower", "difference", -5.0, 0.09, SUPPORTED),
        ("non-inferior(0.1)", "lower", "difference", 0.11, 0.2, CONTRADICTED),
        ("non-inferior(0.1)", "lower", "difference", 0.05, 0.2, NOT_DECIDED),
        ("equivalent(0.1)", None, "difference", -0.09, 0.09, SUPPORTED),
        ("equivalent(0.1)", None, "difference", 0.11, 0.2, CONTRADICTED),
        ("equivalent(0.1)", None, "difference", -0.3, -0.11, CONTRADICTED),
        ("equivalent(0.1)", None, "difference", -0.3, 0.3, NOT_DECIDED),
        ("equivalent(0.1)", None, "ratio", 1 / 1.09, 1.09, SUPPORTED),
        ("equivalent(0.1)", None, "ratio", 1 / 1.11, 1.0, NOT_DECIDED),
        ("equivalent(0.1)", None, "ratio", 1.0, 1.0, SUPPORTED),
    ],
)
def test_a_rule_is_a_region_and_the_interval_lies_inside_outside_or_across(
    rule: str, direction: Any, kind: str, low: float, high: float, decision: str
) -> None:
    made = claim_of(rule, direction=direction, **PREFILL)
    assert decide(made, effect(low, high, kind), (low, high))[0] == decision


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.9), (0.9, 1.2), (1.1, 1.3), (0.999, 1.0)])
@pytest.mark.parametrize("rule", ["superior", "superior(0.2)", "non-inferior(0.15)", "equivalent(0.15)"])
def test_swapped_sides_mirror_every_rule_of_a_ratio(rule: str, low: float, high: float) -> None:
    directions = (None, None) if rule.startswith("equivalent") else ("lower", "higher")
    one, two = (claim_of(rule, direction=direction, **PREFILL) for direction in directions)
    mirrored = (1 / high, 1 / low)
    assert decide(one, effect(low, high, "ratio"), (low, high)) == decide(two, effect(*mirrored, "ratio"), mirrored)


def test_swapping_the_parties_of_a_claim_turns_its_answer_round(rows: pd.DataFrame) -> None:
    # the made-up TTT takes 1.6 times as long
    slower = claim_of(direction="higher", **PREFILL)
    swapped = claim_of(direction="higher", a=slower.cell.b, b=slower.cell.a, **PREFILL)
    said = [answer(claim, rows) for claim in (slower, swapped)]
    assert [each.decision for each in said] == [SUPPORTED, CONTRADICTED]
    ends = [each.findings[0].measured.ends() for each in said]  # type: ignore[union-attr]  # both were measured
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0] == pytest.approx((1 / ends[1][1], 1 / ends[1][0]), rel=1e-12)


def test_swapping_the_checkpoints_in_the_rows_turns_the_answer_round(rows: pd.DataFrame) -> None:
    claim = claim_of(direction="lower", **BITS)
    swapped = rows.assign(architecture=rows["architecture"].replace({"ttt": "transformer", "transformer": "ttt"}))
    swapped.attrs = rows.attrs
    assert [answer(claim, each).decision for each in (rows, swapped)] == [CONTRADICTED, SUPPORTED]


def test_editing_a_row_changes_the_answer(rows: pd.DataFrame) -> None:
    claim = claim_of("constant", task="memory", metric="state_bytes", statistic="spread", **ALONE)
    assert answer(claim, rows).decision == SUPPORTED
    edited = rows.copy()
    of_ttt = ((edited["architecture"] == "ttt") & edited["state_bytes"].notna()).to_numpy()
    edited.loc[int(of_ttt.argmax()), "state_bytes"] += 1
    found = answer(claim, edited)
    assert (found.decision, found.reason) == (CONTRADICTED, "")
    spread = over(ALONE, task="memory", metric="state_bytes", statistic="spread")
    transformer = claim_of("constant", **over(spread, a=Party(architecture=("transformer",))))
    assert answer(transformer, rows).decision == CONTRADICTED


def test_rows_of_one_checkpoint_made_slower_change_the_answer(rows: pd.DataFrame) -> None:
    claim = claim_of(direction="lower", **PREFILL)
    edited = rows.copy()
    edited.loc[edited["architecture"] == "transformer", "call_s"] *= 10
    edited.attrs = rows.attrs
    assert [answer(claim, each).decision for each in (rows, edited)] == [CONTRADICTED, SUPPORTED]


def test_noise_around_the_margin_is_not_decided() -> None:
    models = [Model(name="transformer", bits=1.5), Model(name="ttt-linear", bits=1.5)]
    noisy = make_rows(perplexity_rows(models, (2048,), noise=0.05))
    for rule, direction in (("superior", "lower"), ("non-inferior(0.0001)", "lower"), ("equivalent(0.0001)", None)):
        found = answer(claim_of(rule, direction=direction, **BITS), noisy)
        assert (found.decision, found.reason) == (NOT_DECIDED, "the interval lies across the margin")
    assert answer(claim_of("equivalent(0.2)", **BITS), noisy).decision == SUPPORTED


def test_costs_are_fitted_over_contexts(rows: pd.DataFrame) -> None:
    linear = over(ALONE, task="latency", metric="prefill_s", statistic="slope", reference=1.0)
    assert answer(claim_of("equivalent(0.1)", **linear), rows).decision == SUPPORTED
    squared = rows.copy()
    prefill = squared["phase"] == "prefill"
    squared.loc[prefill & (squared["task"] == "latency"), "call_s"] *= squared["context_len"] / 512
    squared.attrs = rows.attrs
    assert answer(claim_of("equivalent(0.1)", **linear), squared).decision == CONTRADICTED
    curved = over(linear, statistic="curvature", reference=0.0, direction="higher")
    assert answer(claim_of(**curved), squared).decision == SUPPORTED
    assert answer(claim_of(**curved), rows).decision == NOT_DECIDED
    few = squared.loc[squared["round"] < 2]
    few.attrs = rows.attrs
    assert answer(claim_of(**curved), few).reason == "2 rounds; an interval needs 3"
    # two contexts bound a curvature from below, so that they show that it is above and never that it is below
    two = squared.loc[squared["context_len"].isin([512, 8192])]
    two.attrs = rows.attrs
    assert answer(claim_of(**curved), two).decision == SUPPORTED
    flat = over(curved, direction="lower")
    assert answer(claim_of("non-inferior(1e9)", **flat), two).reason.startswith("2 contexts bound a curvature")
    assert answer(claim_of("non-inferior(1e9)", **flat), squared).decision == SUPPORTED
    one = squared.loc[squared["context_len"] == 512]
    one.attrs = rows.attrs
    assert "measured at 512; 2 contexts from 1 on are needed" in answer(claim_of(**curved), one).reason


@pytest.mark.parametrize(
    ("scope", "change", "why"),
    [
        (Scope(says="large", least_params=100_000_000), {}, "out of scope: size 1.0 M"),
        (Scope(says="small", most_params=10), {}, "out of scope: size 1.0 M"),
        (Scope(says="books", corpora=("books",)), {}, "out of scope: corpus code"),
        (Scope(says="GPU", devices=("cuda",)), {}, "out of scope: device cpu"),
        (Scope(says="trained", trained="at"), {"context": 1024}, "out of scope: context 2k for 1k"),
        (Scope(says="trained", trained="within"), {"context": 8192}, "out of scope: context 2k for 8k"),
        (Scope(says="long"), {"context": 32768}, "out of scope: context 8k for 32k"),
    ],
)
def test_out_of_scope_is_not_decided_and_the_direction_is_told(
    rows: pd.DataFrame, scope: Scope, change: dict[str, Any], why: str
) -> None:
    found = answer(claim_of(direction="lower", scope=scope, **BITS | change), rows)
    assert (found.decision, found.reason) == (NOT_DECIDED, why)
    # at its training context the made-up transformer is better, beyond it TTT is
    way = "the same way" if change.get("context") == 32768 else "the other way"
    assert found.direction == way
    same = answer(claim_of(direction="higher", scope=scope, **BITS | change), rows)
    assert same.direction == {"the same way": "the other way", "the other way": "the same way"}[way]


def test_in_scope_has_no_direction_and_the_limits_are_within(rows: pd.DataFrame) -> None:
    scope = Scope(
        says="x", least_params=1_000_000, most_params=1_000_000, corpora=("code",), devices=("cpu",), trained="at"
    )
    found = answer(claim_of(direction="higher", scope=scope, **BITS), rows)
    assert (found.decision, found.direction) == (SUPPORTED, "")


def test_each_side_may_have_a_context_of_its_own(rows: pd.DataFrame) -> None:
    ttt = ("ttt",)
    sides = over(BITS, a=Party(architecture=ttt, context=2048), b=Party(architecture=ttt, context=1024), context=None)
    found = answer(claim_of(direction="lower", same="checkpoint", **sides), rows)
    assert (found.decision, found.findings[0].candidate.contexts) == (SUPPORTED, (2048, 1024))
    assert found.findings[0].measured.estimate.num_clusters == 34  # type: ignore[union-attr]  # it was measured
    far = over(BITS, a=Party(architecture=ttt, context=65536), b=Party(architecture=ttt, context=32768), context=None)
    found = answer(claim_of(direction="lower", same="checkpoint", **far), rows)
    assert (found.direction, found.findings[0].candidate.contexts) == ("the other way", (8192, 4096))


SEEDED = [
    dataclasses.replace(TTT, name=f"ttt-{seed}", bits=bits, settings={"train_recipe": "r1", "train_seed": seed})
    for seed, bits in ((1, 1.50), (2, 1.60))
]


def test_what_another_seed_could_make_decides_nothing() -> None:
    """Seeds .1 apart have an sd of .071, so a difference of less than .2 is within training noise."""
    for apart, decision, reason in ((-0.15, NOT_DECIDED, "within training noise"), (-0.25, CONTRADICTED, "")):
        lone = dataclasses.replace(TRANSFORMER, bits=SEEDED[0].bits + apart)
        seeded = make_rows(perplexity_rows([*SEEDED, lone], (2048,), noise=1e-5))
        found = answer(claim_of(direction="lower", **BITS), seeded)
        mine = next(each for each in found.findings if each.candidate.a.checkpoint == "ttt-1")
        assert (mine.decision, mine.reason) == (decision, reason)
        assert mine.candidate.training_sd == pytest.approx(0.1, rel=1e-2)


@pytest.mark.parametrize(
    ("rule", "apart", "decision"),
    [
        ("non-inferior(1.0)", 0.05, SUPPORTED),
        ("equivalent(1.0)", 0.05, SUPPORTED),
        ("superior(0.2)", -0.25, NOT_DECIDED),
        ("superior(0.2)", -0.45, SUPPORTED),
        ("non-inferior(0.3)", 0.28, NOT_DECIDED),
    ],
)
def test_chance_of_training_counts_from_the_border_of_the_rule(rule: str, apart: float, decision: str) -> None:
    lone = dataclasses.replace(TRANSFORMER, bits=SEEDED[0].bits - apart)
    seeded = make_rows(perplexity_rows([*SEEDED, lone], (2048,), noise=1e-5))
    found = answer(claim_of(rule, direction=None if rule.startswith("equivalent") else "lower", **BITS), seeded)
    mine = next(each for each in found.findings if each.candidate.a.checkpoint == "ttt-1")
    assert mine.decision == decision


def test_two_models_at_two_contexts_have_the_noise_of_both() -> None:
    lone = dataclasses.replace(TRANSFORMER, bits=SEEDED[0].bits + 0.05)
    seeded = make_rows(perplexity_rows([*SEEDED, lone], (1024, 2048), noise=1e-5))
    one, two = Party(architecture=("ttt",), context=2048), Party(architecture=("transformer",), context=1024)
    found = answer(claim_of(direction="lower", same="size", **over(BITS, a=one, b=two, context=None)), seeded)
    assert [each.candidate.training_sd for each in found.findings] == [pytest.approx(0.1, rel=1e-2)] * 2


def test_two_trainings_of_one_model_are_never_held_against_each_other() -> None:
    seeded = make_rows(perplexity_rows(SEEDED, (1024, 2048), noise=1e-5))
    ttt = ("ttt",)
    sides = over(BITS, a=Party(architecture=ttt, context=2048), b=Party(architecture=ttt, context=1024), context=None)
    found = answer(claim_of(direction="lower", same="size", **sides), seeded)
    pairs = {(each.candidate.a.checkpoint, each.candidate.b.checkpoint) for each in found.findings if each.candidate.b}
    assert pairs == {("ttt-1", "ttt-1"), ("ttt-2", "ttt-2")}
    # one training at two contexts has no chance of training in its difference
    assert {each.candidate.training_sd for each in found.findings} == {None}


def test_checkpoints_that_disagree_decide_nothing(rows: pd.DataFrame) -> None:
    slow = Model(name="transformer-slow", speed=9.0)
    both = make_rows(timing_rows([TRANSFORMER, TTT, slow], (2048,), num_rounds=6))
    found = answer(claim_of(direction="lower", **PREFILL), both)
    assert (found.decision, found.reason) == (NOT_DECIDED, "the checkpoints disagree: 1 contradicted, 1 supported")
    assert len(found.findings) == 2


def test_where_some_findings_decide_and_none_disagrees_the_reason_says_so(rows: pd.DataFrame) -> None:
    near = Model(name="transformer-near", speed=TTT.speed * 1.001)
    both = make_rows(timing_rows([TRANSFORMER, TTT, near], (2048,), num_rounds=6))
    found = answer(claim_of(direction="higher", **PREFILL), both)
    assert found.decision == NOT_DECIDED
    assert found.reason.startswith("not all findings decide: 1 ")


def test_checkpoints_that_cannot_be_measured_do_not_stand_in_the_way_of_others(rows: pd.DataFrame) -> None:
    few = Model(name="transformer-few", speed=0.1)
    both = make_rows(timing_rows([TRANSFORMER, TTT, few], (2048,), num_rounds=6))
    short = both.loc[(both["checkpoint"] != few.name) | (both["round"] < 2)]
    short.attrs = both.attrs
    found = answer(claim_of(direction="higher", **PREFILL), short)
    assert [finding.reason for finding in found.findings] == ["", "2 rounds; an interval needs 3"]
    assert found.decision == SUPPORTED


def test_pairs_are_of_one_size_or_of_one_checkpoint_where_the_claim_asks_for_it(rows: pd.DataFrame) -> None:
    large = rows.copy()
    large.loc[large["architecture"] == "ttt", "num_params"] = 1_200_000
    large.attrs = rows.attrs
    assert answer(claim_of(direction="higher", same="size", **PREFILL), rows).decision == SUPPORTED
    assert (
        "with equal numbers of parameters" in answer(claim_of(direction="higher", same="size", **PREFILL), large).reason
    )
    assert "of one checkpoint" in answer(claim_of(direction="higher", same="checkpoint", **PREFILL), rows).reason


def test_what_is_missing_is_named(rows: pd.DataFrame) -> None:
    assert answer(claim_of(direction="lower", task="adapt", metric="x"), rows).reason == "no rows of task adapt"
    lost = claim_of(direction="lower", task="latency", metric="of_ceiling")
    assert "have no metric of_ceiling (an older version of the task)" in answer(lost, rows).reason
    none = claim_of(direction="lower", **over(PREFILL, a=Party(architecture=("mamba", "s4d"))))
    assert answer(none, rows).reason == "no rows of architecture mamba or s4d"
    mamba, s4d = Party(architecture=("mamba",)), Party(architecture=("s4d",))
    none_of_two = claim_of(direction="lower", **over(PREFILL, a=mamba, b=s4d))
    assert answer(none_of_two, rows).reason == "no rows of architecture mamba and no rows of architecture s4d"
    mambas = make_rows(timing_rows([dataclasses.replace(TTT, name="mamba-x")], (2048,), num_rounds=4))
    s4ds = make_rows(timing_rows([dataclasses.replace(TTT, name="s4d-x")], (2048,), num_rounds=4))
    found = rule_on([none_of_two], {"none": rows, "mamba": mambas}).answers[0]
    assert found.reason == "no rows of architecture s4d"
    apart = rule_on([none_of_two], {"mamba": mambas, "s4d": s4ds}).answers[0]
    assert apart.reason == "no rows of architecture s4d; elsewhere no rows of architecture mamba"
    other = rows.copy()
    other.loc[other["architecture"] == "ttt", "threads"] = 1
    other.attrs = rows.attrs
    found = answer(claim_of(direction="lower", **PREFILL), other)
    assert "measured under the same settings" in found.reason
    assert rule_on([none], {}).answers[0].reason == "no rows"


def test_failed_cells_and_empty_rows_are_no_evidence() -> None:
    dead = dataclasses.replace(TTT, failures={2048: ("oom", "out of memory")})
    rows = make_rows(timing_rows([TRANSFORMER, dead], (2048,), num_rounds=4))
    assert answer(claim_of(direction="lower", **PREFILL), rows).reason == "no rows of architecture ttt"


def test_intervals_of_all_that_can_decide_hold_together(rows: pd.DataFrame) -> None:
    claims = [
        claim_of(direction="higher", name="one", **PREFILL),
        claim_of(direction="higher", name="two", **BITS),
        claim_of("constant", name="exact", task="memory", metric="state_bytes", statistic="spread", **ALONE),
        claim_of(direction="higher", name="far", scope=Scope(says="GPU", devices=("cuda",)), **PREFILL),
    ]
    alone, together = rule_on(claims[:1], {"here": rows}), rule_on(claims, {"here": rows})
    assert (alone.num_family, alone.level) == (1, 0.95)
    assert (together.num_family, together.level) == (2, pytest.approx(0.975))
    levels = [ruling.findings[0].level for ruling in together.answers]
    assert levels == [pytest.approx(0.975), pytest.approx(0.975), None, 0.95]
    widths = []
    for found in (alone, together):
        low, high = found.answers[0].findings[0].measured.ends()  # type: ignore[misc,union-attr]  # it has an interval
        widths.append(math.log(high / low))
    assert widths[1] > widths[0]
    assert together.of(claims[:1]).level == together.level


def test_of_the_same_checkpoints_the_first_source_counts(rows: pd.DataFrame) -> None:
    edited = rows.copy()
    edited.loc[edited["architecture"] == "transformer", "call_s"] *= 10
    edited.attrs = rows.attrs
    claim = claim_of(direction="lower", **PREFILL)
    assert answer(claim, rows, later=edited).decision == CONTRADICTED
    assert answer(claim, edited, later=rows).decision == SUPPORTED
    assert len(answer(claim, rows, later=edited).findings) == 1
    # rows that cannot be measured do not stand before others that can
    few = rows.loc[rows["round"] < 2]
    few.attrs = rows.attrs
    assert [each.candidate.source for each in answer(claim, few, later=rows).findings] == ["here"]


def test_cells_of_a_finding_are_those_of_its_rows(rows: pd.DataFrame) -> None:
    finding = answer(claim_of(direction="lower", **PREFILL), rows).findings[0]
    mine = rows.loc[(rows["task"] == "latency") & (rows["context_len"] == 2048)]
    assert set(finding.cells()) == set(mine["cell_id"])


def test_proportions_and_odd_names_are_told_too() -> None:
    models = [Model(name="transformer-模型 [bold]", hit_rate=0.1), Model(name="ttt-é", hit_rate=1.0)]
    rows = make_rows(needle_rows(models, (512,)))
    found = answer(claim_of(direction="higher", task="needle", metric="retrieval"), rows)
    assert found.decision == SUPPORTED
    assert found.findings[0].candidate.b is not None
    assert found.findings[0].candidate.b.told() == "transformer-模型 [bold]"
