"""Claims of the field on rows that are within their scope: the same rules, and answers that move with the rows."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
from rows import METRICS, Model, make_rows, perplexity_rows, timing_rows

from ttbench.report.claims import telling
from ttbench.report.claims.claim_files import field_claims
from ttbench.report.claims.printed import Borne
from ttbench.report.claims.ruling import CONTRADICTED, NOT_DECIDED, SUPPORTED, Ruling, rule_on
from ttbench.tasks.latency import Latency

FIELD = {claim.id: claim for claim in field_claims()}
LARGE = {"num_params": 1_300_000_000, "device": "cuda"}
PILE = {"num_params": 1_300_000_000, "corpus": "hf:monology/pile-uncopyrighted"}


def model(architecture: str, *, of: dict[str, Any] | None = None, **options: Any) -> Model:
    attention = "sdpa" if architecture == "transformer" else "none"
    settings = {"architecture": architecture, "attention": attention, **(LARGE if of is None else of)}
    return Model(name=f"{architecture}-large", settings=settings, **options)


def answer(name: str, rows: pd.DataFrame) -> Ruling:
    return rule_on([FIELD[name]], {"runs/": rows}).answers[0]


@pytest.mark.parametrize(("speed", "decision"), [(0.5, SUPPORTED), (2.0, CONTRADICTED), (1.0, NOT_DECIDED)])
def test_ttt_linear_against_a_transformer_of_a_billion_parameters_on_a_gpu(speed: float, decision: str) -> None:
    models = [model("transformer"), model("ttt-linear", speed=speed)]
    found = answer("ttt-linear-faster-from-8k", make_rows(timing_rows(models, (4096, 8192))))
    assert (found.decision, found.direction) == (decision, "")
    assert found.findings[0].candidate.contexts == (8192, 8192)


@pytest.mark.parametrize(("speed", "decision"), [(1.0, SUPPORTED), (1.3, CONTRADICTED), (1.1, NOT_DECIDED)])
def test_to_match_is_to_lie_within_a_tenth(speed: float, decision: str) -> None:
    models = [model("mamba"), model("ttt-linear", speed=speed)]
    rows = make_rows(timing_rows(models, (8192,), num_rounds=6))
    assert answer("ttt-linear-matches-mamba-time", rows).decision == decision


@pytest.mark.parametrize(
    ("bits", "decision"), [(1.40, SUPPORTED), (1.50, SUPPORTED), (1.505, NOT_DECIDED), (1.60, CONTRADICTED)]
)
def test_no_worse_than_a_transformer_means_by_less_than_what_matters(bits: float, decision: str) -> None:
    models = [model("transformer", of=PILE, train_ctx=8192), model("ttt-linear", of=PILE, train_ctx=8192, bits=bits)]
    rows = make_rows(perplexity_rows(models, (8192,), noise=0.001))
    assert answer("ttt-matches-transformer", rows).decision == decision


def test_a_gain_from_16k_to_32k_is_of_models_trained_there() -> None:
    books = PILE | {"corpus": "hf:emozilla/pg19"}
    short = Model(name="short", train_ctx=16384, settings={**books, "architecture": "ttt-linear"})
    long = Model(name="long", train_ctx=32768, settings={**books, "architecture": "ttt-linear"})
    rows = make_rows(perplexity_rows([short, long], (16384, 32768), noise=0.001))
    found = answer("ttt-keeps-improving", rows)
    assert found.decision == SUPPORTED
    scoped = [finding.candidate for finding in found.findings if finding.in_scope]
    assert [(each.a.checkpoint, each.b.checkpoint if each.b else None) for each in scoped] == [("long", "short")]
    # one model at both contexts is another experiment, whose direction is told only
    alone = rows.loc[rows["checkpoint"] == "long"]
    alone.attrs = rows.attrs
    found = answer("ttt-keeps-improving", alone)
    assert (found.decision, found.direction) == (NOT_DECIDED, "the same way")
    assert "training context 32k" in found.reason


def rooflines(*, flops_s: float, bytes_s: float) -> pd.DataFrame:
    """Rows of TTT-MLP whose calls need so many seconds by each ceiling."""
    rows = timing_rows([model("ttt-mlp")], (8192,))
    ceilings = {"ceiling_flops_per_s": 1e12, "ceiling_bytes_per_s": 1e11}
    work = {"call_flops": flops_s * 1e12, "call_bytes": bytes_s * 1e11, **ceilings}
    parts = [row | work if row["task"] == "latency" else row for row in rows]
    return make_rows(parts, metrics={**METRICS, "latency": Latency.metrics})


@pytest.mark.parametrize(
    ("flops_s", "bytes_s", "decision"), [(1.0, 3.0, SUPPORTED), (3.0, 1.0, CONTRADICTED)], ids=["memory", "arithmetic"]
)
def test_the_roofline_says_what_holds_a_model_up(flops_s: float, bytes_s: float, decision: str) -> None:
    found = answer("ttt-mlp-memory-bound", rooflines(flops_s=flops_s, bytes_s=bytes_s))
    finding = found.findings[0]
    assert finding.measured is not None
    assert finding.measured.estimate.value == pytest.approx(bytes_s / flops_s)
    # the times of the calls cancel, so that every round gives the same number
    assert (finding.measured.exact, found.decision) == (True, decision)


@pytest.mark.parametrize("value", [math.inf, 0.0, -1.0])
@pytest.mark.parametrize("name", ["ttt-linear-faster-from-8k", "attention-quadratic", "ttt-mlp-memory-bound"])
def test_numbers_that_are_no_times_decide_nothing_and_break_nothing(name: str, value: float) -> None:
    models = [model("transformer"), model("ttt-linear"), model("ttt-mlp")]
    rows = timing_rows(models, (4096, 8192))
    extra = {"call_flops": 1e12, "call_bytes": 1e11, "ceiling_flops_per_s": 1e12, "ceiling_bytes_per_s": 1e11}
    parts = [row | extra for row in rows if row["task"] == "latency"]
    broken = [row | {"call_s": value} if row["phase"] == "prefill" and row["round"] == 0 else row for row in parts]
    found = answer(name, make_rows(broken, metrics={**METRICS, "latency": Latency.metrics}))
    assert found.decision == NOT_DECIDED
    assert "not all" in found.reason or "positive numbers" in found.reason
    json.dumps(telling.records(rule_on([FIELD[name]], {}), {name: Borne(answer="")}), allow_nan=False)
