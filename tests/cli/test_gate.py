"""`ttbench gate` as CI meets it: exit codes, files, and fresh rounds of what is slower."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.cli.commands import gate_command
from ttbench.machine import measure
from ttbench.runs.options import Options, to_json
from ttbench.runs.plan import Plan
from ttbench.runs.sweep import RunResult, plan_target
from ttbench.store.record import CellRecord, now
from ttbench.store.rows import metadata, parquet_bytes, read_rows
from ttbench.store.store import Store
from ttbench.tasks.latency import Latency
from ttbench.types import Cell, Sample

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "results/bench/cpu"
NUMBERS = read_rows(BENCH / "rows.parquet")["cell_id"].nunique()
OPTIONS: Options = {"ctx": "64", "checkpoints": ("ttt-linear",), "params": {"rounds": 10}, "threads": 1}
PREFILL = "latency, ttt-linear: prefill at 64"


def gate(*words: str, status: int) -> Any:
    done = CliRunner().invoke(app, ["gate", *words])
    assert done.exit_code == status, done.output
    return done


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNNER_ENVIRONMENT", raising=False)
    # so that no cell of a table breaks
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


def edited(folder: Path, **changes: Any) -> Path:
    """The published rows of the bench, with other entries for ttt-linear; a function makes them from what was."""
    rows = read_rows(BENCH / "rows.parquet")
    mine = rows["checkpoint"] == "ttt-linear"
    for name, value in changes.items():
        rows.loc[mine, name] = value(rows.loc[mine, name]) if callable(value) else value
    folder.mkdir()
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(metadata(rows.attrs))
    (folder / "rows.parquet").write_bytes(parquet_bytes(table))
    return folder


# Exit codes and files


def test_published_rows_against_themselves_are_green(here: Path) -> None:
    done = gate(str(BENCH), "--baseline", str(BENCH), status=0)
    assert done.stdout.startswith(f"green ({NUMBERS} quality numbers); ")


def test_an_injected_quality_loss_is_red_in_every_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worse = edited(here / "worse", nats=lambda nats: nats * 1.02)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    (here / "summary.md").write_text("before\n")
    files = ["--markdown", "gate.md", "--junit", "gate.xml", "--step-summary"]
    done = gate(str(worse), "--baseline", str(BENCH), *files, status=3)
    assert "perplexity, ttt-linear: bits per byte at 1k" in " ".join(done.stdout.split())
    assert f"error: red: 12 of {NUMBERS}" in done.stderr
    text = (here / "gate.md").read_text(encoding="utf-8")
    assert text.startswith(f"### ttbench gate: red: 12 of {NUMBERS}")
    assert (here / "summary.md").read_text(encoding="utf-8") == f"before\n{text}"
    suites = ET.parse(here / "gate.xml").getroot()
    assert (suites.get("tests"), suites.get("failures")) == (str(NUMBERS), "12")
    failed = [case.get("classname") for case in suites.iter("testcase") if case.find("failure") is not None]
    assert failed == ["perplexity.ttt-linear"] * 12
    found = json.loads(gate(str(worse), "--baseline", str(BENCH), "--json", status=3).stdout)
    assert (found["verdict"], sum(line["red"] for line in found["lines"])) == ("red", 12)


def test_a_lost_checkpoint_is_red(here: Path) -> None:
    renamed = edited(here / "renamed", checkpoint="another")
    done = gate(str(renamed), "--baseline", str(BENCH), status=3)
    assert "lost" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--baseline", str(BENCH)], "no run named 'nowhere'"),
        ([str(BENCH), "--baseline", "nowhere"], "no run named 'nowhere'"),
        ([str(BENCH), "--baseline", str(BENCH), "--task", "perplexty"], "did you mean 'perplexity'?"),
        ([str(BENCH), "--baseline", str(BENCH), "--margin", "wide"], "'wide' is no margin"),
        ([str(BENCH), "--baseline", str(BENCH), "--margin", "-1"], "'-1' is no margin"),
        ([str(BENCH), "--baseline", str(BENCH), "--margin", "nan"], "'nan' is no margin"),
        ([str(BENCH), "--baseline", str(BENCH), "--margin", "bits=1"], "a margin is given for 'bits'"),
        ([str(BENCH), "--baseline", str(BENCH), "--step-summary"], "--step-summary needs GITHUB_STEP_SUMMARY"),
        ([str(BENCH), "--baseline", str(BENCH), "--junit", "no/such/gate.xml"], "cannot write no/such/gate.xml"),
        ([str(BENCH)], "Missing option '--baseline'"),
    ],
)
def test_bad_input_is_exit_code_2(here: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    said = " ".join(gate(*words, status=2).stderr.replace("│", " ").split())
    assert message in said


# Times


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_target("latency", OPTIONS, out="nowhere")


def measured(plan: Plan, root: Path, name: str, *, seed: int, prefill_s: float, options: Mapping[str, Any]) -> Store:
    """A run of the latency of one checkpoint, ten rounds, whose seconds are made up."""
    rng = np.random.default_rng(seed)
    store = Store.create(
        root,
        name=name,
        command="ttbench run latency",
        options=options,
        cells=plan.cells,
        environment=measure.environment({}),
    )
    for cell in plan.cells:
        seconds = prefill_s * float(np.exp(0.02 * rng.standard_normal()))
        store.write_cell(record_of(cell, seconds))
    store.write_rows()
    return store


def record_of(cell: Cell, seconds: float) -> CellRecord:
    sample = Sample(keys={"phase": "prefill"}, values={"call_s": seconds, "wall_s": seconds, "num_tokens": 64})
    return CellRecord(
        cell=cell,
        status="ok",
        reason=None,
        started=now(),
        cell_s=1.0,
        cell_cpu_s=1.0,
        load_average=0.0,
        engine="eager",
        kernel_path={},
        metrics=tuple(metric for metric in Latency.metrics if metric.name == "prefill_s"),
        samples=(sample,),
    )


ASKED: dict[str, Any] = {"target": "latency", **to_json(OPTIONS), "out": "runs", "fresh": False}


@pytest.fixture
def slower(here: Path, plan: Plan) -> Path:
    """Folder of runs: `baseline`, and `slow`, in which the same takes a fifth longer."""
    measured(plan, here / "runs", "baseline", seed=1, prefill_s=0.010, options=ASKED)
    measured(plan, here / "runs", "slow", seed=2, prefill_s=0.012, options=ASKED)
    return here / "runs"


def judge_slow(*words: str, status: int) -> Any:
    return gate("slow", "--baseline", "baseline", "--timing", *words, status=status)


def lay_fresh(monkeypatch: pytest.MonkeyPatch, plan: Plan, *, prefill_s: float) -> list[Plan]:
    """Let fresh rounds take so long, without starting a process; the plans that were run."""
    asked: list[Plan] = []

    def run_cells(todo: Plan, *, out: Path, name: str, options: Mapping[str, Any], **rest: Any) -> RunResult:
        assert rest["fresh"]
        asked.append(todo)
        store = measured(todo, out, name, seed=3, prefill_s=prefill_s, options=options)
        return RunResult(folder=store.folder, statuses=store.done(), num_reused=0, seconds=1.0)

    monkeypatch.setattr(gate_command, "run_cells", run_cells)
    return asked


@pytest.mark.parametrize(("fresh_s", "status"), [(0.012, 3), (0.010, 0)])
def test_what_is_slower_is_measured_again_and_red_only_if_it_is_slower_again(
    slower: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, fresh_s: float, status: int
) -> None:
    asked = lay_fresh(monkeypatch, plan, prefill_s=fresh_s)
    done = judge_slow(status=status)
    assert [len(todo.cells) for todo in asked] == [10]
    assert {cell.cell_id for cell in asked[0].cells} == {cell.cell_id for cell in plan.cells}
    assert "1 time slower: measuring 10 cells again" in done.stderr
    assert ("red: 1 of 1 (1 time)" in done.stderr) == (status == 3)


def test_a_second_run_may_be_named_and_then_nothing_is_measured(slower: Path, plan: Plan) -> None:
    measured(plan, slower, "fresh", seed=4, prefill_s=0.012, options=ASKED)
    done = judge_slow("--again", "fresh", status=3)
    assert PREFILL in " ".join(done.stdout.split())
    assert "needs more" in done.stdout


def test_a_run_that_does_not_say_how_it_was_measured_must_be_measured_again_by_hand(here: Path, plan: Plan) -> None:
    measured(plan, here / "runs", "baseline", seed=1, prefill_s=0.010, options={})
    measured(plan, here / "runs", "slow", seed=2, prefill_s=0.012, options={})
    done = judge_slow("--markdown", "gate.md", status=2)
    assert "must be measured again before they can be judged" in done.stderr
    assert "needs more, to be confirmed" in (here / "gate.md").read_text(encoding="utf-8")


def test_code_that_changed_since_cannot_confirm(slower: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_command, "plan_target", lambda *words, **options: Plan(cells=(), skips=(), estimates={}))
    said = judge_slow(status=2).stderr
    assert "10 cells of slow cannot be measured again: code or packages have changed since" in said


def test_on_a_hosted_runner_times_are_shown_at_most(slower: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "github-hosted")
    done = judge_slow(status=0)
    assert "a hosted runner" in " ".join(done.stdout.split())
    monkeypatch.setenv("RUNNER_ENVIRONMENT", "self-hosted")
    lay_fresh(monkeypatch, plan_target("latency", OPTIONS, out="nowhere"), prefill_s=0.012)
    judge_slow(status=3)
