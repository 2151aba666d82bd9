"""Runs: a plan becomes rows.

    Options -> plan_task | plan_suite -> Plan -> run_cells -> RunResult -> rows

Cells that an earlier run below the same `out` has answered are taken over by their id, the rest is measured: the same
command again does only what is missing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.machine import measure
from ttbench.runs.executor import LocalExecutor, unmeasured
from ttbench.runs.plan import Plan
from ttbench.runs.progress import Outlook, Progress, Silent
from ttbench.runs.request import DEFAULT_OUT, Options, plan_suite, plan_task
from ttbench.store.record import now
from ttbench.store.store import Store, find_done
from ttbench.types import FAILURES, Checkpoint, Scalar, Status

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Options", "RunInterrupted", "RunResult", "plan_suite", "plan_task", "run_cells", "run_suite", "run_task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run left behind."""

    folder: Path
    statuses: Mapping[str, Status]  # by cell id, skipped cells included
    num_reused: int  # cells that earlier runs had answered
    seconds: float  # wall

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
) -> RunResult:
    """Run what is missing of a plan and store everything in a new folder below `out`.

    Args:
        name: what the folder is called after its time, such as the task.
        command: what does the same again; shown when interrupted.
        options: recorded in run.json.
        timeout: seconds per cell, for all cells; None: each cell's own.
        memory_limit: bytes of data a worker may allocate; None: what the machine has free.
        fresh: measure again what earlier runs answered.

    Raises StoreError when the folder cannot be written, RunInterrupted on Ctrl-C. Failed cells raise nothing.
    """
    started = time.monotonic()
    environment = measure.environment({**os.environ, **measure.worker_variables(_threads(plan))})
    done = {} if fresh else find_done(out, [cell.cell_id for cell in plan.cells])
    skips = {skip.cell.cell_id: skip for skip in plan.skips}
    cells = [*plan.cells, *plan.twins, *(skip.cell for skip in plan.skips)]
    store = Store.create(out, name=name, command=command, options=options or {}, cells=cells, environment=environment)
    for path in done.values():
        store.adopt(path)
    for skip in skips.values():
        store.write_cell(unmeasured(skip.cell, skip.status, skip.reason, started=now(), cell_s=0.0))
    progress = progress or Silent()
    progress.on_plan(plan, folder=str(store.folder), num_reused=len(done))
    todo = tuple(cell for cell in plan.cells if cell.cell_id not in done)
    executor = LocalExecutor(
        store=store,
        outlook=Outlook(plan, todo),
        progress=progress,
        num_cells=len(todo),
        timeout_s=timeout,
        memory_limit=memory_limit,
    )
    try:
        executor.run(todo)
    except KeyboardInterrupt:
        raise RunInterrupted(
            folder=store.folder,
            num_done=len(done) + executor.num_ended,
            num_cells=len(plan.cells),
            command=command,
        ) from None
    store.write_rows()
    return RunResult(
        folder=store.folder, statuses=store.done(), num_reused=len(done), seconds=time.monotonic() - started
    )


def _threads(plan: Plan) -> int:
    return plan.cells[0].threads if plan.cells else measure.default_threads()


def run_task(
    task: str,
    *,
    checkpoints: Sequence[str | Checkpoint] | None = None,
    ctx: str | int | Sequence[int] | None = None,
    corpus: str | None = None,
    protocol: str | None = None,
    limit: int | str | None = None,
    params: Mapping[str, Scalar] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    out: str | Path = DEFAULT_OUT,
    timeout: float | None = None,
    progress: Progress | None = None,
    engine: str = "eager",
    attention: str | None = None,
    unchecked: bool = False,
    fresh: bool = False,
) -> pd.DataFrame:
    """Run one task and return its tidy rows, those that earlier runs below `out` had measured included.

    Args:
        task: registered name.
        checkpoints: zoo names, folders, hub ids `org/name@revision`; None: the task's, mostly the whole zoo.
        ctx: tokens, as in "32k", "1k,4k", "1k..32k"; None: the task's default.
        corpus: registered name, `text:PATH` or `hf:DATASET`; None: the task's own, for tasks that read text.
        protocol: the task's parameter of that name.
        limit: documents or trials, or "all" where a task can read all there is; None: the task's default.
        params: the task's other parameters.
        batch_size: sequences; None: the task's default.
        threads: None: one per core this process may use, fewer under a CPU quota.
        timeout: seconds per cell; None: no limit.
        engine: eager, or hf: any model of transformers through its own code.
        attention: sdpa, eager or flash; None: each checkpoint's default.
        unchecked: score also what looks ahead or otherwise fails its probes; its rows say so.
        fresh: measure again what earlier runs answered.

    Raises UsageError when the request has no meaning, StoreError when `out` cannot be written, RunInterrupted on
    Ctrl-C. A failed cell raises nothing: its row says so in `status` and `reason`.
    """
    options = Options(
        checkpoints=None if checkpoints is None else tuple(checkpoints),
        ctx=ctx if ctx is None or isinstance(ctx, str | int) else tuple(ctx),
        corpus=corpus,
        protocol=protocol,
        limit=limit,
        params=params or {},
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        threads=threads,
        seed=seed,
        timeout=timeout,
        engine=engine,
        attention=attention,
        unchecked=unchecked or None,
    )
    plan = plan_task(task, options, out=out)
    again = ", fresh=True" if fresh else ""
    command = f"ttbench.run({task!r}, {options.spelling()}out={str(out)!r}{again})"
    return run_cells(
        plan, out=out, name=task, command=command, options=options.to_json(), progress=progress, fresh=fresh
    ).rows()


def run_suite(
    suite: str | Path,
    *,
    options: Options | None = None,
    out: str | Path = DEFAULT_OUT,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Run all tasks of a suite, named or given as a path; options given go before the suite's. Raises as `run_task`."""
    options = options or Options()
    plan = plan_suite(suite, options, out=out)
    command = f"ttbench.runs.sweep.run_suite({str(suite)!r}, options=Options({options.spelling()}), out={str(out)!r})"
    name = Path(suite).stem
    return run_cells(plan, out=out, name=name, command=command, options=options.to_json(), progress=progress).rows()
