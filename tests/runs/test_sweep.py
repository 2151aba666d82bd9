from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

import ttbench
from ttbench.errors import CorpusError, StoreError, UnknownNameError, UsageError
from ttbench.runs.options import Options, as_arguments, to_json
from ttbench.runs.plan import Plan
from ttbench.runs.progress import Outlook, Silent
from ttbench.runs.request import plan_suite, plan_task
from ttbench.runs.sweep import RunInterrupted, RunResult, run_cells, run_suite, run_task
from ttbench.store.rows import read_rows
from ttbench.store.store import Store, run_folders
from ttbench.types import Cell, Status

# What differs between two measurements of one cell.
STAMPS = ["run_id", "started", "cell_s", "cell_cpu_s", "load_average"]


class Spy(Silent):
    """Notes what a run tells its display."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def on_plan(self, plan: Plan, *, folder: str, num_reused: int) -> None:
        self.said.append(("plan", len(plan.cells), num_reused))

    def on_cell_start(self, cell: Cell, *, index: int, num_cells: int, seconds_left: float | None) -> None:
        self.said.append(("start", cell.checkpoint.name, cell.context_len, f"{index}/{num_cells}"))

    def on_cell_end(self, cell: Cell, *, status: Status, reason: str | None, seconds_left: float | None) -> None:
        self.said.append(("end", cell.checkpoint.name, cell.context_len, status))

    def ends(self) -> list[tuple[str, int, str]]:
        return [entry[1:] for entry in self.said if entry[0] == "end"]


def lay_out(
    fakes: ModuleType, task: str = "fake-quality", *, names: str = "ab", out: Any = "runs", **options: Any
) -> Plan:
    checkpoints = tuple(fakes.checkpoint(name) for name in names)
    return plan_task(task, Options(checkpoints=checkpoints, threads=1, **options), out=out)


def log_of(folder: Path, verb: str = "begin") -> list[list[str]]:
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [line.split() for line in lines if line.startswith(verb)]


def test_a_run_gives_tidy_rows_and_the_same_command_again_measures_nothing(fakes: ModuleType, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "checkpoints": [fakes.checkpoint("a"), fakes.checkpoint("b")],
        "ctx": "512..2k",
        "params": {"log": str(tmp_path / "log")},
        "out": tmp_path / "runs",
    }
    rows = run_task("fake-quality", **options)
    assert len(rows) == 2 * 3 * 3
    assert rows["context_len"].unique().tolist() == [512, 1024, 2048]
    assert rows.attrs["metrics"]["fake-quality"][0]["name"] == "hits"
    again = run_task("fake-quality", **options)
    pd.testing.assert_frame_equal(again, rows)
    assert len(log_of(tmp_path)) == 6
    more = run_task("fake-quality", **{**options, "ctx": "512..4k"})  # type: ignore[arg-type]
    assert len(more) == 2 * 4 * 3
    assert len(log_of(tmp_path)) == 8
    newest = run_folders(tmp_path / "runs")[0]
    pd.testing.assert_frame_equal(read_rows(newest / "rows.parquet"), more)
    assert json.loads((newest / "run.json").read_text())["command"].startswith(
        "ttbench.run('fake-quality', ctx='512..4k', checkpoints="
    )
    # as a run that was killed between its last cell and its rows
    (newest / "rows.parquet").unlink()
    pd.testing.assert_frame_equal(run_task("fake-quality", **{**options, "ctx": "512..4k"}), more)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(read_rows(newest / "rows.parquet"), more)
    assert run_folders(tmp_path / "runs")[0] == newest


def test_quality_cells_share_a_process_and_timing_cells_do_not(fakes: ModuleType, tmp_path: Path) -> None:
    for task, num_pids in (("fake-quality", 2), ("fake-timing", 8)):
        plan = lay_out(fakes, task, ctx="1k,2k", params={"rounds": 2, "log": str(tmp_path / "log")})
        run_cells(plan, out=tmp_path / task)
        begun = log_of(tmp_path)
        assert [cell_id for _, cell_id, *_ in begun] == [cell.cell_id for cell in plan.cells]
        assert len({pid for _, _, pid, _ in begun}) == num_pids
        (tmp_path / "log").unlink()


@pytest.mark.parametrize(
    ("what", "status"),
    [("kill", "killed"), ("crash", "killed"), ("exit", "error"), ("error", "error"), ("hog", "oom"), ("nan", "error")],
)
def test_a_bad_cell_costs_itself_only_and_is_tried_again_unless_answered(
    fakes: ModuleType, tmp_path: Path, what: str, status: Status
) -> None:
    params = {"what": what, "at": 2048, "log": str(tmp_path / "log")}
    plan = lay_out(fakes, names="a", ctx="1k,2k,4k", params=params)
    spy = Spy()
    result = run_cells(plan, out=tmp_path, progress=spy, memory_limit=2**30)
    assert spy.ends() == [("a", 1024, "ok"), ("a", 2048, status), ("a", 4096, "ok")]
    rows = result.rows()
    assert rows["status"].tolist() == ["ok"] * 3 + [status] + ["ok"] * 3
    bad = rows.iloc[3]
    assert bad["reason"]
    assert [name for name in ("hits", "share", "trial") if not pd.isna(bad[name])] == []
    failed = status != "oom"
    assert result.num_failed == failed
    assert len(log_of(tmp_path)) == 3
    assert run_cells(plan, out=tmp_path, memory_limit=2**30).num_reused == 3 - failed
    assert len(log_of(tmp_path)) == 3 + failed


def test_a_cell_that_fails_once_is_answered_by_the_next_run(fakes: ModuleType, tmp_path: Path) -> None:
    checkpoint = fakes.checkpoint("a", path=str(tmp_path))
    plan = plan_task("fake-quality", Options(checkpoints=(checkpoint,), ctx="1k,2k", params={"what": "die once"}))
    first, second = run_cells(plan, out=tmp_path), run_cells(plan, out=tmp_path)
    assert list(first.statuses.values()) == ["killed", "ok"]
    assert list(second.statuses.values()) == ["ok", "ok"]
    assert second.num_reused == 1
    assert first.num_failed == 1
    assert second.num_failed == 0


@pytest.mark.parametrize("by_cell", [True, False], ids=["cell-s-own", "of-the-run"])
def test_a_cell_that_takes_too_long_is_stopped(fakes: ModuleType, tmp_path: Path, by_cell: bool) -> None:
    params = {"what": "hang", "at": 2048}
    plan = lay_out(fakes, names="a", ctx="1k,2k,4k", params=params, timeout=2.0 if by_cell else None)
    result = run_cells(plan, out=tmp_path, timeout=None if by_cell else 2.0)
    assert list(result.statuses.values()) == ["ok", "timeout", "ok"]
    record = Store(result.folder).read(plan.cells[1].cell_id)
    assert record.reason == "not finished after 2 s"
    assert record.cell_s >= 2.0


def test_ctrl_c_stops_the_worker_and_says_how_to_go_on(fakes: ModuleType, tmp_path: Path) -> None:
    plan = lay_out(fakes, ctx="1k,2k,4k", params={"what": "hang", "at": 2048, "log": str(tmp_path / "log")})

    class Press(Spy):
        def on_cell_start(self, cell: Cell, *, index: int, num_cells: int, seconds_left: float | None) -> None:
            if cell.context_len == 2048:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(RunInterrupted) as caught:
        run_cells(plan, out=tmp_path / "runs", command="ttbench run it", progress=Press())
    assert (caught.value.num_done, caught.value.num_cells, caught.value.command) == (1, 6, "ttbench run it")
    assert str(caught.value).endswith("to go on: ttbench run it")
    assert isinstance(caught.value, KeyboardInterrupt)
    pid = int(log_of(tmp_path)[-1][2])
    assert not Path(f"/proc/{pid}").exists()
    assert Store(caught.value.folder).done() == {plan.cells[0].cell_id: "ok"}
    assert run_cells(plan, out=tmp_path / "runs", timeout=2).num_reused == 1


def test_a_full_disk_ends_the_run_and_loses_nothing(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lay_out(fakes, names="a", ctx="1k,2k,4k", params={"what": "no room", "at": 2048})
    with pytest.raises(StoreError, match="no space left on the device; finished cells are kept"):
        run_cells(plan, out=tmp_path)
    assert list(Store(run_folders(tmp_path)[0].resolve()).done().values()) == ["ok"]
    assert not list(tmp_path.rglob("*.tmp"))
    # The disk fills up while the parent writes: nothing measured is lost either.
    plan = lay_out(fakes, names="b", ctx="1k,2k")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_rows", lambda self: (_ for _ in ()).throw(StoreError("no space left")))
        with pytest.raises(StoreError):
            run_cells(plan, out=tmp_path)
    assert run_cells(plan, out=tmp_path).num_reused == 2


def test_a_skipped_cell_is_a_row_and_so_is_a_twin_under_its_own_name(fakes: ModuleType, tmp_path: Path) -> None:
    mute = fakes.checkpoint("mute", tokenizer_digest=None)
    twin = fakes.checkpoint("twin", weights_digest=fakes.checkpoint("a").weights_digest)
    rows = run_task(
        "fake-text", checkpoints=[fakes.checkpoint("a"), mute, twin], ctx=512, corpus="fake-corpus", out=tmp_path
    )
    found = rows[["checkpoint", "status"]].to_numpy().tolist()
    assert found == [["a", "ok"], ["twin", "ok"], ["mute", "unsupported"]]
    assert rows["corpus"].tolist() == ["fake-corpus"] * 3
    assert rows["num_bytes"].tolist() == [5, 5, pd.NA]
    assert len(set(rows["cell_id"][:2].tolist())) == 1


def test_runs_at_the_same_time_into_one_root_do_not_disturb_each_other(fakes: ModuleType, tmp_path: Path) -> None:
    code = (
        "import sys, ttbench_fakes as fakes; from ttbench.runs.sweep import run_task\n"
        "run_task('fake-quality', checkpoints=[fakes.checkpoint('a')], ctx='512..8k', out=sys.argv[1])\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
        for _ in range(2)
    ]
    assert [run.wait() for run in runs] == [0, 0]
    one, two = (Store(folder).rows().drop(columns=STAMPS) for folder in run_folders(tmp_path))
    pd.testing.assert_frame_equal(one, two)
    assert len(one) == 15


def test_the_parent_sleeps_while_a_worker_works(fakes: ModuleType, tmp_path: Path) -> None:
    plan = lay_out(fakes, names="a", ctx=512, params={"sleep_s": 0.4})
    busy: list[float] = []

    class Clock(Silent):
        def on_cell_start(self, cell: Cell, *, index: int, num_cells: int, seconds_left: float | None) -> None:
            busy.append(time.process_time())

        def on_cell_end(self, cell: Cell, *, status: Status, reason: str | None, seconds_left: float | None) -> None:
            busy.append(time.process_time())

    run_cells(plan, out=tmp_path, progress=Clock())
    assert busy[1] - busy[0] < 0.05


def test_a_display_hears_of_every_cell(fakes: ModuleType, tmp_path: Path) -> None:
    spy = Spy()
    run_cells(lay_out(fakes, ctx=512), out=tmp_path)
    run_cells(lay_out(fakes, ctx="512,1k"), out=tmp_path, progress=spy)
    assert spy.said == [
        ("plan", 4, 2),
        ("start", "a", 1024, "1/2"),
        ("end", "a", 1024, "ok"),
        ("start", "b", 1024, "2/2"),
        ("end", "b", 1024, "ok"),
    ]


def test_seconds_left_follow_the_pace_of_the_run(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    plan = lay_out(fakes, names="a", ctx="512..2k")
    flops = [plan.estimates[cell.cell_id].flops or 0.0 for cell in plan.cells]
    outlook = Outlook(plan, plan.cells)
    assert outlook.seconds_left() is None
    outlook.start(plan.cells[0])
    clock[0] += 3.0
    assert outlook.seconds_left() is None
    outlook.end(plan.cells[0])
    assert outlook.seconds_left() == pytest.approx(3.0 * (flops[1] + flops[2]) / flops[0])
    outlook.start(plan.cells[1])
    clock[0] += 2.0
    assert outlook.seconds_left() == pytest.approx(3.0 * (flops[1] + flops[2]) / flops[0] - 2.0)
    outlook.advance(1, 4)
    assert outlook.seconds_left() == pytest.approx(6.0 + 3.0 * flops[2] / flops[0])
    outlook.end(plan.cells[1])
    outlook.start(plan.cells[2])
    outlook.end(plan.cells[2])
    assert outlook.seconds_left() == 0.0


def timed(plan: Plan, seconds: dict[int, float], *, setup_s: float) -> Plan:
    """The plan with these seconds by context, and with what each process needs to begin."""
    estimates = {
        cell.cell_id: dataclasses.replace(
            plan.estimates[cell.cell_id], seconds=seconds[cell.context_len], setup_s=setup_s
        )
        for cell in plan.cells
    }
    return dataclasses.replace(plan, estimates=estimates)


def test_the_start_of_a_process_is_in_no_cell_s_cost(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    plan = timed(lay_out(fakes, names="a", ctx="512..2k"), {512: 1.0, 1024: 2.0, 2048: 4.0}, setup_s=20.0)
    outlook = Outlook(plan, plan.cells)
    assert outlook.seconds_left() == 27.0
    outlook.start(plan.cells[0])
    # 20 s of loading, and the cell itself as expected.
    clock[0] += 21.0
    outlook.end(plan.cells[0], setup_s=20.0)
    assert outlook.seconds_left() == pytest.approx(6.0)
    outlook.start(plan.cells[1])
    clock[0] += 11.0
    # The first of a hundred samples: the estimate tells more than 1 s / 1 %.
    outlook.advance(1, 100, setup_s=10.0)
    assert outlook.seconds_left() == pytest.approx(1.0 + 4.0)


def test_cells_that_did_nothing_never_make_the_rest_look_endless(
    fakes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    plan = lay_out(fakes, names="a", ctx="512..2k")
    outlook = Outlook(plan, plan.cells)
    outlook.start(plan.cells[0])
    clock[0] += 5.0
    outlook.end(plan.cells[0], status="too_long")
    assert outlook.seconds_left() is None
    quick = timed(plan, {512: 1e-6, 1024: 60.0, 2048: 60.0}, setup_s=0.0)
    outlook = Outlook(quick, quick.cells)
    outlook.start(quick.cells[0])
    clock[0] += 5.0
    outlook.end(quick.cells[0])
    # 5 s where nothing was expected: 3.5 times as slow at most, with two seconds of the estimate's own weight.
    assert outlook.seconds_left() == pytest.approx(120.0 * 7.0 / 2.0)


def test_earlier_runs_on_this_machine_give_the_estimate_of_time(fakes: ModuleType, tmp_path: Path) -> None:
    plan = lay_out(fakes, names="a", ctx="1k,2k", out=tmp_path)
    assert plan.seconds is None
    rows = run_cells(plan, out=tmp_path).rows()
    again = lay_out(fakes, names="b", ctx="1k,2k", seed=7, out=tmp_path)
    assert again.seconds == pytest.approx(rows.groupby("cell_id")["cell_s"].first().sum())


@pytest.mark.parametrize(
    ("task", "options", "error", "message"),
    [
        ("fake-qualty", {}, UnknownNameError, "did you mean 'fake-quality'"),
        ("fake-quality", {"ctx": "1q"}, UsageError, "is not a number of tokens"),
        ("fake-quality", {"corpus": "code"}, UsageError, "reads no corpus; leave --corpus out"),
        ("fake-quality", {"protocol": "fance"}, UsageError, "must be one of plain, fancy; got 'fance'"),
        ("latency", {"protocol": "fixed"}, UsageError, "task 'latency' has no protocol; its parameters are: phases"),
        ("fake-text", {"corpus": "fake-korpus"}, UnknownNameError, "did you mean 'fake-corpus'"),
        ("fake-text", {"corpus": "text:/absent/file"}, CorpusError, "absent"),
    ],
)
def test_a_request_that_cannot_be_carried_out_says_why(
    fakes: ModuleType, task: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lay_out(fakes, task, **options)


def test_defaults_come_from_the_task(fakes: ModuleType) -> None:
    plan = lay_out(fakes, names="a", limit=7, protocol="fancy")
    assert [cell.context_len for cell in plan.cells] == [1024, 2048]
    cell = plan.cells[0]
    assert (cell.params["limit"], cell.params["protocol"], cell.params["sleep_s"]) == (7, "fancy", 0.0)
    assert (cell.seed, cell.dtype, cell.device, cell.attention, cell.batch_size) == (0, "float32", "cpu", "none", 1)


SUITE = """\
title: t
tasks:
  - task: fake-quality
    ctx: 1k
    seed: 3
    params: {limit: 2}
  - task: fake-timing
    ctx: 512
    params: {limit: 1}
"""


def test_a_suite_runs_its_tasks_and_options_given_go_before_it(fakes: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(SUITE)
    options = Options(checkpoints=(fakes.checkpoint("a"),), threads=1)
    rows = run_suite(path, **options, out=tmp_path / "runs")
    summary = rows.groupby("task")[["context_len", "seed", "batch_size"]].first()
    assert summary.loc["fake-quality"].tolist() == [1024, 3, 1]
    assert summary.loc["fake-timing"].tolist() == [512, 0, 2]
    assert rows.groupby("task").size().to_dict() == {"fake-quality": 2, "fake-timing": 1}
    given = Options(checkpoints=(fakes.checkpoint("a"),), ctx="2k", seed=5, limit=9)
    cells = plan_suite(path, given).cells
    assert {(cell.context_len, cell.seed, cell.params["limit"]) for cell in cells} == {(2048, 5, 9)}


def test_the_api_spells_out_the_call_that_does_the_same_again(fakes: ModuleType) -> None:
    options = Options(checkpoints=("zoo-name",), ctx="1k", seed=0, params={"limit": 3})
    assert as_arguments(options) == "checkpoints=['zoo-name'], ctx='1k', seed=0, params={'limit': 3}, "
    assert json.loads(json.dumps(to_json(options))) == to_json(options)


def test_a_result_counts_its_failures() -> None:
    statuses: dict[str, Status] = {"a": "ok", "b": "oom", "c": "killed", "d": "timeout", "e": "error", "f": "too_long"}
    assert RunResult(folder=Path(), statuses=statuses, num_reused=0, seconds=0.0).num_failed == 3


def test_no_module_of_the_package_hides_a_function_of_its_interface() -> None:
    names = {path.stem for path in Path(ttbench.__file__).parent.iterdir()}
    assert not names & set(ttbench.__all__)
    assert callable(ttbench.run)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([("languages", "needle"), ("languages",)], "languages"),
        ([("languages",), None], "code"),
        ([("languages",), ("code",)], "code"),
        ([("dna",)], "code"),
    ],
    ids=["all have read others", "one is unknown", "one has read none", "dna"],
)
def test_perplexity_reads_languages_where_all_were_trained_on_others_and_code_else(
    fakes: ModuleType, kinds: list[tuple[str, ...] | None], expected: str, tmp_path: Path
) -> None:
    checkpoints = tuple(fakes.checkpoint(f"m{i}", train_kinds=found) for i, found in enumerate(kinds))
    asked = Options(checkpoints=checkpoints, threads=1, ctx=512)
    assert {cell.corpus for cell in plan_task("perplexity", asked, out=tmp_path).cells} == {expected}
    named = Options(checkpoints=checkpoints, threads=1, ctx=512, corpus="kjv")
    assert {cell.corpus for cell in plan_task("perplexity", named, out=tmp_path).cells} == {"kjv"}
