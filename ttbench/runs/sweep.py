"""Runs: a plan becomes rows.

    Options -> plan_task | plan_suite -> Plan -> run_cells -> RunResult -> rows

Cells that an earlier run below the same `out` has answered are taken over by their id, the rest is measured: the same
command again does only what is missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from ttbench.errors import UnknownNameError, UsageError
from ttbench.machine import measure
from ttbench.names import quote
from ttbench.registry import TASKS
from ttbench.runs.executors.base import Assignment, Placement, open_executor, unmeasured
from ttbench.runs.executors.detached import held_elsewhere
from ttbench.runs.executors.detached import wait as wait_for
from ttbench.runs.options import Options, as_arguments, to_json, validated
from ttbench.runs.plan import Plan
from ttbench.runs.progress import Progress, Silent
from ttbench.runs.request import DEFAULT_OUT, Kind, placement, plan_suite, plan_task
from ttbench.runs.suite import list_suites, runnable_suites
from ttbench.store.record import now
from ttbench.store.store import Store, find_done, find_finished
from ttbench.types import FAILURES, Status

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Options",
    "RunInterrupted",
    "RunResult",
    "plan_suite",
    "plan_task",
    "run",
    "run_cells",
    "run_suite",
    "run_task",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run left behind."""

    folder: Path
    statuses: Mapping[str, Status]  # by cell id, skipped cells included
    num_reused: int  # cells that earlier runs had answered
    seconds: float  # wall
    num_pending: int = 0  # cells that a cluster has still to bring to an end
    repeated: bool = False  # an earlier run had answered all of it: its folder is this result's
    twice: tuple[str, ...] = ()  # ids of cells that more than one writer ended: the first answer stands

    @property
    def num_failed(self) -> int:
        """Cells that ended killed, timeout or error; the same command tries them again."""
        return sum(status in FAILURES for status in self.statuses.values())

    def rows(self) -> pd.DataFrame:
        """The run's rows, those of reused cells included."""
        return Store(self.folder).rows()


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run: the worker is stopped, finished cells are kept, `command` does the rest."""

    def __init__(self, *, folder: Path, num_done: int, num_cells: int, command: str) -> None:
        super().__init__(f"interrupted: {num_done} of {num_cells} cells are kept in {folder}; to go on: {command}")
        self.folder, self.num_done, self.num_cells, self.command = folder, num_done, num_cells, command


def run_cells(
    plan: Plan,
    *,
    out: str | Path = DEFAULT_OUT,
    name: str = "run",
    command: str = "",
    options: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    progress: Progress | None = None,
    memory_limit: int | None = None,
    fresh: bool = False,
    placed: Placement | None = None,
    wait: bool = True,
) -> RunResult:
    """Run what is missing of a plan and store everything in a new folder below `out`.

    Args:
        name: what the folder is called after its time, such as the task.
        command: what does the same again; shown when interrupted.
        options: recorded in run.json.
        timeout: seconds per cell, for all cells; None: each cell's own.
        memory_limit: bytes of data a worker may allocate; None: what the machine has free.
        fresh: measure again what earlier runs answered.
        placed: where the cells run; None: here, one after the other.
        wait: until every cell has ended; otherwise a cluster's cells are `num_pending`.

    Raises UsageError when they cannot run there, StoreError when the folder cannot be written, RunInterrupted on
    Ctrl-C. Failed cells raise nothing.
    """
    started = time.monotonic()
    executor = open_executor(placed or Placement())
    done = {} if fresh else find_done(out, [cell.cell_id for cell in plan.cells])
    skips = {skip.cell.cell_id: skip for skip in plan.skips}
    cells = plan.every_cell
    finished = None if fresh else find_finished(out, cells, name=name, done=done)
    if finished is not None:
        if not (finished.folder / "rows.parquet").is_file():
            # It was stopped between its last cell and its rows.
            finished.write_rows()
        return RunResult(
            folder=finished.folder,
            statuses=finished.done(),
            num_reused=len(plan.cells),
            seconds=time.monotonic() - started,
            repeated=True,
        )
    todo = tuple(cell for cell in plan.cells if cell.cell_id not in done)
    # Tasks of an earlier run that are not over yet measure what they were submitted for.
    held = held_elsewhere(out, todo) if executor.detached and not fresh else {}
    if held and len(held) == len(todo):
        raise UsageError(
            f"every cell that is missing was submitted already, by run {', '.join(sorted(set(held.values())))}: "
            "ttbench status RUN tells how far it is, ttbench collect RUN takes what ended"
        )
    todo = tuple(cell for cell in todo if cell.cell_id not in held)
    executor.check(plan, todo)
    environment = measure.environment({**os.environ, **measure.worker_variables(_threads(plan))})
    store = Store.create(out, name=name, command=command, options=options or {}, cells=cells, environment=environment)
    for place in done.values():
        store.adopt(place)
    for skip in skips.values():
        store.write_cell(unmeasured(skip.cell, skip.status, skip.reason, started=now(), cell_s=0.0))
    progress = progress or Silent()
    progress.on_plan(plan, folder=str(store.folder), num_reused=len(done))
    work = Assignment(
        store=store, plan=plan, cells=todo, progress=progress, timeout_s=timeout, memory_limit=memory_limit
    )
    try:
        executor.run(work)
    except KeyboardInterrupt:
        raise RunInterrupted(
            folder=store.folder,
            num_done=len(done) + executor.num_ended,
            num_cells=len(plan.cells),
            command=command,
        ) from None
    if executor.detached and not wait:
        return RunResult(
            folder=store.folder,
            statuses=store.done(),
            num_reused=len(done),
            num_pending=len(todo) + len(held),
            seconds=time.monotonic() - started,
        )
    if executor.detached:
        try:
            wait_for(store)
        except KeyboardInterrupt:
            raise RunInterrupted(
                folder=store.folder,
                num_done=len(store.done()),
                num_cells=len(plan.cells),
                command=f"ttbench collect {quote(str(store.folder))}; its tasks go on until: ttbench cancel",
            ) from None
    else:
        store.write_rows()
    return RunResult(
        folder=store.folder,
        statuses=store.done(),
        num_reused=len(done),
        seconds=time.monotonic() - started,
        twice=store.twice(),
    )


def _threads(plan: Plan) -> int:
    return plan.cells[0].threads if plan.cells else measure.default_threads()


def run_task(
    task: str,
    *,
    out: str | Path = DEFAULT_OUT,
    fresh: bool = False,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Run one task and return its tidy rows, those that earlier runs below `out` had measured included.

    Args:
        task: registered name.
        out: folder of the runs.
        fresh: measure again what earlier runs answered.
        progress: is told what happens meanwhile.
        options: see `ttbench.runs.options.Options`; what is not given is the task's default.

    Raises UsageError when the request has no meaning, StoreError when `out` cannot be written, RunInterrupted on
    Ctrl-C. A failed cell raises nothing: its row says so in `status` and `reason`.
    """
    return _run("task", task, task, options, out=out, fresh=fresh, progress=progress)


def run_suite(
    suite: str | Path,
    *,
    out: str | Path = DEFAULT_OUT,
    fresh: bool = False,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Run all tasks of a suite, named or given as a path; options given go before the suite's. As `run_task`."""
    return _run("suite", str(suite), f"suite:{suite}", options, out=out, fresh=fresh, progress=progress)


def run(
    target: str | Path,
    *,
    out: str | Path = DEFAULT_OUT,
    fresh: bool = False,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> pd.DataFrame:
    """A task, or a suite by name or path; arguments and errors as those of `run_task`."""
    kind, name = find_target(str(target))
    return _run(kind, name, str(target), options, out=out, fresh=fresh, progress=progress)


def plan_target(target: str, options: Options, *, out: str | Path = DEFAULT_OUT) -> Plan:
    """The plan of a task or a suite, whichever `target` is; see `find_target`. Raises as `plan_task`."""
    kind, name = find_target(target)
    return _plan(kind, name, options, out=out)


def placement_of(target: str, options: Options) -> Placement:
    """Where the cells of a target run: as the options say, else its suite."""
    return placement(*find_target(target), options)


def folder_name(target: str) -> str:
    """What the folder of a run of `target` is called after its time, unless it is given a name."""
    return _called(*find_target(target))


def find_target(target: str) -> tuple[Kind, str]:
    """Whether a target is a task or a suite, and its name; `task:NAME` and `suite:NAME` say which.

    A name that both have means the task. Raises UnknownNameError with both kinds of names when it is neither.
    """
    kind, colon, name = target.partition(":")
    if colon and kind == "task":
        TASKS[name]
        return "task", name
    if colon and kind == "suite":
        return "suite", name
    if target in TASKS:
        return "task", target
    if Path(target).suffix not in (".yaml", ".yml") and target not in runnable_suites():
        raise UnknownNameError("task or suite", target, known={*TASKS, *list_suites()})
    return "suite", target


def _plan(kind: Kind, name: str, options: Options, *, out: str | Path) -> Plan:
    return (plan_task if kind == "task" else plan_suite)(name, options, out=out)


def _called(kind: Kind, name: str) -> str:
    return name if kind == "task" else Path(name).stem


def _run(
    kind: Kind,
    name: str,
    target: str,
    options: Mapping[str, Any],
    *,
    out: str | Path,
    fresh: bool,
    progress: Progress | None,
) -> pd.DataFrame:
    asked = validated(options)
    again = ", fresh=True" if fresh else ""
    return run_cells(
        _plan(kind, name, asked, out=out),
        out=out,
        name=_called(kind, name),
        command=f"ttbench.run({target!r}, {as_arguments(asked)}out={str(out)!r}{again})",
        options=to_json(asked),
        progress=progress,
        fresh=fresh,
        placed=placement(kind, name, asked),
    ).rows()
