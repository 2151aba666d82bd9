"""`make slurm`: the Slurm executor against a real cluster that lives for as long as this script.

Twenty cells as an array, then everything that can become of a task: each must end as a status, the same command must
submit only what is missing, and quality rows must equal those of executor local.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from throwaway import Cluster, cluster, require, say, told, until

PLUGIN = Path(__file__).parent / "plugin"
sys.path.insert(0, str(PLUGIN))
os.environ["PYTHONPATH"] = os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
os.environ["TTBENCH_MEASURE_RATES"] = "0"

import ttbench_trouble  # noqa: E402

import ttbench  # noqa: E402
from ttbench.errors import UsageError  # noqa: E402
from ttbench.runs.executors import detached  # noqa: E402
from ttbench.runs.executors.base import Placement  # noqa: E402
from ttbench.runs.executors.tasks import read_submission, read_tasks, starts  # noqa: E402
from ttbench.runs.options import Options  # noqa: E402
from ttbench.runs.plan import Plan  # noqa: E402
from ttbench.runs.request import plan_task  # noqa: E402
from ttbench.runs.sweep import RunResult, run_cells  # noqa: E402
from ttbench.store.store import Store  # noqa: E402

# What differs between two measurements of one cell.
STAMPS = ("run_id", "started", "cell_s", "cell_cpu_s", "load_average", "environment", "allocation")
NUM_CHECKED = 0


def check(what: str, found: Any, wanted: Any) -> None:
    global NUM_CHECKED
    if found != wanted:
        raise SystemExit(f"make slurm: {what}: {found!r}, and not {wanted!r}")
    NUM_CHECKED += 1
    say(f"  ok: {what}: {found}")


class Scene:
    """Runs of one plan in one folder of runs, submitted by one cluster file."""

    def __init__(self, folder: Path, name: str, plan: Plan | None = None, *, yaml: str = "", **trouble: Any) -> None:
        self.root = folder / name
        self.root.mkdir()
        self.file = self.root / "cluster.yaml"
        self.file.write_text(f"cells_per_task: 1\n{yaml}")
        self.plan = plan or troubled(self.root, **trouble)

    def submit(self) -> Store:
        return Store(self._run(wait=False).folder)

    def _run(self, *, wait: bool) -> RunResult:
        placed = Placement(executor="slurm", cluster=str(self.file))
        return run_cells(self.plan, out=self.root, name="slurm", placed=placed, wait=wait)

    def again(self, store: Store, *, missing: int) -> None:
        """The same command: only what is missing is submitted, and all is well then."""
        # What never began has not gone wrong yet.
        for cell in self.plan.cells:
            (self.root / "notes" / cell.cell_id).touch()
        second = self._run(wait=True)
        again = Store(second.folder)
        check("cells submitted by the same command", sum(len(task.cells) for task in read_tasks(again)), missing)
        check("cells taken over", second.num_reused, len(self.plan.cells) - missing)
        check("statuses then", sorted(set(second.statuses.values())), ["ok"])
        if missing == len(self.plan.cells):
            check("another run's folder", again.run_id != store.run_id, True)


def troubled(
    root: Path, *, task: str = "trouble", names: str = "ab", ctx: Sequence[int] = (64,), **params: Any
) -> Plan:
    (root / "notes").mkdir()
    checkpoints = tuple(ttbench_trouble.checkpoint(name) for name in names)
    options = Options(checkpoints=checkpoints, threads=1, ctx=list(ctx), params={"once": str(root / "notes"), **params})
    return plan_task(task, options, out=root / "absent")


def num_running(store: Store, num: int) -> bool:
    return sum(found.running for found in detached.state(store).tasks.values()) >= num and len(starts(store)) >= num


def collected(store: Store) -> tuple[dict[str, int], list[str]]:
    """Statuses of a run's cells once no task is left, and the reasons of those that are not ok."""
    until("the tasks' end", lambda: not detached.state(store).live, seconds=240)
    found = detached.collect(store)
    reasons = sorted({record.reason or "" for record in store.records() if record.status != "ok"})
    for reason in reasons:
        say(f"  {reason}")
    return dict(Counter(found.statuses.values())), reasons


@contextmanager
def part(text: str) -> Iterator[None]:
    began = time.monotonic()
    say(f"{text}")
    yield
    say(f"  {time.monotonic() - began:.0f} s")


def array_of_twenty(folder: Path) -> None:
    with part("an array of twenty cells of the zoo, ten at once, in pieces of MaxArraySize"):
        options: dict[str, Any] = {"checkpoints": ["transformer", "ttt-linear"], "ctx": 64, "limit": 1, "threads": 1}
        options |= {"seed": list(range(10)), "corpus": "languages", "unchecked": True}
        options["params"] = {"window": 32, "max_context": 64}
        plan = ttbench.plan("perplexity", out=folder / "absent", **options)
        check("cells", len(plan.cells), 20)
        scene = Scene(folder, "twenty", plan, yaml="throttle: 10\n")
        store = scene.submit()
        submission = read_submission(store)
        assert submission is not None
        check("arrays and their sizes", [num for _, _, num in submission.jobs], [12, 8])
        try:
            scene.submit()
        except UsageError as error:
            check("the same command meanwhile", "was submitted already, by run" in str(error), True)
        check("statuses", collected(store)[0], {"ok": 20})
        check("nodes", sorted({found.node for found in detached.state(store).tasks.values()}), ["n1", "n2"])
        local = run_cells(plan, out=folder / "local").rows()
        same = [name for name in local if name not in STAMPS]
        check("columns compared", len(same) > 60, True)
        check("rows equal local's", store.rows()[same].equals(local[same]), True)
        done = subprocess.run(
            [sys.executable, "-m", "ttbench", "status", str(store.folder)], capture_output=True, text=True, check=True
        )
        say("  " + done.stdout.strip().replace("\n", "\n  "))


def cancelled(folder: Path) -> None:
    with part("scancel of four running and two pending tasks"):
        scene = Scene(folder, "cancelled", names="abcdef", what="hang")
        store = scene.submit()
        until("four running tasks", lambda: num_running(store, 4))
        subprocess.run([sys.executable, "-m", "ttbench", "cancel", str(store.folder)], check=True)
        counts, reasons = collected(store)
        check("statuses", counts, {"killed": 6})
        told_apart = [any(word in each for each in reasons) for word in ("it was cancelled (", "before it started")]
        check("running and waiting tasks told apart", told_apart, [True, True])
        scene.again(store, missing=6)


def preempted(folder: Path) -> None:
    with part("preemption by a partition of higher priority"):
        scene = Scene(folder, "preempted", names="ab", what="hang", yaml="quality: {options: [--exclusive]}\n")
        store = scene.submit()
        until("two running tasks", lambda: num_running(store, 2))
        told("sbatch", "-p", "high", "--exclusive", "-N", "2", "-o", "/dev/null", "--wrap", "sleep 3")
        counts, reasons = collected(store)
        check("statuses", counts, {"killed": 2})
        check("reason", "another task took its place (Slurm: PREEMPTED" in reasons[0], True)
        scene.again(store, missing=2)


def out_of_memory(folder: Path, found: Cluster) -> None:
    if not found.limits_memory:
        say("out of memory: not tried, since cgroup v1 is missing and nothing limits a task's memory")
        return
    with part("out of memory: shared memory, which no limit of the worker's own sees"):
        scene = Scene(
            folder, "memory", names="ab", ctx=(64, 128), what="shared", at=64, yaml="quality: {memory: 500M}\n"
        )
        store = scene.submit()
        counts, _ = collected(store)
        check("statuses", counts, {"oom": 2, "ok": 2})
        states = {each.state for each in detached.state(store).tasks.values()}
        say(f"  states of the tasks: {sorted(states)}")
        # An oom is an answer, which is not tried again.
        check("taken over", run_cells(scene.plan, out=scene.root, name="slurm").num_reused, 4)


def node_down(folder: Path) -> None:
    with part("a node that is set down under a task"):
        scene = Scene(folder, "down", names="ab", what="hang", yaml="quality: {options: [--exclusive]}\n")
        store = scene.submit()
        until("two running tasks", lambda: num_running(store, 2))
        told("scontrol", "update", "nodename=n1", "state=down", "reason=test")
        until("a lost task", lambda: not all(each.live for each in detached.state(store).tasks.values()))
        told("scontrol", "update", "nodename=n1", "state=resume")
        detached.cancel(store)
        counts, reasons = collected(store)
        check("statuses", counts, {"killed": 2})
        check("reasons", [any(word in each for each in reasons) for word in ("NODE_FAIL", "CANCELLED")], [True, True])
        until("two idle nodes", lambda: told("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"])
        scene.again(store, missing=2)


def late_writer(folder: Path, found: Cluster) -> None:
    with part("slurmd killed: its node is lost, its task lives on and writes late"):
        yaml = "quality: {options: ['--nodelist=n2']}\n"
        scene = Scene(folder, "late", names="a", what="slow", slow_s=75.0, yaml=yaml)
        store = scene.submit()
        until("a running task", lambda: num_running(store, 1))
        found.kill_node("n2")
        until("NODE_FAIL", lambda: not detached.state(store).live, seconds=70)
        counts, _ = collected(store)
        check("statuses", counts, {"killed": 1})
        until("the late answer", lambda: "ok" in store.done().values(), seconds=120)
        survey = store.survey()
        check("what stands, and what is kept beside it", [
            survey.records[0].status, [record.status for record in survey.others[scene.plan.cells[0].cell_id]]
        ], ["ok", ["killed"]])  # fmt: skip
        check("collected again", dict(Counter(detached.collect(store).statuses.values())), {"ok": 1})
        found.start_node("n2")
        until("two idle nodes", lambda: told("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"])
        check("the same command measures nothing", run_cells(scene.plan, out=scene.root, name="slurm").repeated, True)


def timed(folder: Path) -> None:
    with part("all rounds of a timing comparison on one node, with nothing beside them"):
        plan = troubled_timing(folder)
        scene = Scene(folder, "timing 100%j", plan)
        store = scene.submit()
        check("tasks", [len(task.cells) for task in read_tasks(store)], [6])
        check("exclusive", "--exclusive" in (store.folder / "cluster" / "array-0.sh").read_text(), True)
        check("statuses", collected(store)[0], {"ok": 6})
        check("nodes", store.rows()["node"].nunique(), 1)


def troubled_timing(folder: Path) -> Plan:
    (folder / "timing-notes").mkdir()
    return troubled(folder / "timing-notes", task="trouble-timing", rounds=3)


def plain(folder: Path) -> None:
    with cluster(folder / "plain", accounting=False) as found:
        # A time limit takes a minute at least: the task waits for it beside the rest.
        slow = Scene(folder, "timeout", names="a", what="hang", yaml='quality: {time: "1"}\n')
        late = slow.submit()
        cancelled(folder)
        preempted(folder)
        out_of_memory(folder, found)
        timed(folder)
        node_down(folder)
        with part("a time limit of a minute"):
            counts, _ = collected(late)
            check("statuses", counts, {"timeout": 1})
            slow.again(late, missing=1)
        late_writer(folder, found)
        array_of_twenty(folder)


def main() -> None:
    require(("slurmctld", "slurmd", "munged", "sbatch", "slurmdbd", "mariadbd", "mariadb-install-db"))
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="ttbench-slurm-"))
    folder.chmod(0o755)
    parts = sys.argv[1:] or ["plain", "accounts"]
    if "plain" in parts:
        plain(folder)
    if "accounts" in parts:
        accounts(folder)
    shutil.rmtree(folder)
    say(f"make slurm: {NUM_CHECKED} checks in {time.monotonic() - began:.0f} s; the cluster is gone")


def accounts(folder: Path) -> None:
    words = "with accounting: what slurmctld has forgotten is told by sacct"
    with cluster(folder / "accounts", accounting=True), part(words):
        scene = Scene(folder, "forgotten", names="abcdef", what="hang")
        store = scene.submit()
        until("four running tasks", lambda: num_running(store, 4))
        detached.cancel(store)
        [(job_id, _, _)] = (read_submission(store) or sys.exit("nothing was submitted")).jobs
        until("slurmctld to forget", lambda: "JobState" not in told("scontrol", "show", "job", job_id))
        counts, reasons = collected(store)
        check("statuses", counts, {"killed": 6})
        check("told by sacct", any("CANCELLED" in reason for reason in reasons), True)
        scene.again(store, missing=6)


if __name__ == "__main__":
    main()
