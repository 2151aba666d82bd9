"""`python -m ttbench.runs.executors.task RUN INDEX`: run one task of a cluster, on the node where this process is.

Its cells are brought to an end by the local executor, one after the other. SIGTERM, by which clusters announce the end
of a task, stops the worker and leaves the cells in flight without an end; `ttbench collect` says what became of them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import NoReturn

from ttbench.machine import measure
from ttbench.machine.work import Work
from ttbench.runs.estimate import CellEstimate
from ttbench.runs.executors.base import Assignment, Placement
from ttbench.runs.executors.local import LocalExecutor
from ttbench.runs.executors.tasks import note_start, read_task
from ttbench.runs.plan import Plan
from ttbench.runs.progress import Silent
from ttbench.runs.worker import tie_to_parent
from ttbench.store.record import now
from ttbench.store.store import Store
from ttbench.types import Cell, Status

TERMINATED = 128 + signal.SIGTERM


class _Log(Silent):
    """A line for each cell, in the task's log."""

    def on_cell_start(self, cell: Cell, *, index: int, num_cells: int, seconds_left: float | None) -> None:
        _say(f"{index}/{num_cells} {cell.task} {cell.checkpoint.name} {cell.context_len} begins")

    def on_cell_end(self, cell: Cell, *, status: Status, reason: str | None, seconds_left: float | None) -> None:
        _say(f"{cell.task} {cell.checkpoint.name} {cell.context_len} {status}{f': {reason}' if reason else ''}")


def _say(text: str) -> None:
    print(f"{now()} {text}", file=sys.stderr, flush=True)


def _stop(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def run_task(folder: str, index: int) -> int:
    """Bring the cells of a task to an end; the exit code. Raises StoreError."""
    store = Store(folder)
    task = read_task(store, index)
    environment = measure.environment({**os.environ, **measure.worker_variables(task.threads)})
    store = Store(folder, environment=environment)
    note_start(store, index)
    here = set(store.cell_ids())
    todo = tuple(cell for cell in task.cells if cell.cell_id not in here)
    none = CellEstimate(flops=None, state_bytes=None, seconds=None, work=Work(calls=()))
    plan = Plan(cells=todo, skips=(), estimates={cell.cell_id: none for cell in todo})
    executor = LocalExecutor(Placement())
    try:
        executor.check(plan, todo)
        executor.run(Assignment(store=store, plan=plan, cells=todo, progress=_Log()))
    except KeyboardInterrupt:
        _say(f"ended by a signal, {executor.num_ended} of {len(todo)} cells done")
        return TERMINATED
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="ttbench.runs.executors.task", description="Run one task of a cluster.")
    parser.add_argument("folder", metavar="RUN")
    parser.add_argument("index", type=int, metavar="INDEX")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process does")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    if given.parent is not None:
        tie_to_parent(given.parent)
    sys.exit(run_task(given.folder, given.index))


if __name__ == "__main__":
    main()
