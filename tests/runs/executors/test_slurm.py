"""Slurm without Slurm: its commands as scripts that answer as slurm-wlm 22.05.8 did, and what is made of that."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ttbench.errors import StoreError, SuiteError, UsageError
from ttbench.runs.executors import detached, slurm_commands
from ttbench.runs.executors.base import Placement, unmeasured
from ttbench.runs.executors.cluster_file import read_cluster_file
from ttbench.runs.executors.outcomes import FORGOTTEN, Outcome, end, read_outcome
from ttbench.runs.executors.task import run_task
from ttbench.runs.executors.tasks import divide, note_start, read_submission, read_task, read_tasks
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan, join
from ttbench.runs.request import plan_task
from ttbench.runs.sweep import RunInterrupted, run_cells
from ttbench.store.record import now
from ttbench.store.store import Store, run_folders
from ttbench.types import Sample

WAITING = (
    "JobId={job} ArrayJobId={job} ArrayTaskId={tasks} ArrayTaskThrottle=10 JobName=ttbench-x UserId=root(0) "
    "JobState=PENDING Reason=Resources Dependency=(null) Requeue=0 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 "
    "RunTime=00:00:00 TimeLimit=01:00:00 Partition=cpu NodeList= SchedNodeList=n2 NumNodes=1 Command=/a b/array-0.sh "
    "Power="
)
ONE = (
    "JobId=5 ArrayJobId={job} ArrayTaskId={task} ArrayTaskThrottle=10 JobName=ttbench-x UserId=root(0) "
    "JobState={state} Reason={reason} Dependency=(null) Requeue=0 Restarts=0 BatchFlag=1 Reboot=0 ExitCode={code} "
    "RunTime=00:00:07 TimeLimit=01:00:00 Partition=cpu NodeList=n2 BatchHost=n2 NumNodes=1 Command=/a/array-0.sh Power="
)


class FakeSlurm:
    """A folder of commands at the head of PATH; what they answer is in files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        self._command("sbatch", 'echo "$2" >> "$HERE/submitted"; echo "$(( $(wc -l < "$HERE/submitted") + 6 ))"')
        unknown = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
        size = 'if [ "$2" = config ]; then echo "MaxArraySize            = 3"; exit 0; fi'
        show = f'{size}; cat "$HERE/$3" 2>/dev/null || {{ {unknown}; }}'
        self._command("scontrol", show)
        self._command("squeue", "exit 9")
        self._command("scancel", 'echo "$@" >> "$HERE/cancelled"')
        self._command(
            "sacct", 'cat "$HERE/accounts" 2>/dev/null || { echo "Slurm accounting storage is disabled" >&2; exit 1; }'
        )
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def _command(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\nHERE="{self.folder}"\n{body}\n')
        path.chmod(0o755)

    def say(self, job: int, *lines: str) -> None:
        (self.folder / str(job)).write_text("\n".join([*lines, ""]))

    def scripts(self) -> list[str]:
        return [Path(line).read_text() for line in (self.folder / "submitted").read_text().splitlines()]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm bin", monkeypatch)


def lay_out(fakes: ModuleType, task: str = "fake-quality", *, names: str = "abcd", **options: Any) -> Plan:
    checkpoints = tuple(fakes.checkpoint(name) for name in names)
    return plan_task(task, Options(checkpoints=checkpoints, threads=1, **options), out="absent")


def submit(plan: Plan, root: Path, *, yaml: str = "") -> Store:
    root.mkdir(exist_ok=True)
    (root / "cluster.yaml").write_text(yaml or "throttle: 2\n")
    placed = Placement(executor="slurm", cluster=str(root / "cluster.yaml"))
    result = run_cells(plan, out=root / "runs", name="t", placed=placed, wait=False)
    assert result.num_pending
    return Store(result.folder)


def one(job: int, task: int, state: str, code: str = "0:0", reason: str = "None") -> str:
    return ONE.format(job=job, task=task, state=state, code=code, reason=reason)


def test_a_group_is_a_task_and_a_timing_comparison_is_one(fakes: ModuleType) -> None:
    quality, timing = lay_out(fakes, ctx="1k,2k"), lay_out(fakes, "fake-timing", ctx="1k,2k", params={"rounds": 3})
    tasks = divide(join([timing, quality]).cells)
    assert [(task.kind, len(task.cells)) for task in tasks] == [("quality", 2)] * 4 + [("timing", 12)] * 2
    assert [task.index for task in tasks] == list(range(6))
    for task in tasks[4:]:
        assert {cell.checkpoint.name for cell in task.cells} == set("abcd")
        assert [cell.round for cell in task.cells] == [0] * 4 + [1] * 4 + [2] * 4
    assert [len(task.cells) for task in divide(quality.cells, cells_per_task=1)] == [1] * 8


def test_arrays_have_pieces_a_throttle_and_no_requeue(fakes: ModuleType, fake: FakeSlurm, tmp_path: Path) -> None:
    yaml = (
        "throttle: 2\ncpus: 4\npython: /shared/bin/python\ncontainer: apptainer exec 'an image.sif'\n"
        "prologue: |\n  module load cuda\n"
        'quality: {partition: cpu, time: "04:00:00", memory: 16G, options: [--account=lab]}\n'
        "timing: {partition: bench}\n"
    )
    plan = join([lay_out(fakes, ctx="1k"), lay_out(fakes, "fake-timing", ctx="1k")])
    store = submit(plan, tmp_path / "a 100%j", yaml=yaml)
    first, second, timing = fake.scripts()
    assert "#SBATCH --array=0-2%2\n" in first
    assert "#SBATCH --array=0-0%2\n" in second
    folder = os.path.abspath(store.folder)
    words = f"exec apptainer exec 'an image.sif' /shared/bin/python -P -m ttbench.runs.executors.task '{folder}' "
    assert f'#SBATCH --output="{folder.replace("%", "%%")}/cluster/logs/%A_%a.log"\n' in first
    assert first.endswith(f"\n\nmodule load cuda\n{words}$((0 + SLURM_ARRAY_TASK_ID))\n")
    assert f"{words}$((3 + SLURM_ARRAY_TASK_ID))" in second
    for script in (first, second):
        for option in ("partition=cpu", "time=04:00:00", "mem=16G", "cpus-per-task=4", "no-requeue", "account=lab"):
            assert f"#SBATCH --{option}\n" in script
        assert "--exclusive" not in script
    for option in ("partition=bench", "exclusive", "no-requeue"):
        assert f"#SBATCH --{option}\n" in timing
    assert "--time" not in timing
    assert subprocess.run(["sh", "-n"], input=first, text=True, check=False).returncode == 0
    found = read_submission(store)
    assert found is not None
    assert found.jobs == (("7", 0, 3), ("8", 3, 1), ("9", 4, 1))


def test_cells_that_a_task_still_holds_are_not_submitted_again(
    fakes: ModuleType, fake: FakeSlurm, tmp_path: Path
) -> None:
    submit(lay_out(fakes, ctx="1k"), tmp_path / "a")
    fake.say(7, WAITING.format(job=7, tasks="1-2%2"), one(7, 0, "RUNNING"))
    fake.say(8, one(8, 0, "NODE_FAIL", "1:0", "NodeDown"))
    # The fourth cell was lost, the first three are in the queue: of a larger request only the rest is submitted.
    wider = lay_out(fakes, ctx="1k,2k")
    second = submit(wider, tmp_path / "a")
    assert sum(len(task.cells) for task in read_tasks(second)) == 5
    fake.say(8, one(8, 0, "RUNNING"))
    with pytest.raises(
        UsageError, match=r"every cell that is missing was submitted already, by run .*-t: ttbench stat"
    ):
        submit(lay_out(fakes, ctx="1k"), tmp_path / "a")
    assert len(run_folders(tmp_path / "a" / "runs")) == 2


def test_every_task_that_is_over_gives_its_cells_an_end_and_live_ones_none(
    fakes: ModuleType, fake: FakeSlurm, tmp_path: Path
) -> None:
    plan = lay_out(fakes, names="abcdefg", ctx="1k")
    store = submit(plan, tmp_path / "a")
    fake.say(7, one(7, 0, "TIMEOUT", "0:15", "TimeLimit"), one(7, 1, "OUT_OF_MEMORY", "0:125"), one(7, 2, "RUNNING"))
    fake.say(8, one(8, 0, "COMPLETED"), one(8, 1, "FAILED", "1:0", "NonZeroExitCode"))
    note_start(store, 6)
    answered = read_task(store, 3).cells[0]
    sample = Sample(keys={"trial": 0}, values={"hits": 1, "trials": 2, "share": 0.5})
    record = unmeasured(answered, "ok", "", started=now(), cell_s=1.0)
    store.write_cell(dataclasses.replace(record, reason=None, samples=(sample,)))
    state = detached.collect(store)
    records = {record.cell.checkpoint.name: record for record in store.records()}
    assert {name: record.status for name, record in records.items()} == {
        "a": "timeout", "b": "oom", "d": "ok", "e": "error", "f": "killed", "g": "killed",
    }  # fmt: skip
    assert records["a"].reason == "it reached its time limit (Slurm: TIMEOUT, exit code 0:15 on n2)"
    assert records["f"].reason == f"Slurm knows nothing of its task: {FORGOTTEN}"
    assert "it began on " in str(records["g"].reason)
    assert (state.held, state.live, state.counts()) == (1, True, {"over": 6, "running": 1})
    assert len(store.rows()) == 6
    # Collecting again changes nothing, and a cell that ends meanwhile is taken.
    fake.say(7, one(7, 0, "TIMEOUT", "0:15"), one(7, 1, "OUT_OF_MEMORY", "0:125"), one(7, 2, "CANCELLED", "0:15"))
    assert detached.collect(store).statuses[read_task(store, 2).cells[0].cell_id] == "killed"
    assert store.survey().others == {}


def test_an_answer_that_comes_late_stands_before_the_loss(fakes: ModuleType, fake: FakeSlurm, tmp_path: Path) -> None:
    store = submit(lay_out(fakes, names="a", ctx="1k"), tmp_path / "a")
    fake.say(7, one(7, 0, "NODE_FAIL", "1:0", "NodeDown"))
    assert list(detached.collect(store).statuses.values()) == ["killed"]
    # Its process lived on: it goes through the task's own entry, in this process.
    [cell] = read_task(store, 0).cells
    assert run_task(str(store.folder), 0) == 0
    assert store.done() == {cell.cell_id: "killed"}
    record = unmeasured(cell, "ok", "", started=now(), cell_s=1.0)
    sample = Sample(keys={"trial": 0}, values={"hits": 1, "trials": 2, "share": 0.5})
    store.write_cell(dataclasses.replace(record, reason=None, samples=(sample,)))
    assert list(detached.collect(store).statuses.values()) == ["ok"]


def test_a_task_measures_its_cells_by_the_local_executor(fakes: ModuleType, fake: FakeSlurm, tmp_path: Path) -> None:
    plan = lay_out(fakes, names="ab", ctx="1k,2k")
    store = submit(plan, tmp_path / "a")
    for task in read_tasks(store):
        assert run_task(str(store.folder), task.index) == 0
    fake.say(7, one(7, 0, "COMPLETED"), one(7, 1, "COMPLETED"))
    detached.collect(store)
    columns = ["cell_id", "sample", "checkpoint", "hits", "share", "status"]
    local = run_cells(plan, out=tmp_path / "local").rows()
    assert store.rows().loc[:, columns].equals(local.loc[:, columns])
    starts = list((store.folder / "cluster" / "started").iterdir())
    assert len(starts) == 2
    assert json.loads(starts[0].read_text())["pid"] == os.getpid()


def test_a_script_that_waits_can_be_left_and_its_tasks_go_on(
    fakes: ModuleType, fake: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.say(7, WAITING.format(job=7, tasks="0"))
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(detached, "time", SimpleNamespace(sleep=sleep))
    with pytest.raises(RunInterrupted, match=r"0 of 1 cells are kept .* to go on: ttbench collect .*/runs/.*-t; its"):
        run_cells(
            lay_out(fakes, names="a", ctx="1k"), out=tmp_path / "runs", name="t", placed=Placement(executor="slurm")
        )
    # The queue is asked less and less often.
    assert looks[0] == detached.FIRST_LOOK_S
    assert looks[-1] == detached.LAST_LOOK_S
    assert sorted(looks) == looks
    assert not (fake.folder / "cancelled").exists()


def test_damaged_notes_are_no_obstacle_and_damaged_lists_of_jobs_are_one_line(
    fakes: ModuleType, fake: FakeSlurm, tmp_path: Path
) -> None:
    store = submit(lay_out(fakes, names="ab", ctx="1k"), tmp_path / "a")
    for text in ("", "[1]", "3", '{"node": "n7"'):
        (store.folder / "cluster" / "started" / f"0.x{len(text)}.json").write_text(text)
    detached.collect(store)
    reasons = sorted(str(record.reason) for record in store.records())
    assert "it began on a node at a time that its note does not tell" in reasons[1]
    assert FORGOTTEN in reasons[0]
    for text in ("", "[]", '{"executor": "slurm", "jobs": [["7", "x", 1]]}', '{"jobs": []}'):
        (store.folder / "cluster" / "jobs.json").write_text(text)
        with pytest.raises(StoreError, match=r"cannot read .*jobs\.json"):
            detached.collect(store)
    (store.folder / "cluster" / "tasks" / "0.json").write_text('{"index": 0')
    with pytest.raises(StoreError, match=r"cannot read the cluster task .*0\.json: .*; submit the run again"):
        read_tasks(store)


def test_cancel_names_every_job_and_needs_one(fakes: ModuleType, fake: FakeSlurm, tmp_path: Path) -> None:
    plan = lay_out(fakes, ctx="1k")
    store = submit(plan, tmp_path / "a")
    detached.cancel(store)
    assert (fake.folder / "cancelled").read_text() == "7 8\n"
    local = Store(run_cells(lay_out(fakes, names="a", ctx="1k"), out=tmp_path / "b").folder)
    with pytest.raises(UsageError, match="was submitted to no cluster; a run on this machine ends by Ctrl-C"):
        detached.cancel(local)
    assert detached.collect(local).statuses == local.done()


def test_what_slurmctld_forgot_is_told_by_accounting(fake: FakeSlurm) -> None:
    assert slurm_commands.outcomes("7", range(3)) == {}
    lines = ["7_0|CANCELLED by 0|0:15|n1", "7_[1-2%2]|CANCELLED by 0|0:0|None assigned", "8_0|COMPLETED|0:0|n1"]
    (fake.folder / "accounts").write_text("\n".join([*lines[:2], ""]))
    found = slurm_commands.outcomes("7", range(3))
    assert found[0] == Outcome(state="CANCELLED", exit_code="0:15", node="n1")
    assert found[2] == Outcome(state="CANCELLED", exit_code="0:0")
    # What slurmctld knows goes before.
    fake.say(7, one(7, 0, "COMPLETING"))
    assert slurm_commands.outcomes("7", range(3))[0].running


@pytest.mark.parametrize(
    ("state", "code", "status", "words"),
    [
        ("CANCELLED by 1000", "0:15", "killed", "it was cancelled (Slurm: CANCELLED, exit code 0:15"),
        ("OUT_OF_MEMORY", "0:125", "oom", "more memory than it had asked for"),
        ("DEADLINE", "0:0", "timeout", "deadline"),
        ("PREEMPTED", "0:15", "killed", "another task took its place"),
        ("FAILED", "0:9", "killed", "it was ended by SIGKILL"),
        ("FAILED", "143:0", "killed", "it was ended by SIGTERM"),
        ("FAILED", "0:99", "killed", "it was ended by signal 99"),
        ("FAILED", "2:0", "error", "its task failed (Slurm: FAILED, exit code 2:0)"),
        ("COMPLETED", "0:0", "error", "its task ended without it"),
        ("SOMETHING_NEW", "", "error", "its task failed (Slurm: SOMETHING_NEW)"),
    ],
)
def test_state_and_exit_code_are_a_status(state: str, code: str, status: str, words: str) -> None:
    found = end(read_outcome(state, exit_code=code), started="on n1")
    assert found[0] == status
    assert words in found[1]


def test_a_reason_says_why_a_task_waited_and_never_how_it_ended() -> None:
    assert read_outcome("PENDING", reason="Resources").waits_for == "Resources"
    assert read_outcome("TIMEOUT", reason="TimeLimit").waits_for == ""
    with pytest.raises(ValueError, match="RUNNING has no end yet"):
        end(read_outcome("RUNNING"))
    assert end(read_outcome("CANCELLED"))[1].startswith("it was cancelled before it started (")


@pytest.mark.parametrize(
    ("text", "tasks"),
    [("3", [3]), ("5-7%2", [5, 6, 7]), ("1,4-6", [1, 4, 5, 6]), ("0-9:4", [0, 4, 8]), ("", []), ("N/A", [])],
)
def test_tasks_of_an_array_are_read(text: str, tasks: list[int]) -> None:
    assert slurm_commands.expand(text) == tasks


def test_a_line_of_scontrol_s_is_read_whatever_its_values_hold() -> None:
    line = WAITING.format(job=7, tasks="2-11%10").replace("/a b/", "/JobState=FAILED x ExitCode=9:9/")
    fields = slurm_commands.read_fields(line)
    assert (fields["JobState"], fields["ArrayTaskId"], fields["ExitCode"]) == ("PENDING", "2-11%10", "0:0")
    assert dict(slurm_commands.read_jobs(["", "No jobs in the system", line]))[11].waits_for == "Resources"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time: 4", "unknown key 'time'"),
        ("quality: {time: 4:00:00}", "in quotes"),
        ("quality: {memory: 16}", "memory with its unit: 500M, 16G"),
        ("throttle: 0", "at least 1"),
        ("quality: {options: --account=x}", "list"),
        ("{", "not YAML"),
    ],
)
def test_a_cluster_file_that_means_nothing_is_refused_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises(SuiteError, match=words) as caught:
        read_cluster_file(path)
    assert "c.yaml:" in str(caught.value)


def test_what_cannot_be_submitted_says_why_and_leaves_no_run(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = lay_out(fakes, names="a", ctx="1k")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UsageError, match=r"executor slurm needs sbatch, .* not on the PATH: run on a node that submits"
    ):
        submit(plan, tmp_path / "a")
    silent = FakeSlurm(tmp_path / "silent", monkeypatch)
    silent._command("scontrol", 'echo "slurm_load_ctl_conf error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(UsageError, match="Slurm does not answer: slurm_load_ctl_conf error: Unable to contact"):
        submit(plan, tmp_path / "a")
    with pytest.raises(UsageError, match="--jobs is for executor local"):
        run_cells(plan, out=tmp_path / "a" / "runs", placed=Placement(executor="slurm", jobs=2))
    assert run_folders(tmp_path / "a" / "runs") == []


def test_threads_and_the_machine_of_a_cluster_are_the_cells_own(fakes: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("cpus: 3\nmachine: abc\n")
    options = Options(checkpoints=(fakes.checkpoint("a"),), ctx="1k", executor="slurm", cluster=str(path))
    [cell] = plan_task("fake-timing", options).cells
    assert (cell.threads, cell.machine) == (3, "abc")
    [cell] = plan_task("fake-timing", Options(**{**options, "threads": 2})).cells
    assert cell.threads == 2
