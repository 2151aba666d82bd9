"""`make ray`: the Ray executor against two nodes of Ray on loopback, in a network namespace of their own.

Rows equal those of executor local; a worker is killed, a raylet alone, and a raylet with its children; a resource that
is not there ends with a reason. Each loss ends as a status, and the same command measures only what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PLUGIN = Path(__file__).parents[1] / "slurm" / "plugin"
sys.path.append(str(PLUGIN))
os.environ["PYTHONPATH"] = os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
os.environ |= {"TTBENCH_MEASURE_RATES": "0", "RAY_USAGE_STATS_ENABLED": "0"}
# On a loaded machine the agents of Ray take longer to start than Ray waits for them.
os.environ |= {"RAY_agent_register_timeout_ms": "600000", "RAY_raylet_start_wait_time_s": "600"}

# Ray first: it must not find what ttbench brings. Its own processes never do.
import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

PYTHON = sys.argv[1]  # ttbench's interpreter, which runs the tasks
sys.path += [str(Path(__file__).parents[2]), sys.argv[2]]  # what ttbench is made of, and its environment's packages

import psutil  # noqa: E402
import ttbench_trouble  # noqa: E402

import ttbench  # noqa: E402
from ttbench.runs.executors.base import Placement  # noqa: E402
from ttbench.runs.executors.tasks import read_tasks, starts  # noqa: E402
from ttbench.runs.options import Options  # noqa: E402
from ttbench.runs.plan import Plan  # noqa: E402
from ttbench.runs.request import plan_task  # noqa: E402
from ttbench.runs.sweep import run_cells  # noqa: E402
from ttbench.store.store import Store, run_folders  # noqa: E402

STAMPS = ("run_id", "started", "cell_s", "cell_cpu_s", "load_average", "environment", "allocation")
GIB = 1024**3
NUM_CHECKED = 0


def say(text: str) -> None:
    print(text, flush=True)


def check(what: str, found: Any, wanted: Any) -> None:
    global NUM_CHECKED
    if found != wanted:
        raise SystemExit(f"make ray: {what}: {found!r}, and not {wanted!r}")
    NUM_CHECKED += 1
    say(f"  ok: {what}: {found}")


@contextlib.contextmanager
def part(text: str) -> Iterator[None]:
    began = time.monotonic()
    say(text)
    yield
    say(f"  {time.monotonic() - began:.0f} s")


class Scene:
    """Runs of one plan in one folder of runs."""

    def __init__(self, folder: Path, name: str, address: str, *, yaml: str = "", **trouble: Any) -> None:
        self.root = folder / name
        (self.root / "notes").mkdir(parents=True)
        self.file = self.root / "cluster.yaml"
        self.file.write_text(f"address: {address}\npython: {PYTHON}\ncells_per_task: 1\n{yaml}")
        self.plan = self._troubled(**trouble)

    def _troubled(self, *, names: str = "ab", ctx: Sequence[int] = (64,), threads: int = 1, **params: Any) -> Plan:
        checkpoints = tuple(ttbench_trouble.checkpoint(name) for name in names)
        params = {"once": str(self.root / "notes"), **params}
        options = Options(checkpoints=checkpoints, threads=threads, ctx=list(ctx), params=params)
        return plan_task("trouble", options, out=self.root / "absent")

    def run(self, during: Callable[[Store], None] | None = None) -> Store:
        """Run to the end; `during` is called with the run's folder once it is there, beside it."""
        failed: list[BaseException] = []

        def beside() -> None:
            try:
                until("the run's folder", lambda: len(run_folders(self.root)) > 0)
                assert during is not None
                during(Store(run_folders(self.root)[0]))
            except BaseException as error:
                failed.append(error)
                os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=beside, daemon=True)
        if during is not None:
            thread.start()
        result = run_cells(
            self.plan, out=self.root, name="ray", placed=Placement(executor="ray", cluster=str(self.file))
        )
        if during is not None:
            thread.join()
        if failed:
            raise failed[0]
        return Store(result.folder)

    def again(self, *, missing: int) -> None:
        for cell in self.plan.cells:
            (self.root / "notes" / cell.cell_id).touch()
        store = self.run()
        check("cells measured by the same command", sum(len(task.cells) for task in read_tasks(store)), missing)
        check("statuses then", sorted(set(store.done().values())), ["ok"])


def until(what: str, seen: Callable[[], bool], *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            raise SystemExit(f"make ray: waited {seconds:g} s in vain for {what}")
        time.sleep(0.3)


def outcome(store: Store) -> tuple[dict[str, int], list[str]]:
    reasons = sorted({record.reason or "" for record in store.records() if record.status != "ok"})
    for reason in reasons:
        say(f"  {reason}")
    return dict(Counter(store.done().values())), reasons


def begun(store: Store, num: int) -> None:
    """Wait until so many tasks run, and what goes wrong in them has begun."""
    until(f"{num} tasks that run", lambda: len(starts(store)) >= num)
    until("their cells", lambda: len(list((store.folder.parent / "notes").iterdir())) >= num)


def ours(*modules: str) -> list[psutil.Process]:
    """Processes of these modules in this network, so that other runs on the machine are not counted."""
    found, here = [], os.readlink("/proc/self/ns/net")
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(OSError, psutil.Error):
            is_here = os.readlink(f"/proc/{process.pid}/ns/net") == here
            if is_here and any(module in (process.info["cmdline"] or ()) for module in modules):
                found.append(process)
    return found


def orphans() -> list[list[str]]:
    time.sleep(3)
    return [process.cmdline() for process in ours("ttbench.runs.executors.task", "ttbench.runs.worker")]


def equal_rows(folder: Path, address: str) -> None:
    with part("eight cells of the zoo over two nodes"):
        options: dict[str, Any] = {"checkpoints": ["transformer", "ttt-linear"], "ctx": 64, "limit": 1, "threads": 1}
        options |= {"seed": [0, 1, 2, 3], "corpus": "languages", "unchecked": True}
        options["params"] = {"window": 32, "max_context": 64}
        file = folder / "zoo.yaml"
        file.write_text(f"address: {address}\npython: {PYTHON}\ncells_per_task: 2\n")
        remote = ttbench.run("perplexity", out=folder / "zoo", executor="ray", cluster=str(file), **options)
        local = ttbench.run("perplexity", out=folder / "local", **options)
        same = [name for name in local if name not in STAMPS]
        check("statuses", sorted(set(remote["status"])), ["ok"])
        check("rows equal local's", remote[same].equals(local[same]), True)


def killed_worker(folder: Path, address: str) -> None:
    with part("a Ray worker is killed: its task's own process dies with it"):
        scene = Scene(folder, "worker", address, names="a", what="hang")

        def kill(store: Store) -> None:
            begun(store, 1)
            [task] = ours("ttbench.runs.executors.task")
            parent = task.parent()
            assert parent is not None
            parent.kill()

        counts, reasons = outcome(scene.run(kill))
        check("statuses", counts, {"killed": 1})
        check("reason", "WorkerCrashedError" in reasons[0], True)
        check("processes left", orphans(), [])
        scene.again(missing=1)


def killed_raylet(folder: Path, cluster: Cluster, address: str) -> None:
    with part("a raylet is killed alone: its task runs on, and its answer comes"):
        hold = _hold_first_nodes()
        node = cluster.add_node(**settings(1))
        scene = Scene(folder, "raylet", address, names="a", ctx=(64,), what="slow", slow_s=8.0, threads=1)
        try:

            def kill(store: Store) -> None:
                begun(store, 1)
                os.kill(_raylet(node), signal.SIGKILL)

            counts, _ = outcome(scene.run(kill))
        finally:
            hold()
        say(f"  statuses: {counts}")
        check("one end of the cell, whichever", sum(counts.values()), 1)
        if counts != {"ok": 1}:
            scene.again(missing=1)
        cluster.remove_node(node, allow_graceful=False)


def killed_node(folder: Path, cluster: Cluster, address: str) -> None:
    with part("a raylet is killed with its children"):
        hold = _hold_first_nodes()
        node = cluster.add_node(**settings(1))
        scene = Scene(folder, "node", address, names="a", what="hang")
        try:

            def kill(store: Store) -> None:
                begun(store, 1)
                raylet = psutil.Process(_raylet(node))
                for process in [*raylet.children(recursive=True), raylet]:
                    process.kill()

            counts, _ = outcome(scene.run(kill))
        finally:
            hold()
        check("statuses", counts, {"killed": 1})
        check("processes left", orphans(), [])
        cluster.remove_node(node, allow_graceful=False)
        scene.again(missing=1)


def no_place(folder: Path, address: str) -> None:
    with part("a task that asks for more cores than any node has"):
        scene = Scene(folder, "place", address, names="a", threads=64, yaml="queue_timeout: 6\n")
        began = time.monotonic()
        counts, reasons = outcome(scene.run())
        check("statuses", counts, {"killed": 1})
        check("reason", reasons[0].startswith("not started within 6 s: it asks for 64 CPUs"), True)
        check("in time", time.monotonic() - began < 60, True)


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


HOLDER = """
import ray, sys, time
ray.init(address=sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=1)
def hold():
    time.sleep(600)
held = [hold.remote() for _ in range(int(sys.argv[2]))]
print("held", flush=True)
time.sleep(600)
"""
HELD: dict[str, Any] = {}


def _hold_first_nodes() -> Callable[[], None]:
    """Take every core there is, so that the next task goes to a node that is added then."""
    import subprocess

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, HELD["address"], str(HELD["cpus"])], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    time.sleep(5)

    def end() -> None:
        holder.kill()
        holder.wait()

    return end


def settings(num_cpus: int) -> dict[str, Any]:
    """Of a node."""
    return {"num_cpus": num_cpus, "object_store_memory": 100 * 1024**2}


def main() -> None:
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="ttbench-ray-"))
    cluster = Cluster(initialize_head=True, head_node_args={**settings(2), "include_dashboard": False})
    try:
        cluster.add_node(**settings(2))
        address = cluster.address
        HELD.update(address=address, cpus=4)
        say(f"ray {ray.__version__}, two nodes at {address}, in a network of their own")
        no_place(folder, address)
        killed_worker(folder, address)
        killed_node(folder, cluster, address)
        killed_raylet(folder, cluster, address)
        equal_rows(folder, address)
    finally:
        cluster.shutdown()
    shutil.rmtree(folder)
    say(f"make ray: {NUM_CHECKED} checks in {time.monotonic() - began:.0f} s; the cluster is gone")


if __name__ == "__main__":
    main()
