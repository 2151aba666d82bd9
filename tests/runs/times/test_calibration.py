"""Times of cells that have not run: arithmetic on rates that are given, and one real measurement."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ttbench.cli import console
from ttbench.cli.commands import run_command as commands
from ttbench.engines import findings
from ttbench.engines.findings import Verdict
from ttbench.machine import measure
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan
from ttbench.runs.request import plan_task
from ttbench.runs.times import calibration
from ttbench.runs.times.calibration import with_times
from ttbench.types import Cost

REAL_MEASURE = calibration._measure
FLAT = Cost(flops_per_token=2000, flops_per_context_token=0, state_bytes=64, state_bytes_per_token=8)
# 10 ms a call and 1 ms a token.
TIMES = {"32": 0.042, "128": 0.138, "512": 0.522}
READING = {"max_context": None, "forward_len": 2048, "batched": True, "causal": True}
PACE = {"kind": "pace", "times": TIMES, "step_s": 0.002, "score_s": 0.0, "reading": READING}
# Of all probes that look at 2,048 tokens, at FLAT's 10 ms a call, 1 ms a token and 2 ms a step: calls and tokens below.
PROBED_S = (
    0.01 * (1 + 1 + 1 + 3 + 1 + 1 + 2 + 30 + 1 + 3 + 1)
    + 0.001 * (9 + 18 + 3 * 96 + 3 * 96 + 7 + 96 + 2 * 2048 + 2048 + 37 + 3 * 96 + 96)
    + 0.002 * (2 + 4 * 8)
)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A machine of known rates, and the requests that it was asked."""
    asked: list[Any] = []

    def entries(spec: Any, threads: int) -> list[dict[str, Any]]:
        asked.append(spec)
        found: list[dict[str, Any]] = [{"kind": "start", "seconds": 3.0}]
        for job in spec["jobs"]:
            found.append({"kind": "load", "seconds": 0.5, "key": job["key"]})
            found += [{**PACE, "key": key} for key in job["batch_sizes"]]
        return found

    monkeypatch.setattr(calibration, "_measure", REAL_MEASURE)
    monkeypatch.setattr(calibration, "_entries", entries)
    monkeypatch.setattr(calibration, "_folder", lambda: tmp_path / "rates")
    monkeypatch.setattr(measure, "load_average", lambda: 0.0)
    monkeypatch.setattr(findings, "known", lambda cell: Verdict(looked=10**6, failed=None, reason=None))
    return asked


@pytest.fixture
def unvouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has asked the probes yet."""
    monkeypatch.setattr(findings, "known", lambda cell: None)


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


def test_the_first_score_of_a_model_waits_for_its_probes(
    fakes: ModuleType, told: list[Any], unvouched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lay_out(fakes)
    timed = with_times(plan, plan.cells)
    first, second = (timed.estimates[cell.cell_id] for cell in plan.cells)
    assert first.probes_s == pytest.approx(PROBED_S, rel=0.02)
    assert first.setup_s == pytest.approx(3.0 + 0.5 + first.probes_s)
    assert (second.probes_s, second.setup_s) == (0.0, None)
    # What failed, or was looked at so far, is not asked again.
    for verdict, share in ((("later_tokens", 96), 0), ((None, 2048), 0), ((None, 1024), 1)):
        known = Verdict(looked=verdict[1], failed=verdict[0], reason=None)
        monkeypatch.setattr(findings, "known", lambda cell, known=known: known)
        again = with_times(plan, plan.cells)
        assert again.estimates[plan.cells[0].cell_id].probes_s == pytest.approx(share * PROBED_S, rel=0.02)
    assert len(told) == 1


def test_no_probes_go_before_what_is_timed_or_asked_for_unchecked(
    fakes: ModuleType, told: list[Any], unvouched: None
) -> None:
    for plan in (lay_out(fakes, task="fake-timing", ctx=1024, batch_size=1), lay_out(fakes, unchecked=True)):
        timed = with_times(plan, plan.cells)
        assert {timed.estimates[cell.cell_id].probes_s for cell in plan.cells} == {0.0}


def test_a_model_that_takes_less_is_probed_on_what_it_takes(
    fakes: ModuleType, told: list[Any], unvouched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READING, "max_context", 1024)
    plan = lay_out(fakes)
    probes_s = with_times(plan, plan.cells).estimates[plan.cells[0].cell_id].probes_s
    # The near text is read four times: twice whole, once changed, once in pieces.
    assert probes_s == pytest.approx(PROBED_S - 3 * 1024 * 0.001, rel=0.02)
    known = Verdict(looked=1024, failed=None, reason=None)
    monkeypatch.setattr(findings, "known", lambda cell: known)
    assert with_times(plan, plan.cells).estimates[plan.cells[0].cell_id].probes_s == 0.0


def known_from_earlier(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan whose cells took 7 s each under another seed."""
    seen = [(cell, 7.0) for cell in lay_out(fakes).cells]
    monkeypatch.setattr("ttbench.runs.request.timings", lambda *args, **kwargs: seen)
    return lay_out(fakes, seed=3)


def test_cells_that_earlier_runs_tell_need_no_rates_but_the_beginning_of_their_process(
    fakes: ModuleType, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = known_from_earlier(fakes, monkeypatch)
    for _ in range(2):
        assert with_times(again, again.cells).seconds == pytest.approx(14.0 + 3.0 + 0.5)
    assert [job["batch_sizes"] for spec in told for job in spec["jobs"]] == [{}]


def test_changed_code_is_read_from_the_same_files_and_vouched_for_anew(
    fakes: ModuleType, told: list[Any], unvouched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lay_out(fakes)
    with_times(plan, plan.cells)
    again = known_from_earlier(fakes, monkeypatch)
    monkeypatch.setattr(calibration, "code_digest", lambda **kwargs: "changed")
    assert with_times(again, again.cells).seconds == pytest.approx(14.0 + 3.0 + 0.5 + PROBED_S, rel=0.01)
    # Known already: how a process starts. Measured for the new code: its rates, which the probes need.
    assert [len(job["batch_sizes"]) for job in told[1]["jobs"]] == [1]


def test_a_beginning_that_was_measured_on_a_busy_machine_counts_all_the_same(
    fakes: ModuleType, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lay_out(fakes)
    monkeypatch.setattr(measure, "load_average", lambda: 1000.0)
    with_times(plan, plan.cells)
    monkeypatch.setattr(measure, "load_average", lambda: 0.0)
    again = known_from_earlier(fakes, monkeypatch)
    # Left out, it made 14 s of 17.5 s.
    assert with_times(again, again.cells).seconds == pytest.approx(14.0 + 3.0 + 0.5)
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


def test_what_other_code_measured_is_told_to_be_measured_again(
    fakes: ModuleType, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "say", lambda text="", style="": said.append(text))
    cells = lay_out(fakes).cells
    for code, other in (("older", True), (cells[0].code_digest, False)):
        # Of the first cell only; the second was never measured.
        earlier = [(dataclasses.replace(cells[0], code_digest=code), 7.0)]
        monkeypatch.setattr("ttbench.runs.request.timings", lambda *args, known=earlier, **kwargs: known)
        plan = lay_out(fakes)
        assert [plan.estimates[cell.cell_id].changed for cell in plan.cells] == [other, False]
        commands.print_estimate(plan, done={})
        assert any("1 cell to measure again: code or packages have changed since" in text for text in said) is other
        said.clear()


def test_the_probes_are_told_apart_in_the_estimate(
    fakes: ModuleType, told: list[Any], unvouched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "say", lambda text="", style="": said.append(text))
    plan = lay_out(fakes)
    commands.print_estimate(with_times(plan, plan.cells), done={})
    assert "of it for the probes, asked once)" in said[-1]


def test_a_reason_stands_in_full_in_the_first_line_that_has_it(
    fakes: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    display = console.RunDisplay()
    for index, cell in enumerate(lay_out(fakes, names="ab").cells):
        display.on_cell_start(cell, index=index + 1, num_cells=4, seconds_left=None)
        display.on_cell_end(cell, status="unsupported", reason="it looks ahead", seconds_left=None)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert [line.endswith("unsupported: it looks ahead") for line in lines] == [True, False, False, False]
    assert all(line.endswith("unsupported: as before") for line in lines[1:])


def test_measuring_rates_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_entries", lambda spec, threads: pytest.fail("this machine was measured"))
    monkeypatch.setenv("TTBENCH_MEASURE_RATES", "0")
    assert REAL_MEASURE({"key": ("start", 1)}) == {}
    monkeypatch.setenv("TTBENCH_MEASURE_RATES", "1")
    with pytest.raises(pytest.fail.Exception, match="was measured"):
        REAL_MEASURE({"key": ("start", 1)})
