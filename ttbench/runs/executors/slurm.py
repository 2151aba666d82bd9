"""The Slurm executor: tasks as job arrays, one array for each class of resources.

Every task runs the local executor on its cells, in the run's folder, which all nodes must see under the same path.
Nothing is requeued: what was lost ends as a status, and the same command submits what is missing.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import ClassVar

from ttbench.errors import UsageError
from ttbench.runs.executors import slurm_commands
from ttbench.runs.executors.base import Assignment, Placement
from ttbench.runs.executors.cluster_file import Asked, ClusterFile, read_cluster_file
from ttbench.runs.executors.outcomes import Outcome
from ttbench.runs.executors.tasks import (
    ClusterTask,
    Submission,
    cluster_folder,
    divide,
    write_submission,
    write_tasks,
)
from ttbench.runs.plan import Plan
from ttbench.store.files import write_whole
from ttbench.store.store import Store
from ttbench.types import Cell

NAME = "slurm"
MODULE = "ttbench.runs.executors.task"


class SlurmExecutor:
    """Submits cells to Slurm; `ttbench.runs.executors.detached` follows and collects them."""

    detached: ClassVar[bool] = True

    def __init__(self, placement: Placement) -> None:
        if placement.jobs > 1:
            raise UsageError(
                "--jobs is for executor local; a cluster file says how many tasks run at once: throttle: N"
            )
        self.num_ended = 0
        self._array_size = slurm_commands.LEAST_ARRAY
        self._file: ClusterFile = read_cluster_file(placement.cluster)

    def check(self, plan: Plan, cells: Sequence[Cell]) -> None:
        """Refuse where Slurm's commands are missing, or cells need more memory or threads than the file asks for."""
        slurm_commands.require_slurm()
        self._array_size = slurm_commands.max_array_size()
        most = max((cell.threads for cell in cells), default=0)
        if self._file.cpus is not None and most > self._file.cpus:
            raise UsageError(
                f"cells have {most} threads and the cluster file asks for {self._file.cpus} cpus: give one number"
            )

    def run(self, work: Assignment) -> None:
        """Submit every cell. Raises StoreError or UsageError; what was submitted until then is noted."""
        tasks = divide(work.cells, cells_per_task=self._file.cells_per_task)
        write_tasks(work.store, tasks)
        size = self._array_size
        jobs: list[tuple[str, int, int]] = []
        for _, alike in groupby(tasks, key=lambda task: task.resources):
            found = list(alike)
            for start in range(0, len(found), size):
                piece = found[start : start + size]
                script = cluster_folder(work.store) / f"array-{piece[0].index}.sh"
                write_whole(script, batch_script(work.store, piece, self._file).encode())
                jobs.append((slurm_commands.submit(script), piece[0].index, len(piece)))
                write_submission(work.store, Submission(executor=NAME, jobs=tuple(jobs)))

    def outcomes(self, found: Submission) -> Mapping[int, Outcome]:
        """What Slurm says of each task, by index in the run; those that it does not know have no state."""
        slurm_commands.require_slurm()
        told: dict[int, Outcome] = {}
        for job_id, first, num in found.jobs:
            known = slurm_commands.outcomes(job_id, range(num))
            told |= {first + index: known.get(index, Outcome(state="")) for index in range(num)}
        return told

    def cancel(self, found: Submission) -> None:
        """Cancel every task that is not over."""
        slurm_commands.require_slurm()
        slurm_commands.cancel(found.job_ids)


def batch_script(store: Store, tasks: Sequence[ClusterTask], file: ClusterFile) -> str:
    """The script of an array of tasks with equal resources and consecutive indices."""
    first, folder = tasks[0], os.path.abspath(store.folder)
    asked: Asked = file.timing if first.kind == "timing" else file.quality
    throttle = "" if file.throttle is None else f"%{file.throttle}"
    gres = asked.gres or ("gpu:1" if first.on_gpu else None)
    options = {
        "job-name": f"ttbench-{store.run_id}",
        "array": f"0-{len(tasks) - 1}{throttle}",
        "output": _escaped(f"{folder}/cluster/logs/") + "%A_%a.log",
        "chdir": os.getcwd(),
        "cpus-per-task": str(file.cpus or first.threads),
        "partition": asked.partition,
        "time": asked.time,
        "mem": asked.memory,
        "gres": gres,
    }
    lines = [f"#SBATCH --{name}={_word(value)}" for name, value in options.items() if value is not None]
    lines += ["#SBATCH --no-requeue", *(["#SBATCH --exclusive"] if first.kind == "timing" else [])]
    lines += [f"#SBATCH {option}" for option in asked.options]
    words = [*shlex.split(file.container or ""), file.python or sys.executable, "-P", "-m", MODULE, folder]
    command = f"exec {shlex.join(words)} $(({first.index} + SLURM_ARRAY_TASK_ID))"
    return "\n".join(["#!/bin/sh", *lines, "", *file.prologue.splitlines(), command, ""])


def _escaped(path: str) -> str:
    """A path in a pattern of Slurm's, where % begins a field."""
    return path.replace("%", "%%")


def _word(text: str) -> str:
    """A value on an #SBATCH line, which Slurm splits at spaces unless they are quoted."""
    return f'"{text}"' if any(each in text for each in " \t'") else text
