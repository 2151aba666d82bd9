"""Runs whose cells a cluster measures after the command that submitted them: status, cancel, collect, wait."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ttbench.errors import StoreError, UsageError
from ttbench.registry import EXECUTORS
from ttbench.runs.executors.base import Executor, Placement, unmeasured
from ttbench.runs.executors.outcomes import Outcome, end
from ttbench.runs.executors.tasks import ClusterTask, Submission, read_submission, read_tasks, starts
from ttbench.store.record import now
from ttbench.store.store import Store, find_done, run_folders
from ttbench.types import Cell, Status

# Seconds between two looks at the queue: a cluster's controller answers everyone.
FIRST_LOOK_S, LAST_LOOK_S = 1.0, 30.0


class DetachedExecutor(Executor, Protocol):
    """An executor that only submits."""

    def outcomes(self, found: Submission) -> Mapping[int, Outcome]:
        """What the cluster says of each task, by index in the run."""
        ...

    def cancel(self, found: Submission) -> None:
        """Cancel every task that is not over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """What became of a run so far."""

    num_cells: int
    statuses: Mapping[str, Status]  # of the cells that ended, by id
    executor: str | None  # None: nothing was submitted
    tasks: Mapping[int, Outcome]  # by index
    held: int = 0  # cells that tasks which are not over have still to bring to an end

    @property
    def live(self) -> bool:
        return any(found.live for found in self.tasks.values())

    def counts(self) -> dict[str, int]:
        """Tasks by what they are doing."""
        words = (
            "waiting" if found.waiting else "running" if found.running else "over" for found in self.tasks.values()
        )
        return dict(Counter(words))


def _opened(found: Submission) -> DetachedExecutor:
    return EXECUTORS.load(found.executor)(Placement(executor=found.executor))


def state(store: Store) -> RunState:
    """What became of a run so far. Raises UsageError when its cluster does not answer."""
    cell_ids = {entry["cell_id"] for entry in store.run["cells"]}
    statuses = store.done()
    found = read_submission(store)
    if found is None:
        return RunState(num_cells=len(cell_ids), statuses=statuses, executor=None, tasks={})
    told = _opened(found).outcomes(found)
    here = set(store.cell_ids())
    held = sum(cell.cell_id not in here for task in _live(read_tasks(store), told) for cell in task.cells)
    return RunState(num_cells=len(cell_ids), statuses=statuses, executor=found.executor, tasks=told, held=held)


def _live(tasks: Iterable[ClusterTask], told: Mapping[int, Outcome]) -> list[ClusterTask]:
    return [task for task in tasks if task.index in told and told[task.index].live]


def cancel(store: Store) -> None:
    """Cancel what a run submitted. Raises UsageError where it submitted nothing."""
    found = read_submission(store)
    if found is None:
        raise UsageError(f"run {store.run_id} was submitted to no cluster; a run on this machine ends by Ctrl-C")
    _opened(found).cancel(found)


def collect(store: Store) -> RunState:
    """Give every cell that no task will bring to an end its status, and write the rows of what there is.

    Cells that another run had submitted already are taken over from it. Raises UsageError when the cluster does not
    answer, StoreError when the folder cannot be written.
    """
    found = read_submission(store)
    if found is not None:
        told = _opened(found).outcomes(found)
        # Looked at after the cluster was asked: what a task stored before its end is there.
        here = set(store.cell_ids())
        began = starts(store)
        for task in read_tasks(store):
            outcome = told.get(task.index, Outcome(state=""))
            if outcome.live:
                continue
            status, reason = end(outcome, started=_words(began.get(task.index, [])))
            for cell in task.cells:
                if cell.cell_id not in here:
                    store.write_cell(unmeasured(cell, status, reason, started=now(), cell_s=0.0))
    _take_over(store)
    store.write_rows()
    return state(store)


def _take_over(store: Store) -> None:
    """Answers that other runs of the same folder have by now, for cells that this one did not submit."""
    missing = {entry["cell_id"] for entry in store.run["cells"]} - set(store.cell_ids())
    missing -= {cell.cell_id for task in read_tasks(store) for cell in task.cells}
    for place in find_done(store.folder.parent, missing).values():
        store.adopt(place)


def _words(began: Sequence[Mapping[str, str]]) -> str:
    return ", and again ".join(f"on {each['node']} at {each['time']}" for each in began)


def wait(store: Store) -> RunState:
    """Sleep until no task of a run is left, then collect. Raises as `collect`."""
    pause_s = FIRST_LOOK_S
    while state(store).live:
        time.sleep(pause_s)
        pause_s = min(LAST_LOOK_S, 1.5 * pause_s)
    return collect(store)


def held_elsewhere(root: Path | str, cells: Iterable[Cell]) -> dict[str, str]:
    """Cells that tasks of earlier runs below `root` have still to bring to an end: cell id -> run.

    Raises UsageError when their cluster does not answer.
    """
    missing = {cell.cell_id for cell in cells}
    found: dict[str, str] = {}
    for folder in run_folders(root):
        try:
            store = Store(folder)
            submission = read_submission(store)
            tasks = [] if submission is None else read_tasks(store)
        except StoreError:
            continue
        # Most runs were collected long ago: the cluster is asked only where a cell of ours has no end there.
        wanted = missing - set(store.cell_ids()) if tasks else set[str]()
        mine = [task for task in tasks if any(cell.cell_id in wanted for cell in task.cells)]
        if submission is None or not mine:
            continue
        for task in _live(mine, _opened(submission).outcomes(submission)):
            for cell in task.cells:
                if cell.cell_id in missing and not store.has(cell.cell_id):
                    found.setdefault(cell.cell_id, store.run_id)
    return found
