"""`make results`: what it asks for can be planned, times wait for a quiet machine, and rows are published whole."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, Model, make_rows, perplexity_rows

from ttbench.registry import TASKS
from ttbench.report.published import ROWS, outdated, write_results
from ttbench.runs.plan import Plan, Skip
from ttbench.runs.suite import find_suite, load_suite
from ttbench.runs.sweep import plan_target
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import results  # noqa: E402

sys.path.pop(0)


def test_what_is_published_is_made_by_the_goal() -> None:
    published = {path.parent.parent.name for path in (ROOT / "results").rglob(ROWS)}
    assert published <= {reference.name for reference in results.REFERENCES}


@pytest.mark.parametrize("reference", results.REFERENCES, ids=lambda reference: reference.name)
def test_each_can_be_planned_and_what_holds_times_is_marked(reference: Any, tmp_path: Path) -> None:
    plan = plan_target(reference.target, reference.python_options, out=tmp_path)
    assert plan.cells or all("genomes" in skip.reason for skip in plan.skips)
    entries = load_suite(find_suite(reference.name)).tasks
    timed = any(metric.name.endswith("_s") for entry in entries for metric in TASKS.load(entry.task).metrics)
    # memory is measured in processes of its own, which others disturb
    assert reference.timed == (timed or any(entry.task == "memory" for entry in entries))


ZOO = (TRANSFORMER, TTT, Model(name="mamba2"))


def rows_of(*models: Model) -> pd.DataFrame:
    """The same rows of a model, whichever others there are."""
    own = [row for model in models for row in perplexity_rows([model], (512, 1024), num_documents=12)]
    return make_rows(own)


def plan_of(rows: pd.DataFrame) -> Plan:
    """A plan of the cells that these rows answer, in their order."""
    cells = rows[["checkpoint", "cell_id"]].drop_duplicates().itertuples(index=False)
    named: Any = [SimpleNamespace(checkpoint=SimpleNamespace(name=name), cell_id=cell) for name, cell in cells]
    return Plan(cells=tuple(named), skips=(), estimates={})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that were run; the zoo is three models of made-up rows."""
    lines: list[list[str]] = []

    def run(target: str, **options: Any) -> pd.DataFrame:
        assert target == lines[-1][1]
        names = options["checkpoints"]
        assert [word for word in lines[-1] if word in names] == ([names] if isinstance(names, str) else names)
        return rows_of(*(model for model in ZOO if names == "zoo" or model.name in names))

    monkeypatch.setattr(results, "plan_target", lambda *args, **kwargs: plan_of(rows_of(*ZOO)))
    monkeypatch.setattr(results, "ttbench_command", lines.append)
    monkeypatch.setattr(results.ttbench, "run", run)
    return lines


def published(folder: Path, *models: Model, result: str = "bench") -> Path:
    """A folder of results that holds one of these models."""
    write_results(rows_of(*models), folder / result / "cpu")
    return folder


def checkpoints(words: list[str]) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == "--checkpoint"]


def test_a_model_that_is_new_is_measured_alone_and_stands_where_it_would(
    asked: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = published(tmp_path / "results", ZOO[2], ZOO[0])
    assert results.main(["bench", "--to", str(to)]) == 0
    assert [checkpoints(words) for words in asked] == [[TTT.name]]
    assert f"published, and kept: {ZOO[0].name}, {ZOO[2].name}" in " ".join(capsys.readouterr().err.split())
    found = read_rows(to / "bench" / "cpu" / ROWS)
    whole = published(tmp_path / "whole", *ZOO) / "bench" / "cpu"
    pd.testing.assert_frame_equal(found, read_rows(whole / ROWS))
    assert (to / "bench" / "cpu" / "comparisons.csv").read_bytes() == (whole / "comparisons.csv").read_bytes()


def test_what_is_published_whole_is_not_measured_and_a_model_that_is_gone_goes(
    asked: list[list[str]], tmp_path: Path
) -> None:
    to = published(tmp_path / "results", *ZOO, Model(name="of-the-zoo-before"))
    assert results.main(["bench", "--to", str(to)]) == 0
    assert asked == []
    assert list(read_rows(to / "bench" / "cpu" / ROWS)["checkpoint"].unique()) == [model.name for model in ZOO]


@pytest.mark.parametrize("fault", ["another cell", "a cell less", "a cell lost"])
def test_a_model_without_all_its_answers_by_todays_code_is_measured_again(
    fault: str, asked: list[list[str]], tmp_path: Path
) -> None:
    rows = rows_of(*ZOO)
    of_one = (rows["checkpoint"] == TTT.name) & (rows["context_len"] == 1024)
    if fault == "another cell":
        rows.loc[of_one, "cell_id"] = "of older code"
    elif fault == "a cell lost":
        rows.loc[of_one, ["status", "reason"]] = "killed", "by the kernel"
    left = rows.loc[~of_one] if fault == "a cell less" else rows
    write_results(left, tmp_path / "bench" / "cpu")
    assert results.main(["bench", "--to", str(tmp_path)]) == 0
    assert [checkpoints(words) for words in asked] == [[TTT.name]]
    assert set(read_rows(tmp_path / "bench" / "cpu" / ROWS)["status"]) == {"ok"}


def test_a_cell_that_is_skipped_by_plan_counts_as_answered() -> None:
    rows = rows_of(*ZOO)
    skipped = (rows["checkpoint"] == TTT.name) & (rows["context_len"] == 1024)
    rows.loc[skipped, ["status", "reason"]] = "unsupported", "it reads whole windows"
    plan = plan_of(rows)
    ids = set(rows["cell_id"][skipped])
    skips = [Skip(cell=cell, status="unsupported", reason="windows") for cell in plan.cells if cell.cell_id in ids]
    left = tuple(cell for cell in plan.cells if cell.cell_id not in ids)
    assert len(skips) == 1
    assert results.kept(dataclasses.replace(plan, cells=left, skips=tuple(skips)), rows) == {
        model.name for model in ZOO
    }


def test_times_are_never_kept_and_nothing_is_where_fresh_numbers_are_asked_for(
    asked: list[list[str]], tmp_path: Path
) -> None:
    published(tmp_path, *ZOO)
    published(tmp_path, *ZOO, result="latency")
    words = ["bench", "latency", "--to", str(tmp_path)]
    assert results.main(words, is_quiet=lambda: True) == 0
    assert [(line[1], checkpoints(line)) for line in asked] == [("suite:latency", results.FIRST_SEEDS["checkpoint"])]
    assert results.main([*words, "--fresh"], is_quiet=lambda: True) == 0
    assert [(line[1], checkpoints(line)) for line in asked[1:]] == [
        ("suite:bench", ["zoo"]),
        ("suite:latency", results.FIRST_SEEDS["checkpoint"]),
    ]
    # what lies in the folder of runs answers neither times nor a fresh request
    assert ["--fresh" in line for line in asked] == [True, True, True]


def test_rows_are_published_whole_and_times_wait_for_a_quiet_machine(
    asked: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "results"
    words = ["bench", "latency", "--runs", str(tmp_path / "runs"), "--to", str(to)]
    assert results.main(words, is_quiet=lambda: False) == 1
    assert [line[1:] for line in asked] == [
        ["suite:bench", "--checkpoint", "zoo", "--limit", "40", "--out", str(tmp_path / "runs")]
    ]
    assert len(read_rows(to / "bench" / "cpu" / ROWS)) == len(rows_of(*ZOO))
    assert outdated(to / "bench" / "cpu") == []
    assert "not measured, because other programs run: latency" in " ".join(capsys.readouterr().err.split())
    assert results.main(words, is_quiet=lambda: True) == 0
    assert [line[1] for line in asked[1:]] == ["suite:latency"]


def test_a_run_that_was_stopped_publishes_nothing_and_keeps_its_exit_code(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(words: list[str]) -> None:
        raise subprocess.CalledProcessError(130, words)

    monkeypatch.setattr(results, "ttbench_command", stopped)
    assert results.main(["bench", "--to", str(tmp_path / "results")]) == 130
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("fault", ["a model less", "another cell", "a new model"])
def test_rows_that_are_not_those_planned_are_not_published(
    fault: str,
    asked: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    to = published(tmp_path, *ZOO)
    before = (to / "bench" / "cpu" / ROWS).read_bytes()
    models = {"a model less": ZOO[:2], "another cell": ZOO, "a new model": (*ZOO, Model(name="new"))}[fault]
    rows = rows_of(*models)
    if fault == "another cell":
        rows.loc[rows["cell_id"] == rows["cell_id"].iloc[-1], "cell_id"] = "of older code"
    monkeypatch.setattr(results.ttbench, "run", lambda *args, **options: rows)
    assert results.main(["bench", "--to", str(to), "--fresh"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "are not those that this code plans: it or the zoo changed meanwhile" in told
    assert (to / "bench" / "cpu" / ROWS).read_bytes() == before


def test_a_machine_that_cannot_measure_leaves_what_is_published(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = published(tmp_path, *ZOO)
    before = (to / "bench" / "cpu" / ROWS).read_bytes()
    rows = rows_of(*ZOO)
    here = (rows["checkpoint"] == TTT.name) & (rows["context_len"] == 1024)
    rows.loc[here, ["status", "reason"]] = "oom", "out of memory"
    monkeypatch.setattr(results.ttbench, "run", lambda *args, **options: rows)
    assert results.main(["bench", "--to", str(to), "--fresh"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert f"1 published number would be lost, of {TTT.name}, perplexity at 1024" in told
    assert (to / "bench" / "cpu" / ROWS).read_bytes() == before
    # where nothing is published a status is an answer
    assert results.main(["bench", "--to", str(tmp_path / "elsewhere"), "--fresh"]) == 0


def test_an_unknown_name_is_refused_before_anything_is_measured(
    asked: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        results.main(["bensh"])
    assert raised.value.code == 2
    assert "no reference result is called bensh; there are bench, long" in capsys.readouterr().err
    assert asked == []


def test_a_load_of_our_own_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([True, True, False])
    monkeypatch.setattr(results, "busy", lambda: next(loads))
    monkeypatch.setattr(results.time, "sleep", lambda seconds: None)
    assert results.quiet()
    monkeypatch.setattr(results, "busy", lambda: True)
    assert not results.quiet(within_s=-1.0)
