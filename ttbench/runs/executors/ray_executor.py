"""The Ray executor: each task is a Ray task that starts our own process on its node and waits for it.

Ray only finds places. Cells are measured by `python -m ttbench.runs.executors.task` as everywhere, in the run's folder,
which all nodes must see under the same path. Nothing is tried twice (`max_retries=0`); what Ray loses ends as a status.
A task that asks for what no node has would wait without end: while nothing of the run is running, it is given
`queue_timeout` seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ttbench.errors import UsageError
from ttbench.runs.executors.base import Assignment, Placement, unmeasured
from ttbench.runs.executors.cluster_file import ClusterFile, read_cluster_file
from ttbench.runs.executors.needs import group_bytes
from ttbench.runs.executors.tasks import ClusterTask, cluster_folder, divide, starts, write_tasks
from ttbench.runs.plan import Plan
from ttbench.store.record import now
from ttbench.types import Cell, Status

MODULE = "ttbench.runs.executors.task"
POLL_S = 1.0
# Errors of ray.exceptions by name, the nearest first: what became of a task.
_ENDS: Mapping[str, tuple[Status, str]] = {
    "OutOfMemoryError": ("oom", "Ray ended it, since its node was short of memory"),
    "NodeDiedError": ("killed", "its node died"),
    "WorkerCrashedError": ("killed", "the Ray worker that it ran in died"),
    "TaskCancelledError": ("killed", "it was cancelled"),
    "RayTaskError": ("error", "its process could not be started"),
    "RayError": ("killed", "Ray lost it"),
}


def ended_by(error: BaseException) -> tuple[Status, str]:
    """Status and reason of the cells that a task left behind when Ray raised this for it."""
    names = [kind.__name__ for kind in type(error).__mro__]
    status, words = next((_ENDS[name] for name in names if name in _ENDS), ("error", "Ray ended it"))
    told = next(iter(str(error).splitlines()), "")
    return status, f"{words} ({type(error).__name__}{f': {told[:120]}' if told else ''})"


def ended_with(code: int) -> tuple[Status, str]:
    """Status and reason of the cells that a process left behind which ended with this code."""
    if code < 0 or code > 128:
        return "killed", f"its process was ended by a signal (exit code {code})"
    return "error", f"its process ended without it (exit code {code}); see the task's log"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayPlacement:
    """What a task is given by Ray."""

    num_cpus: int
    num_gpus: int
    memory: int  # bytes
    node_id: str | None = None  # None: any node

    @property
    def words(self) -> str:
        gpus = f", {self.num_gpus} GPU" if self.num_gpus else ""
        return f"{self.num_cpus} CPUs{gpus} and {self.memory / 1024**3:.1f} GiB"


class RayExecutor:
    """Runs cells on a Ray cluster, the one that `address` or RAY_ADDRESS names, or one of this machine's own."""

    detached: ClassVar[bool] = False

    def __init__(self, placement: Placement) -> None:
        if placement.jobs > 1:
            raise UsageError("--jobs is for executor local; Ray runs as many tasks side by side as it has places for")
        self.num_ended = 0
        self._file: ClusterFile = read_cluster_file(placement.cluster)

    def check(self, plan: Plan, cells: Sequence[Cell]) -> None:
        """Refuse where ray is not installed."""
        if importlib.util.find_spec("ray") is None:
            raise UsageError(
                "executor ray needs ray, which is not installed: pip install 'ttbench[ray]', or use --executor local"
            )

    def run(self, work: Assignment) -> None:
        """Bring every cell to an end in the store. Raises StoreError, UsageError where no cluster answers."""
        tasks = divide(work.cells, cells_per_task=self._file.cells_per_task)
        write_tasks(work.store, tasks)
        if not tasks:
            return
        # Late: an extra that takes a second.
        ray = importlib.import_module("ray")
        given = {} if self._file.address is None else {"address": self._file.address}
        try:
            # Ray's own threads and logs are no part of what is measured.
            ray.init(log_to_driver=False, configure_logging=False, **given)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster answers: {type(error).__name__}: {error}") from error
        try:
            _RayRun(ray, self, work, self._file).follow(tasks)
        finally:
            ray.shutdown()


def command(work: Assignment, task: ClusterTask, file: ClusterFile) -> list[str]:
    """The words that run a task on a node."""
    words = [*shlex.split(file.container or ""), file.python or sys.executable, "-P", "-m", MODULE]
    return [*words, os.path.abspath(work.store.folder), str(task.index)]


def _starter() -> Callable[..., int]:
    """A function that Ray sends by value: a node needs no ttbench in Ray's own interpreter."""

    def start(words: list[str], variables: dict[str, str], log: str, prologue: str) -> int:
        import os
        import subprocess

        words = [*words, "--parent", str(os.getpid())]
        if prologue.strip():
            words = ["/bin/sh", "-c", f'{prologue}\nexec "$@"', "sh", *words]
        with open(log, "ab") as out:
            environment = {**os.environ, **variables}
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        return done.returncode

    return start


class _RayRun:
    """Tasks that were handed to Ray, followed to their ends."""

    def __init__(self, ray: Any, executor: RayExecutor, work: Assignment, file: ClusterFile) -> None:
        self._ray, self._executor, self._work, self._file = ray, executor, work, file
        self._told: set[str] = set()  # cells that the display has heard of
        self._moved = time.monotonic()  # when something of the run was last running

    def follow(self, tasks: Sequence[ClusterTask]) -> None:
        waiting = {self._submit(task): task for task in tasks}
        places = {task.index: self._place(task) for task in tasks}
        try:
            while waiting:
                ready, _ = self._ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
                for reference in ready:
                    task = waiting.pop(reference)
                    self._end(task, *self._outcome(reference))
                    self._moved = time.monotonic()
                begun = starts(self._work.store)
                running = [task for task in waiting.values() if task.index in begun]
                for task in running:
                    self._tell(task)
                if running:
                    self._moved = time.monotonic()
                elif waiting and time.monotonic() - self._moved > self._file.queue_timeout:
                    self._give_up(waiting, places)
        except BaseException:
            for reference in waiting:
                self._ray.cancel(reference, force=True)
            raise

    def _submit(self, task: ClusterTask) -> Any:
        place = self._place(task)
        options: dict[str, Any] = {
            "num_cpus": place.num_cpus,
            "num_gpus": place.num_gpus,
            "memory": place.memory,
            "max_retries": 0,
            "name": f"{self._work.store.run_id}-{task.index}",
        }
        if place.node_id is not None:
            kinds = importlib.import_module("ray.util.scheduling_strategies")
            strategy = kinds.NodeAffinitySchedulingStrategy(node_id=place.node_id, soft=False)
            options["scheduling_strategy"] = strategy
        variables = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        log = str((cluster_folder(self._work.store) / "logs" / f"{task.index}.log").resolve())
        start = self._ray.remote(_starter()).options(**options)
        return start.remote(command(self._work, task, self._file), variables, log, self._file.prologue)

    def _place(self, task: ClusterTask) -> RayPlacement:
        """What a task is given: the cores of its cells; to time, all of one node, so that nothing runs beside it."""
        cpus, node_id = self._file.cpus or task.threads, None
        if task.kind == "timing":
            alive = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= cpus]
            if alive:
                largest = max(alive, key=lambda node: (node["Resources"]["CPU"], node["NodeID"]))
                cpus, node_id = int(largest["Resources"]["CPU"]), largest["NodeID"]
        memory = group_bytes(self._work.plan, task.cells)
        return RayPlacement(num_cpus=cpus, num_gpus=int(task.on_gpu), memory=memory, node_id=node_id)

    def _outcome(self, reference: Any) -> tuple[Status, str]:
        try:
            return ended_with(self._ray.get(reference))
        # What Ray raises is of its own kinds, and Ray is not there to be imported from.
        except Exception as error:
            return ended_by(error)

    def _give_up(self, waiting: dict[Any, ClusterTask], places: Mapping[int, RayPlacement]) -> None:
        """Nothing of the run has been running for as long as tasks may wait: those that are left find no place."""
        there = self._ray.cluster_resources()
        has = f"{there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs, {there.get('memory', 0) / 1024**3:.1f} GiB"
        for reference in list(waiting):
            task = waiting.pop(reference)
            self._ray.cancel(reference, force=True)
            wanted = places[task.index].words
            words = f"not started within {self._file.queue_timeout:g} s: it asks for {wanted}, and Ray has {has} in all"
            self._end(task, "killed", words)

    def _end(self, task: ClusterTask, status: Status, reason: str) -> None:
        """Give the cells that a task left behind this end."""
        store = self._work.store
        for cell in task.cells:
            if not store.has(cell.cell_id):
                store.write_cell(unmeasured(cell, status, reason, started=now(), cell_s=0.0))
        self._tell(task)

    def _tell(self, task: ClusterTask) -> None:
        """Let the display hear of the cells of a task that ended."""
        for cell in task.cells:
            if cell.cell_id in self._told or not self._work.store.has(cell.cell_id):
                continue
            self._told.add(cell.cell_id)
            record, total = self._work.store.read(cell.cell_id), len(self._work.cells)
            progress = self._work.progress
            progress.on_cell_start(cell, index=len(self._told), num_cells=total, seconds_left=None)
            self._executor.num_ended += 1
            progress.on_cell_end(cell, status=record.status, reason=record.reason, seconds_left=None)
