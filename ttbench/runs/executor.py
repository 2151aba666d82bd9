"""The local executor: cells run in worker processes on this machine, one process after the other.

All quality cells of a checkpoint share a worker; every timing cell has its own. A worker that dies costs the cell that
was in flight, and what it left goes to a fresh worker. The parent sleeps until a worker speaks, dies or is late.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ttbench.errors import StoreError
from ttbench.machine.measure import says_out_of_memory
from ttbench.registry import TASKS
from ttbench.runs.plan import groups
from ttbench.runs.process import Death, WorkerProcess, free_memory_bytes
from ttbench.runs.progress import Outlook, Progress
from ttbench.store.record import CellRecord, now
from ttbench.store.store import Store
from ttbench.tasks.base import declared_columns
from ttbench.types import Cell, Status

BOOT_S = 60.0  # a worker's own start, which no cell is to blame for


def unmeasured(cell: Cell, status: Status, reason: str, *, started: str, cell_s: float, stderr: str = "") -> CellRecord:
    """The record of a cell that no worker wrote."""
    return CellRecord(
        cell=cell,
        status=status,
        reason=reason,
        started=started,
        cell_s=cell_s,
        cell_cpu_s=None,
        load_average=None,
        engine=cell.engine,
        kernel_path={},
        metrics=TASKS.load(cell.task).metrics,
        columns=declared_columns(TASKS.load(cell.task)),
        samples=(),
        evidence=({"stderr": stderr},) if stderr else (),
    )


@dataclass(kw_only=True)
class LocalExecutor:
    """A run in progress."""

    store: Store
    outlook: Outlook
    progress: Progress
    num_cells: int
    timeout_s: float | None  # per cell; None: each cell's own
    memory_limit: int | None  # bytes of data per worker; None: what the machine has free
    num_ended: int = 0
    _running: Cell | None = field(default=None, init=False)
    _since: float = field(default=0.0, init=False)  # time.monotonic() when the running cell, or its worker, began
    _started: str = field(default="", init=False)

    def run(self, cells: Iterable[Cell]) -> None:
        """Bring every cell to an end in the store. Raises StoreError when that cannot be written."""
        for group in groups(cells):
            left = group
            # Each worker ends at least one cell.
            while left:
                left = self._run_worker(left)

    def _run_worker(self, cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
        """Follow one worker to its end; return the cells that it did not come to."""
        limit = self.memory_limit
        if limit is None and cells[0].device == "cpu":
            limit = free_memory_bytes()
        left = {cell.cell_id: cell for cell in cells}
        self._mark(None)
        worker = WorkerProcess(self.store.folder, cells=cells, memory_limit=limit)
        try:
            late = self._follow(worker, left)
        finally:
            death = worker.stop()
        if self._running is None and not late and death.returncode == 0 and len(left) < len(cells):
            # Finished, or it asked for a fresh process by ending between two cells.
            return tuple(left.values())
        # A worker that died or stalled before its first cell answers for that one.
        cell = self._running or next(iter(left.values()))
        del left[cell.cell_id]
        # It may have stored the cell in its last moment: what is stored stands.
        if not self.store.cell_path(cell.cell_id).is_file():
            status, reason = ("timeout", self._lateness(cell)) if late else cause(death)
            self.store.write_cell(
                unmeasured(
                    cell,
                    status,
                    reason,
                    started=self._started,
                    cell_s=time.monotonic() - self._since,
                    stderr=death.log,
                )
            )
            self._end(cell, status, reason)
        else:
            self._end(cell, self.store.read(cell.cell_id).status, None)
        return tuple(left.values())

    def _follow(self, worker: WorkerProcess, left: dict[str, Cell]) -> bool:
        """Handle messages until the worker is dead (False) or a cell is late (True); ended cells leave `left`."""
        while True:
            message = worker.next_message(self._deadline(left))
            if message.kind == "start":
                cell = left[message.cell_id]
                self._mark(cell)
                self.outlook.start(cell)
                self.progress.on_cell_start(
                    cell, index=self.num_ended + 1, num_cells=self.num_cells, seconds_left=self.outlook.seconds_left()
                )
            elif message.kind == "progress":
                self.outlook.advance(message.done, message.total, setup_s=message.setup_s)
                self.progress.on_progress(
                    left[message.cell_id],
                    done=message.done,
                    total=message.total,
                    seconds_left=self.outlook.seconds_left(),
                )
            elif message.kind == "end":
                cell = left.pop(message.cell_id)
                self._mark(None)
                self._end(cell, message.status, message.reason, setup_s=message.setup_s)
            elif message.kind == "store_error":
                raise StoreError(message.reason)
            else:
                return message.kind == "late"

    def _mark(self, cell: Cell | None) -> None:
        self._running, self._since, self._started = cell, time.monotonic(), now()

    def _deadline(self, left: Mapping[str, Cell]) -> float | None:
        """When the running cell is late; before the first cell, when the worker is."""
        cell = self._running or next(iter(left.values()), None)
        limit = None if cell is None else self._limit(cell)
        return None if limit is None else self._since + limit + (0 if self._running else BOOT_S)

    def _limit(self, cell: Cell) -> float | None:
        return cell.timeout_s if self.timeout_s is None else self.timeout_s

    def _lateness(self, cell: Cell) -> str:
        limit = self._limit(cell)
        return f"not finished after {limit:g} s" if self._running else f"no worker came up within {BOOT_S:g} s"

    def _end(self, cell: Cell, status: Status, reason: str | None, *, setup_s: float = 0.0) -> None:
        self.num_ended += 1
        self.outlook.end(cell, status=status, setup_s=setup_s)
        self.progress.on_cell_end(cell, status=status, reason=reason, seconds_left=self.outlook.seconds_left())


def cause(death: Death) -> tuple[Status, str]:
    """Status and reason of the cell that was in flight.

    Only the kernel's own count makes a kill an `oom`, only the worker's last words a failure.
    """
    if death.oom_killed:
        return "oom", death.words
    if death.returncode < 0:
        return "killed", death.words
    last = death.log.strip().rpartition("\n")[2]
    # A worker may lack memory before its first cell, or while it writes one.
    if last.startswith("MemoryError") or says_out_of_memory(last):
        return "oom", f"{death.words}: {last}"
    return "error", f"{death.words}: {last}" if last else death.words
