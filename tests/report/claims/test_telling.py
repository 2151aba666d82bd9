"""Answers to claims as people and machines read them, on the results that ship with the package."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.report.claims import telling
from ttbench.report.claims.claim_files import field_claims, read_claims
from ttbench.report.claims.printed import Borne, all_borne_out
from ttbench.report.claims.ruling import CONTRADICTED, NOT_DECIDED, SUPPORTED, Rulings, rule_on
from ttbench.store.rows import read_rows, tasks_in

ROOT = Path(__file__).parents[3]
SOURCES = ("latency", "memory", "adapt")


@pytest.fixture(scope="module")
def sources() -> dict[str, pd.DataFrame]:
    return {f"results/{name}/cpu": read_rows(ROOT / "results" / name / "cpu" / "rows.parquet") for name in SOURCES}


@pytest.fixture(scope="module")
def rulings(sources: dict[str, pd.DataFrame]) -> Rulings:
    return rule_on(field_claims(), sources)


@pytest.fixture(scope="module")
def borne() -> dict[str, Borne]:
    return all_borne_out(field_claims())


def text_of(rulings: Rulings, borne: dict[str, Borne], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(telling.details(rulings, borne))
    return out.getvalue()


def test_claims_that_no_scale_limits_are_decided_on_the_zoo(rulings: Rulings) -> None:
    found = {ruling.claim.id: ruling.decision for ruling in rulings.answers}
    for name in ("ttt-state-constant", "flash-attention-linear-memory", "svf-fewer-parameters", "two-passes-cost-time"):
        assert found[name] == SUPPORTED, name
    assert CONTRADICTED not in found.values()
    assert found["ttt-linear-faster-from-8k"] == NOT_DECIDED
    # three contexts on a machine whose speed changed: the interval of the curvature reaches below 0
    (quadratic,) = (ruling for ruling in rulings.answers if ruling.claim.id == "attention-quadratic")
    assert (quadratic.decision, quadratic.reason) == (NOT_DECIDED, "the interval lies across the margin")


def test_a_million_parameters_on_a_cpu_decide_nothing_about_a_billion_on_a_gpu(rulings: Rulings) -> None:
    (ruling,) = (each for each in rulings.answers if each.claim.id == "ttt-linear-faster-from-8k")
    assert ruling.direction == "the same way"
    assert "size 1.1 M, 1.0 M; device cpu" in ruling.reason


def test_swapped_sides_turn_every_finding_round_and_a_turned_direction_turns_it_back(
    sources: dict[str, pd.DataFrame],
) -> None:
    turned = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED, NOT_DECIDED: NOT_DECIDED}
    compared = [claim for claim in field_claims() if claim.cell.b is not None and claim.rule == "superior"]
    swapped, back = [], []
    for claim in compared:
        assert claim.cell.b is not None
        cell = dataclasses.replace(claim.cell, a=claim.cell.b, b=claim.cell.a)
        swapped.append(dataclasses.replace(claim, cell=cell))
        other = "higher" if cell.direction == "lower" else "lower"
        back.append(dataclasses.replace(claim, cell=dataclasses.replace(cell, direction=other)))
    straight = _decisions(rule_on(compared, sources), swap=False)
    assert {SUPPORTED, NOT_DECIDED} <= {each for decisions in straight.values() for each in decisions.values()}
    round_about = _decisions(rule_on(swapped, sources), swap=True)
    for name, decisions in straight.items():
        assert round_about[name] == {pair: turned[decision] for pair, decision in decisions.items()}
    assert _decisions(rule_on(back, sources), swap=True) == straight


def _decisions(rulings: Rulings, *, swap: bool) -> dict[str, dict[tuple[str, str], str]]:
    """Decisions by claim and by its pair of sides, as the claim names them."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for ruling in rulings.answers:
        mine = found.setdefault(ruling.claim.id, {})
        for finding in ruling.findings:
            candidate = finding.candidate
            assert candidate.b is not None
            a, b = candidate.a.told(), candidate.b.told()
            mine[(b, a) if swap else (a, b)] = finding.decision
    return found


def test_a_claim_is_told_with_its_source_its_rule_and_its_rows(rulings: Rulings, borne: dict[str, Borne]) -> None:
    (claim,) = (claim for claim in field_claims() if claim.id == "two-passes-cost-time")
    text = " ".join(text_of(rulings.of([claim]), borne, 100).split())
    assert text.startswith("two-passes-cost-time: supported Reading a prompt twice")
    assert "said by: Sun, Cetin and Tang 2025, arXiv:2501.06252, table 3" in text
    assert "rule: superior: pass2_s (adapt) of a is higher than that of b" in text
    told = re.search(r"transformer, strategy prompt against transformer, strategy base at 256: ([\d.]+)", text)
    ratios = pd.read_csv(ROOT / "results" / "adapt" / "cpu" / "table.csv").query("strategy == 'prompt'")
    (ratio,) = ratios.loc[ratios["metric"] == "pass_ratio", "value"].tolist()
    assert told is not None
    # pass 1 and pass 2 of the prompt, over pass 2 of the base
    assert float(told[1]) == pytest.approx(1 + ratio, rel=0.1)
    assert "3 rounds): supported (results/adapt/cpu, cells " in text
    assert "the paper's own numbers: holds (3 of 3, copied from others)" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_nothing_is_cut_on_a_narrow_terminal(rulings: Rulings, borne: dict[str, Borne], width: int) -> None:
    text = text_of(rulings, borne, width)
    assert max(map(len, text.splitlines())) <= max(width, 60)
    assert "…" not in text
    for ruling in rulings.answers:
        assert "".join(ruling.claim.statement.split()) in "".join(text.split())


def test_the_closing_says_how_many_were_decided_and_how_sure_the_family_is(rulings: Rulings) -> None:
    text = telling.closing(rulings)
    counts = rulings.counts()
    assert f"{len(field_claims())} claims: {counts[SUPPORTED]} supported, 0 contradicted" in text
    assert f"{rulings.num_family} findings within a scope have intervals" in text
    assert "so that all hold together in 95 of 100 (Bonferroni)" in text
    assert "the same way for 1" in text


def test_records_are_plain_and_complete(rulings: Rulings, borne: dict[str, Borne]) -> None:
    document = json.loads(json.dumps(telling.records(rulings, borne), allow_nan=False))
    assert [entry["id"] for entry in document["claims"]] == [claim.id for claim in field_claims()]
    (entry,) = (each for each in document["claims"] if each["id"] == "ttt-state-constant")
    assert entry["findings"][0]["effect"] == 1.0
    assert entry["findings"][0]["a"] == "ttt-linear"
    assert entry["published"]["num_compared"] == 0
    assert document["counts"][SUPPORTED] == sum(each["decision"] == SUPPORTED for each in document["claims"])


def test_tasks_of_a_file_are_known_without_its_rows() -> None:
    assert tasks_in(ROOT / "results" / "bench" / "cpu" / "rows.parquet") == ("perplexity",)


MEMORY = str(ROOT / "results" / "memory" / "cpu")
OWN = """\
claims:
  - id: mine
    statement: The state of a transformer does not grow.
    sources:
      - {kind: press, outlet: Nobody, work: Nothing}
    scope: {says: anything}
    cell:
      task: memory
      metric: state_bytes
      statistic: spread
      a: {architecture: [transformer]}
    rule: constant
    not_printed: nobody said so
"""


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["claims", *words], env={"COLUMNS": "120"})
    return done.exit_code, done.output


def test_the_command_answers_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    code, output = run("--claims", str(path), "--run", MEMORY)
    assert code == 0
    assert "contradicted" in output
    assert "1 claim: 0 supported, 1 contradicted, 0 not decided" in output
    code, output = run("mine", "--claims", str(path), "--run", MEMORY, "--json")
    assert (code, json.loads(output)["claims"][0]["decision"]) == (0, "contradicted")
    path.write_text(OWN.replace("constant", "steady"))
    code, output = run("--claims", str(path), "--run", MEMORY)
    assert code == 2
    assert "mine.yaml:12: rule must be superior" in output


def test_what_does_not_exist_is_bad_input(tmp_path: Path) -> None:
    code, output = run("ttt-state-constand", "--run", MEMORY)
    assert code == 2
    assert "did you mean 'ttt-state-constant'" in output
    assert run("--run", "no-such-run", "--out", str(tmp_path))[0] == 2
    code, output = run("--claims", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "none.yaml" in output


def test_one_claim_has_the_intervals_of_all() -> None:
    code, output = run("two-passes-cost-time", "--run", str(ROOT / "results" / "adapt" / "cpu"))
    assert code == 0
    assert "3 findings within a scope have intervals" in output


def test_the_page_lists_the_claims_as_their_files_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    made = importlib.import_module("claims")
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.page(text) == text, "make columns"
    assert all(f"### `{claim.id}`" in text for claim in field_claims())


def test_the_example_on_the_page_is_a_claim(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    path = tmp_path / "example.yaml"
    path.write_text(text.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    (claim,) = read_claims([path])
    assert claim.id == "mine-decodes-faster"
