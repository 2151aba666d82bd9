"""Times of cells that have not run: arithmetic on rates that are given, and one real measurement."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ttbench.cli import console
from ttbench.cli import run_command as commands
from ttbench.machine import measure
from ttbench.runs import calibration
from ttbench.runs.calibration import with_times
from ttbench.runs.plan import Plan
from ttbench.runs.request import Options, plan_task
from ttbench.types import Cost

REAL_MEASURE = calibration._measure
FLAT = Cost(flops_per_token=2000, flops_per_context_token=0, state_bytes=64, state_bytes_per_token=8)
# 10 ms a call and 1 ms a token.
TOLD = [
    {"kind": "start", "seconds": 3.0},
    {"kind": "pace", "load_s": 0.5, "times": {"32": 0.042, "128": 0.138, "512": 0.522}, "step_s": 0.002},
]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A machine of known rates, and the requests that it was asked."""
    asked: list[Any] = []

    def entries(spec: Any, threads: int) -> list[dict[str, Any]]:
        asked.append(spec)
        start, pace = TOLD
        return [start, *({**pace, "key": job["key"]} for job in spec["jobs"])]

    monkeypatch.setattr(calibration, "_measure", REAL_MEASURE)
    monkeypatch.setattr(calibration, "_entries", entries)
    monkeypatch.setattr(calibration, "_folder", lambda: tmp_path / "rates")
    monkeypatch.setattr(measure, "load_average", lambda: 0.0)
    return asked


def lay_out(fakes: ModuleType, *, names: str = "a", task: str = "fake-quality", **options: Any) -> Plan:
    checkpoints = tuple(fakes.checkpoint(name, cost=FLAT) for name in names)
    return plan_task(task, Options(checkpoints=checkpoints, threads=1, **options), out="absent")


def test_a_machine_that_ran_nothing_tells_times_from_its_rates(fakes: ModuleType, told: list[Any]) -> None:
    plan = lay_out(fakes)
    assert plan.seconds is None
    timed = with_times(plan, plan.cells)
    assert [timed.estimates[cell.cell_id].seconds for cell in plan.cells] == pytest.approx([1.034, 2.058])
    # One process begins: its start and its checkpoint.
    assert timed.seconds == pytest.approx(3.0 + 0.5 + 1.034 + 2.058)
    assert len(told) == 1


def test_every_timing_cell_begins_a_process(fakes: ModuleType, told: list[Any]) -> None:
    plan = lay_out(fakes, task="fake-timing", ctx=1024, params={"rounds": 3}, batch_size=1)
    assert with_times(plan, plan.cells).seconds == pytest.approx(3 * (3.5 + 1.034))


def test_rates_are_measured_once_and_kept_and_measured_again_after_a_busy_spell(
    fakes: ModuleType, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lay_out(fakes)
    monkeypatch.setattr(measure, "load_average", lambda: 1000.0)
    for _ in range(2):
        assert with_times(plan, plan.cells).seconds is not None
    assert len(told) == 1
    monkeypatch.setattr(measure, "load_average", lambda: 0.0)
    for _ in range(2):
        assert with_times(plan, plan.cells).seconds is not None
    assert len(told) == 2


def test_cells_that_earlier_runs_tell_start_no_measurement(fakes: ModuleType, told: list[Any]) -> None:
    plan = lay_out(fakes)
    options = {"checkpoints": (fakes.checkpoint("a", cost=FLAT),), "threads": 1}
    known = [(cell, 7.0) for cell in plan.cells]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttbench.runs.request.timings", lambda *args, **kwargs: known)
        again = plan_task("fake-quality", Options(**options, seed=3), out="absent")
    assert with_times(again, again.cells).seconds == 14.0
    assert told == []


def test_cells_that_earlier_runs_tell_begin_in_a_process_all_the_same(
    fakes: ModuleType, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lay_out(fakes)
    with_times(plan, plan.cells)
    known = [(cell, 7.0) for cell in plan.cells]
    monkeypatch.setattr("ttbench.runs.request.timings", lambda *args, **kwargs: known)
    # The rates were those of other code; what a process of this machine needs to start is known.
    monkeypatch.setattr(calibration, "code_digest", lambda **kwargs: "changed")
    again = lay_out(fakes, seed=3)
    assert with_times(again, again.cells).seconds == pytest.approx(14.0 + 3.0)
    assert len(told) == 1


def test_earlier_cells_of_the_kind_correct_the_rates(fakes: ModuleType, told: list[Any]) -> None:
    plan = lay_out(fakes)
    # The cell of 1,024 tokens took twice what the rates say.
    known = [(plan.cells[0], 2 * 1.034)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttbench.runs.request.timings", lambda *args, **kwargs: known)
        longer = lay_out(fakes, ctx=4096)
    timed = with_times(longer, longer.cells)
    assert timed.estimates[longer.cells[0].cell_id].seconds == pytest.approx(2 * (0.01 + 4.096))


def test_what_cannot_be_measured_leaves_the_time_unknown(
    fakes: ModuleType, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "_entries", lambda spec, threads: [])
    plan = lay_out(fakes)
    assert with_times(plan, plan.cells).seconds is None


def test_a_long_run_is_announced_with_what_a_smaller_one_takes(
    fakes: ModuleType, told: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "say", lambda text="", style="": said.append(text))
    work = fakes.FakeQuality.work

    def trials(self: Any, params: Any, context_len: int, batch_size: int, *, texts: Any) -> Any:
        one = work(self, params, context_len, batch_size, texts=texts)
        calls = tuple(commands.dataclasses.replace(calls, num=params.limit) for calls in one.calls)
        return commands.dataclasses.replace(one, calls=calls)

    monkeypatch.setattr(fakes.FakeQuality, "work", trials)
    for limit in (1001, 100):
        options = Options(checkpoints=(fakes.checkpoint("a", cost=FLAT),), threads=1, ctx=1024, limit=limit)
        request = commands.Request(target="fake-quality", options=options, out=tmp_path)
        plan, done = commands.timed_plan(request)
        commands.warn_of_length(plan, request, done=done)
    # 1,035 s and the start; 300 s buy 289 trials. 100 trials take 107 s, of which nothing is said.
    assert said == ["this will take about 17 min 19 s; --limit 289 takes about 5 min 2 s"]


def test_a_real_process_tells_its_start_and_a_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_measure", REAL_MEASURE)
    monkeypatch.setattr(calibration, "_folder", lambda: tmp_path)
    monkeypatch.setattr(calibration, "BUDGET_S", 0.02)
    plan = plan_task("memory", Options(checkpoints=("ttt-linear",), ctx=64, threads=1, params={"rounds": 1}))
    timed = with_times(plan, plan.cells)
    estimate = timed.estimates[plan.cells[0].cell_id]
    assert estimate.seconds is not None
    assert 0 < estimate.seconds < 60
    assert estimate.setup_s is not None
    assert estimate.setup_s > 0.1
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sum("times" in entry for entry in kept) == 1
