"""Claims as YAML: what is read, and every mistake with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttbench.errors import SuiteError, UnknownNameError, UsageError
from ttbench.registry import TASKS
from ttbench.report.claims.claim_files import chosen, field_claims, read_claims
from ttbench.types import Metric

GOOD = """\
claims:
  - id: faster
    statement: A reads faster than B.
    sources:
      - {kind: press, outlet: A Paper, work: An article}
    scope: {says: anything}
    cell:
      task: latency
      metric: prefill_s
      a: {architecture: [ttt]}
      b: {architecture: [transformer]}
      direction: lower
    rule: superior
    not_printed: a press sentence
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "claims.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_claim_is_read_with_its_place(tmp_path: Path) -> None:
    (claim,) = read_claims([written(tmp_path, GOOD)])
    assert (claim.id, claim.cell.metric, claim.parsed_rule.kind, claim.parsed_rule.margin) == (
        "faster",
        "prefill_s",
        "superior",
        0.0,
    )
    assert claim.where.endswith("claims.yaml:2")
    assert claim.sources[0].told() == "A Paper, An article"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("id: faster", "id: Faster!", 2, "id must be small letters and digits joined by -"),
        ("rule: superior", "rule: better", 13, "superior, non-inferior\\(M\\), equivalent\\(M\\) or constant"),
        ("rule: superior", "rule: equivalent", 2, "rule equivalent needs a margin above 0"),
        ("rule: superior", "rule: equivalent(0)", 2, "rule equivalent needs a margin above 0"),
        ("rule: superior", "rule: non-inferior(1e-e)", 2, "is no number"),
        ("rule: superior", "rule: non-inferior(0.1)", 2, "needs 'margin_source'"),
        ("rule: superior", "rule: constant", 2, "rule constant has no direction"),
        ("direction: lower", "direction: down", 12, "one of lower, higher"),
        ("      direction: lower\n", "", 2, "rule superior needs a direction"),
        ("b: {architecture: [transformer]}", "statistic: slope", 2, "statistic slope needs a reference"),
        ("      b: {architecture: [transformer]}\n", "", 2, "a comparison needs party b"),
        ("direction: lower", "direction: lower\n      reference: 1.0", 2, "statistic comparison has no reference"),
        ("direction: lower", "direction: lower\n      over: [x]", 2, "belong to statistic number"),
        ("a: {architecture: [ttt]}", "a: {architecture: [ttt], context: 8192}", 2, "needs one of the other"),
        ("kind: press, outlet: A Paper", "kind: press", 2, "needs 'outlet'"),
        ("kind: press, outlet: A Paper", "kind: paper", 2, "needs 'place'"),
        ("    not_printed: a press sentence\n", "", 2, "either 'printed'"),
        ("scope: {says: anything}", "scope: {says: x, least_params: 9, most_params: 8}", 2, "9 is above most_params 8"),
        ("scope: {says: anything}", "scope: {says: ''}", 6, "a text that says something"),
        ("statement:", "sentence:", 3, "unknown key 'sentence'"),
        ("metric: prefill_s", "metric: 3", 9, "metric must be a text"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UsageError, match=said) as caught:
        read_claims([path])
    assert f"claims.yaml:{line}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "claims: []\n", "claim: 3\n", "- a\n", "claims:\n  - id: [\n"])
def test_a_file_without_claims_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SuiteError, match=r"claims\.yaml"):
        read_claims([written(tmp_path, text)])


def test_an_id_stands_once(tmp_path: Path) -> None:
    twice = GOOD + GOOD.removeprefix("claims:\n")
    with pytest.raises(SuiteError, match=r"claims\.yaml:15: claim 'faster' stands already at .*claims\.yaml:2"):
        read_claims([written(tmp_path, twice)])


def test_an_unknown_id_gets_the_nearest(tmp_path: Path) -> None:
    known = read_claims([written(tmp_path, GOOD)])
    with pytest.raises(UnknownNameError, match="did you mean 'faster'"):
        chosen(known, ["fastr"])
    assert chosen(known, ["faster", "faster"]) == known


def test_the_claims_of_the_field_ask_for_what_tasks_declare() -> None:
    claims = field_claims()
    assert len(claims) >= 25
    for claim in claims:
        task = TASKS.load(claim.cell.task)
        metrics: dict[str, Metric] = {metric.name: metric for metric in task.metrics}
        cell = claim.cell
        parties = [party for party in (cell.a, cell.b) if party is not None]
        names = {cell.metric, *cell.times, *cell.over, *(name for party in parties for name in party.plus)}
        assert names <= metrics.keys(), claim.id
        # one number: every axis but the context has its place
        axes = set(metrics[cell.metric].axes) - {"context_len"}
        assert all(set(party.axes) == axes for party in parties), claim.id
        # a direction agrees with what the metric calls better, or says why not: a cost that is claimed
        if claim.rule.startswith("constant"):
            assert metrics[cell.metric].statistic == "count"


def test_the_claims_that_the_field_argues_about_are_there() -> None:
    ids = {claim.id for claim in field_claims()}
    assert ids >= {
        "ttt-keeps-improving",
        "mamba-stops-at-16k",
        "ttt-linear-faster-from-8k",
        "ttt-linear-matches-mamba-time",
        "ttt-state-constant",
        "attention-quadratic",
        "state-space-near-linear",
        "titans-beyond-2m",
        "titans-needles",
        "ttt-mlp-memory-bound",
        "ttt-matches-transformer",
        "ttt-matches-mamba",
        "flash-attention-exact",
        "flash-attention-linear-memory",
        "svf-fewer-parameters",
        "two-passes-cost-time",
    }
    assert sum(name.startswith("ttt-ablation-") for name in ids) == 7
