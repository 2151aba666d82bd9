"""The local executor: cells run in worker processes on this machine.

All quality cells of a checkpoint share a worker; every timing cell has its own. A worker that dies costs the cell that
was in flight, and what it left goes to a fresh worker. With `--jobs N` the workers of N checkpoints run side by side,
each with a GPU of its own where cells run on GPUs; a timing cell never runs beside another cell. The parent sleeps
until a worker speaks, dies or is late.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import ClassVar

from ttbench.errors import StoreError, UsageError
from ttbench.machine.measure import says_out_of_memory
from ttbench.runs.executors.base import Assignment, Placement, is_timing, unmeasured
from ttbench.runs.executors.needs import gpu_ids, require_room
from ttbench.runs.plan import Plan, groups
from ttbench.runs.process import Death, WorkerProcess, free_memory_bytes
from ttbench.runs.progress import Outlook
from ttbench.store.record import now
from ttbench.store.store import Store
from ttbench.types import Cell, Status

BOOT_S = 60.0  # a worker's own start, which no cell is to blame for


class LocalExecutor:
    """Runs cells in processes of this machine."""

    detached: ClassVar[bool] = False

    def __init__(self, placement: Placement) -> None:
        if placement.cluster is not None:
            raise UsageError(
                f"--cluster {placement.cluster} says what a cluster is asked for, and executor local asks none; leave "
                "it out, or add --executor slurm or ray"
            )
        self.num_ended = 0
        self._jobs = placement.jobs

    def check(self, plan: Plan, cells: Sequence[Cell]) -> None:
        """Refuse a device that is not there, and more workers side by side than memory or GPUs are there for."""
        for name in {cell.device for cell in plan.cells} - {"cpu"}:
            # Late: a run on the processor needs no torch in this process.
            from ttbench.machine.devices import torch_device

            torch_device(name)
        if self._jobs > 1:
            require_room(plan, cells, jobs=self._jobs)

    def run(self, work: Assignment) -> None:
        """Bring every cell to an end in the store. Raises StoreError when that cannot be written."""
        run = _LocalRun(self, work, jobs=self._jobs)
        for batch in batches(work.cells):
            run.side_by_side(batch) if self._jobs > 1 and len(batch) > 1 else run.one_by_one(batch)


def batches(cells: Iterable[Cell]) -> Iterator[list[tuple[Cell, ...]]]:
    """Groups in order, those that may run side by side together: a timing cell stands alone."""
    together: list[tuple[Cell, ...]] = []
    for group in groups(cells):
        if not is_timing(group[0]):
            together.append(group)
            continue
        if together:
            yield together
        together = []
        yield [group]
    if together:
        yield together


class _LocalRun:
    """An assignment in progress: what its workers, followed by a thread each, have in common."""

    def __init__(self, executor: LocalExecutor, work: Assignment, *, jobs: int) -> None:
        self.work, self.jobs = work, jobs
        self.outlook: Outlook = work.outlook
        self._executor = executor
        # Held while the display, the outlook and the counts are told of something.
        self.lock = threading.RLock()
        self._workers: set[WorkerProcess] = set()
        self.stopped = False
        self.num_running = 0
        self._of_thread = threading.local()

    @property
    def store(self) -> Store:
        """The run as the thread that asks writes to it: after its worker's death, where the worker wrote."""
        if not hasattr(self._of_thread, "store"):
            self._of_thread.store = self.work.store.writer()
        return self._of_thread.store

    def one_by_one(self, batch: Iterable[tuple[Cell, ...]]) -> None:
        for group in batch:
            self.follow_group(group, self.work.memory_limit, {})

    def side_by_side(self, batch: Sequence[tuple[Cell, ...]]) -> None:
        """`jobs` groups at a time. The first error, or Ctrl-C, stops all workers, and is raised when they are gone."""
        free = free_memory_bytes()
        share = None if free is None else free // self.jobs
        places: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
        on_gpu = any(group[0].device != "cpu" for group in batch)
        gpus = gpu_ids() if on_gpu else ()
        for job in range(self.jobs):
            places.put({"CUDA_VISIBLE_DEVICES": gpus[job]} if on_gpu else {})

        def follow(group: tuple[Cell, ...]) -> None:
            place = places.get()
            # A GPU's driver maps more than it uses: only workers on the processor are limited.
            limit = share if self.work.memory_limit is None and group[0].device == "cpu" else self.work.memory_limit
            try:
                self.follow_group(group, limit, place)
            finally:
                places.put(place)

        # A worker dies with the thread that started it, as the kernel sees it: threads outlive their workers here.
        with self.outlook.shared_by(self.jobs), ThreadPoolExecutor(max_workers=self.jobs) as pool:
            followed = [pool.submit(follow, group) for group in batch]
            try:
                for future in as_completed(followed):
                    future.result()
            except BaseException:
                for future in followed:
                    future.cancel()
                self._stop()
                raise

    def _stop(self) -> None:
        with self.lock:
            self.stopped = True
            for worker in self._workers:
                worker.kill()

    def follow_group(self, group: tuple[Cell, ...], memory_limit: int | None, place: Mapping[str, str]) -> None:
        """Bring a group to an end, by one worker after another where they die."""
        left = group
        # Each worker ends at least one cell.
        while left and not self.stopped:
            limit = free_memory_bytes() if memory_limit is None and left[0].device == "cpu" else memory_limit
            left = _Followed(self, left).run(limit, place)

    @contextlib.contextmanager
    def worker(self, cells: tuple[Cell, ...], limit: int | None, place: Mapping[str, str]) -> Iterator[WorkerProcess]:
        """A worker that `_stop` reaches while it is followed."""
        with self.lock:
            worker = WorkerProcess(
                self.work.store.folder,
                cells=cells,
                memory_limit=limit,
                variables=place,
                environment=self.work.store.environment,
                segment=self.store.segment,
            )
            self._workers.add(worker)
            if self.stopped:
                worker.kill()
        try:
            yield worker
        finally:
            with self.lock:
                self._workers.discard(worker)

    def on_start(self, cell: Cell) -> None:
        with self.lock:
            self.num_running += 1
            self.outlook.start(cell)
            self.work.progress.on_cell_start(
                cell,
                index=self._executor.num_ended + self.num_running,
                num_cells=len(self.work.cells),
                seconds_left=self.outlook.seconds_left(),
            )

    def on_progress(self, cell: Cell, *, done: int, total: int, setup_s: float) -> None:
        with self.lock:
            self.outlook.advance(done, total, setup_s=setup_s, cell=cell)
            self.work.progress.on_progress(cell, done=done, total=total, seconds_left=self.outlook.seconds_left())

    def on_end(self, cell: Cell, status: Status, reason: str | None, *, setup_s: float, ran: bool) -> None:
        with self.lock:
            self.num_running -= ran
            self._executor.num_ended += 1
            self.outlook.end(cell, status=status, setup_s=setup_s)
            left_s = self.outlook.seconds_left()
            self.work.progress.on_cell_end(cell, status=status, reason=reason, seconds_left=left_s)


class _Followed:
    """One worker, followed from its start to its end."""

    def __init__(self, run: _LocalRun, cells: tuple[Cell, ...]) -> None:
        self._run, self._cells = run, cells
        self._left = {cell.cell_id: cell for cell in cells}
        self._mark(None)

    def _mark(self, cell: Cell | None) -> None:
        # `_since`: time.monotonic() when the running cell, or its worker, began.
        self._running, self._since, self._started = cell, time.monotonic(), now()

    def run(self, limit: int | None, place: Mapping[str, str]) -> tuple[Cell, ...]:
        """Follow a worker for the cells to its end; return those that it did not come to."""
        with self._run.worker(self._cells, limit, place) as worker:
            try:
                late = self._follow(worker)
            except BaseException:
                worker.kill()
                worker.stop()
                raise
        death = worker.stop()
        left = self._left
        if self._run.stopped:
            return ()
        if self._running is None and not late and death.returncode == 0 and len(left) < len(self._cells):
            # Finished, or it asked for a fresh process by ending between two cells.
            return tuple(left.values())
        # A worker that died or stalled before its first cell answers for that one.
        cell = self._running or next(iter(left.values()))
        del left[cell.cell_id]
        store = self._run.store
        # It may have stored the cell in its last moment: what is stored stands.
        if not store.has(cell.cell_id):
            status, reason = ("timeout", self._lateness(cell)) if late else cause(death)
            seconds = time.monotonic() - self._since
            store.write_cell(unmeasured(cell, status, reason, started=self._started, cell_s=seconds, stderr=death.log))
        else:
            status, reason = store.read(cell.cell_id).status, None
        self._end(cell, status, reason)
        return tuple(left.values())

    def _follow(self, worker: WorkerProcess) -> bool:
        """Handle messages until the worker is dead (False) or a cell is late (True); ended cells leave `_left`."""
        while True:
            message = worker.next_message(self._deadline())
            if message.kind == "start":
                self._mark(self._left[message.cell_id])
                self._run.on_start(self._left[message.cell_id])
            elif message.kind == "progress":
                cell = self._left[message.cell_id]
                self._run.on_progress(cell, done=message.done, total=message.total, setup_s=message.setup_s)
            elif message.kind == "end":
                self._end(self._left.pop(message.cell_id), message.status, message.reason, setup_s=message.setup_s)
                self._mark(None)
            elif message.kind == "store_error":
                raise StoreError(message.reason)
            else:
                return message.kind == "late"

    def _end(self, cell: Cell, status: Status, reason: str | None, *, setup_s: float = 0.0) -> None:
        self._run.on_end(cell, status, reason, setup_s=setup_s, ran=self._running is not None)

    def _deadline(self) -> float | None:
        """When the running cell is late; before the first cell, when the worker is."""
        cell = self._running or next(iter(self._left.values()), None)
        limit = None if cell is None else self._limit(cell)
        return None if limit is None else self._since + limit + (0 if self._running else BOOT_S)

    def _limit(self, cell: Cell) -> float | None:
        of_run = self._run.work.timeout_s
        return cell.timeout_s if of_run is None else of_run

    def _lateness(self, cell: Cell) -> str:
        limit = self._limit(cell)
        return f"not finished after {limit:g} s" if self._running else f"no worker came up within {BOOT_S:g} s"


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
