"""What a run tells while it runs: an interface for displays, and the arithmetic of the time that is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from ttbench.runs.estimate import CellEstimate
from ttbench.runs.plan import Plan, groups
from ttbench.types import Cell, Status

_SPREAD = 20.0  # an estimate is never corrected by more, either way
_PRIOR_S = 2.0
_TELLING_SHARE = 0.1  # of a cell's samples, from which on they tell more than its estimate


class Progress(Protocol):
    """A display of a run. Called from the run's own thread, at most about once a second between cells.

    `seconds_left` is of the whole run; None while nothing is known.
    """

    def on_plan(self, plan: Plan, *, folder: str, num_reused: int) -> None:
        """The run's folder exists; `num_reused` cells of the plan were answered by earlier runs."""

    def on_cell_start(self, cell: Cell, *, index: int, num_cells: int, seconds_left: float | None) -> None:
        """The `index`-th (from 1) of the `num_cells` cells that remained has begun."""

    def on_progress(self, cell: Cell, *, done: int, total: int, seconds_left: float | None) -> None:
        """`done` of `total` samples of the running cell exist."""

    def on_cell_end(self, cell: Cell, *, status: Status, reason: str | None, seconds_left: float | None) -> None:
        """The cell is stored."""


class Silent:
    """A display that shows nothing."""

    def on_plan(self, plan: Plan, *, folder: str, num_reused: int) -> None: ...

    def on_cell_start(self, cell: Cell, *, index: int, num_cells: int, seconds_left: float | None) -> None: ...

    def on_progress(self, cell: Cell, *, done: int, total: int, seconds_left: float | None) -> None: ...

    def on_cell_end(self, cell: Cell, *, status: Status, reason: str | None, seconds_left: float | None) -> None: ...


class Outlook:
    """Seconds left of a run.

    Each cell has its estimate in seconds, and the first of each process what the process needs to begin. How far cells
    of a kind were off so far corrects the rest of that kind, by a factor that stays within `_SPREAD`. Cells without an
    estimate go by the seconds per FLOP of this run, so that nothing is said of a kind that has not run. Time in which
    a process began is in no cell's cost, and cells that did not end well say nothing about the others.
    """

    def __init__(self, plan: Plan, todo: tuple[Cell, ...]) -> None:
        self._left = {cell.cell_id: (cell, plan.estimates[cell.cell_id]) for cell in todo}
        # Cell id -> seconds before it, in which its process begins.
        self._begin = {group[0].cell_id: plan.estimates[group[0].cell_id].setup_s or 0.0 for group in groups(todo)}
        self._spent: dict[tuple[str, ...], tuple[float, float]] = {}  # kind -> own seconds, size
        # Cell id -> when it began, its share that is done, and seconds of it that went into opening what it needs.
        self._running: dict[str, tuple[float, float, float]] = {}
        self._jobs = 1

    def start(self, cell: Cell) -> None:
        self._running[cell.cell_id] = (time.monotonic(), 0.0, 0.0)
        # Whatever is left of its process's beginning is the cell's own from here.
        self._begin.pop(cell.cell_id, None)

    def advance(self, done: int, total: int, *, setup_s: float = 0.0, cell: Cell | None = None) -> None:
        """`done` of `total` samples exist of a running cell, or of the only one that runs.

        `setup_s` of the cell's seconds went into opening what it needs.
        """
        cell_id = next(iter(self._running)) if cell is None else cell.cell_id
        began, _, _ = self._running[cell_id]
        self._running[cell_id] = (began, done / total if total else 0.0, setup_s)

    @contextlib.contextmanager
    def shared_by(self, jobs: int) -> Iterator[None]:
        """So many cells run at a time meanwhile: the rest of the quality cells ends so much sooner."""
        self._jobs = jobs
        try:
            yield
        finally:
            self._jobs = 1

    def end(self, cell: Cell, *, status: Status = "ok", setup_s: float = 0.0) -> None:
        _, estimate = self._left.pop(cell.cell_id)
        began, _, _ = self._running.pop(cell.cell_id, (None, 0.0, 0.0))
        if began is not None and status == "ok":
            kind, size = _size(cell, estimate)
            seconds, sizes = self._spent.get(kind, (0.0, 0.0))
            self._spent[kind] = (seconds + max(0.0, time.monotonic() - began - setup_s), sizes + size)

    def seconds_left(self) -> float | None:
        """None while a kind of cell remains that has neither run nor an estimate in seconds."""
        left = alone = 0.0
        for cell_id, (cell, estimate) in self._left.items():
            expected = self._expected(cell, estimate)
            if cell_id in self._running:
                began, share, setup_s = self._running[cell_id]
                own = max(0.0, time.monotonic() - began - setup_s)
                # The first samples say little about the rest where there is an estimate.
                if share > (0.0 if expected is None else _TELLING_SHARE):
                    expected = own * (1 / share - 1)
                else:
                    expected = None if expected is None else max(0.0, expected - own)
            if expected is None:
                return None
            expected += self._begin.get(cell_id, 0.0)
            if cell.machine is None:
                left += expected
            else:
                alone += expected
        return left / self._jobs + alone

    def _expected(self, cell: Cell, estimate: CellEstimate) -> float | None:
        kind, size = _size(cell, estimate)
        seconds, sizes = self._spent.get(kind, (0.0, 0.0))
        if kind[1] == "s":
            # Seconds at the start of a run weigh in as if they had gone as expected.
            factor = (seconds + _PRIOR_S) / (sizes + _PRIOR_S)
            return size * min(max(factor, 1 / _SPREAD), _SPREAD)
        if sizes:
            return size * seconds / sizes
        alike = [spent for other, spent in self._spent.items() if other[:2] == kind[:2]]
        return size * sum(spent for spent, _ in alike) / sum(amount for _, amount in alike) if alike else None


def _size(cell: Cell, estimate: CellEstimate) -> tuple[tuple[str, ...], float]:
    """A cell's kind, and its size in the unit that is known: seconds, FLOP, or parameters times tokens."""
    if estimate.seconds is not None:
        unit, size = "s", estimate.seconds
    elif estimate.flops is not None:
        unit, size = "flop", estimate.flops
    else:
        unit, size = "parameter token", float(cell.checkpoint.num_params * cell.context_len)
    return (cell.task, unit, cell.checkpoint.architecture), size
