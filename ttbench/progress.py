"""What a run tells while it runs: an interface for displays, and the arithmetic of the time that is left."""

from __future__ import annotations

import time
from typing import Protocol

from ttbench.plan import Plan
from ttbench.types import Cell, Status


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

    A cell's size is its estimate in seconds where earlier runs gave one, else its FLOPs, else parameters times tokens.
    The pace of this run, seconds per size so far and apart for cells of each kind, turns what remains into seconds.
    """

    def __init__(self, plan: Plan, todo: tuple[Cell, ...]) -> None:
        self._sizes = {}  # cell id -> (task and unit, size)
        for cell in todo:
            estimate = plan.estimates[cell.cell_id]
            if estimate.seconds is not None:
                unit, size = "s", estimate.seconds
            elif estimate.flops is not None:
                unit, size = "flop", max(estimate.flops, 1.0)
            else:
                unit, size = "parameter token", float(cell.checkpoint.num_params * cell.context_len)
            self._sizes[cell.cell_id] = ((cell.task, unit, cell.checkpoint.architecture), size)
        self._spent: dict[tuple[str, ...], tuple[float, float]] = {}  # kind -> (seconds, size)
        self._running: str | None = None
        self._started = 0.0
        self._share = 0.0  # of the running cell

    def start(self, cell: Cell) -> None:
        self._running, self._started, self._share = cell.cell_id, time.monotonic(), 0.0

    def advance(self, done: int, total: int) -> None:
        self._share = done / total if total else 0.0

    def end(self, cell: Cell) -> None:
        kind, size = self._sizes.pop(cell.cell_id)
        if self._running == cell.cell_id:
            seconds, sizes = self._spent.get(kind, (0.0, 0.0))
            self._spent[kind] = (seconds + time.monotonic() - self._started, sizes + size)
            self._running = None

    def seconds_left(self) -> float | None:
        """None while a kind of cell remains that has neither run nor an estimate in seconds."""
        left = 0.0
        for cell_id, (kind, size) in self._sizes.items():
            elapsed = time.monotonic() - self._started if cell_id == self._running else 0.0
            if cell_id == self._running and self._share > 0:
                left += elapsed * (1 / self._share - 1)
                continue
            pace = self._pace(kind)
            if pace is None:
                return None
            left += max(0.0, pace * size - elapsed)
        return left

    def _pace(self, kind: tuple[str, ...]) -> float | None:
        if kind in self._spent:
            seconds, sizes = self._spent[kind]
            return seconds / sizes
        if kind[1] == "s":
            return 1.0
        alike = [spent for other, spent in self._spent.items() if other[:2] == kind[:2]]
        return sum(seconds for seconds, _ in alike) / sum(size for _, size in alike) if alike else None
