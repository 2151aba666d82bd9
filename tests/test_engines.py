"""Engine and attention as settings of a run: what cells say, what is skipped, and one checkpoint under two engines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ttbench
from ttbench.checkpoints.checkpoint import resolve
from ttbench.engines.kinds import check_engine, load_engine
from ttbench.errors import UnknownNameError, UsageError
from ttbench.report import words
from ttbench.report.comparison.compare import compare
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan
from ttbench.runs.progress import Outlook
from ttbench.runs.request import plan_task
from ttbench.runs.suite import load_suite
from ttbench.store.collected import table
from ttbench.store.rows import frame
from ttbench.store.store import Store, run_folders
from ttbench.types import Cell


def lay_out(fakes: ModuleType, **options: Any) -> Plan:
    attending = dataclasses.replace(fakes.checkpoint("a"), attention=("sdpa", "flash"))
    return plan_task("fake-quality", Options(checkpoints=(attending, fakes.checkpoint("b")), threads=1, **options))


def test_cells_say_which_attention_runs_and_none_where_there_is_none(fakes: ModuleType) -> None:
    for asked, expected in ((None, "sdpa"), ("flash", "flash")):
        plan = lay_out(fakes, **({} if asked is None else {"attention": asked}))
        assert {(cell.checkpoint.name, cell.attention) for cell in plan.cells} == {("a", expected), ("b", "none")}


def test_what_a_checkpoint_cannot_attend_with_is_an_answer(fakes: ModuleType) -> None:
    plan = lay_out(fakes, attention="eager")
    assert {cell.checkpoint.name for cell in plan.cells} == {"b"}
    assert {skip.reason for skip in plan.skips} == {
        "'a' cannot attend with eager under engine eager; it has sdpa, flash"
    }


@pytest.mark.parametrize(("name", "value"), [("attention", "flsh"), ("engine", "hff")])
def test_unknown_names_are_refused(fakes: ModuleType, name: str, value: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown {name} '{value}'; did you mean"):
        lay_out(fakes, **{name: value})


def test_a_suite_may_name_engine_and_attention(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("title: x\ntasks:\n  - {task: latency, engine: hf, attention: eager}\n")
    entry = load_suite(path).tasks[0]
    assert entry.options == {"engine": "hf", "attention": "eager"}


def test_a_checkpoint_without_a_formula_is_planned_without_work(fakes: ModuleType) -> None:
    plain = dataclasses.replace(fakes.checkpoint("a"), cost=None)
    plan = plan_task("fake-quality", Options(checkpoints=(plain,), threads=1))
    assert {(estimate.flops, estimate.state_bytes) for estimate in plan.estimates.values()} == {(None, None)}
    assert (plan.flops, plan.state_bytes) == (0.0, 0)
    assert Outlook(plan, plan.cells).seconds_left() is None
    assert Cell.from_json(plan.cells[0].to_json()) == plan.cells[0]


def test_a_checkpoint_resolved_for_one_engine_is_not_opened_with_another() -> None:
    with pytest.raises(UsageError, match="'transformer' was resolved for another engine than hf"):
        load_engine(resolve("transformer"), device="cpu", dtype="float32", attention=None, engine="hf")


def test_one_checkpoint_runs_under_two_engines_and_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for engine in ("eager", "hf"):
        ttbench.run(
            "perplexity",
            checkpoints=["transformer"],
            ctx=256,
            limit=1,
            params={"windows": 2},
            engine=engine,
            threads=1,
            out=tmp_path,
        )
    records = [record for folder in run_folders(tmp_path) for record in Store(folder).records()]
    assert {(record.engine, record.status, record.choices.get("cache")) for record in records} == {
        ("eager", "ok", None),
        ("hf", "ok", "chunks"),
    }
    rows = frame(table(records))
    found = words.records(compare(rows, "transformer@engine=eager", "transformer@engine=hf"))
    assert [entry["metric"] for entry in found] == ["bits_per_byte", "perplexity"]
    assert found[0]["effect"] == pytest.approx(0, abs=1e-5)


def test_engine_graph_is_refused_on_a_processor_before_anything_is_read(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any, **__: Any) -> Any:
        raise AssertionError("a checkpoint is resolved only for an engine that can run")

    monkeypatch.setattr("ttbench.checkpoints.checkpoint.resolve", read)
    words = "engine graph runs on cuda, not on cpu; add --device cuda, or use --engine eager"
    for ask in (
        lambda: ttbench.run("latency", checkpoints=["transformer"], engine="graph", out=tmp_path),
        lambda: ttbench.plan("latency", checkpoints=["transformer"], engine="graph", out=tmp_path),
        lambda: ttbench.load("transformer", engine="graph"),
        lambda: check_engine("transformer", device="cpu", dtype="float32", engine="graph"),
    ):
        with pytest.raises(UsageError, match=words):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_a_graph_holds_no_attention_without_a_mask() -> None:
    plain, graph = (resolve("transformer", engine=engine) for engine in ("eager", "graph"))
    assert "flash" in plain.attention
    assert graph.attention == tuple(name for name in plain.attention if name != "flash")
    plan = plan_task(
        "latency", Options(checkpoints=(graph,), engine="graph", device="cuda", attention="flash", ctx="1k")
    )
    assert plan.cells == ()
    assert {skip.reason for skip in plan.skips} == {
        "'transformer' cannot attend with flash under engine graph; it has sdpa, eager"
    }
    assert {skip.status for skip in plan.skips} == {"unsupported"}
