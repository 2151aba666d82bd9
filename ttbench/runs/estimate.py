"""Estimates: what cells will cost, from their work, a checkpoint's formulas and earlier cells of this machine."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttbench.machine.work import Texts, Work, token_bytes
from ttbench.registry import TASKS
from ttbench.tasks.base import Task
from ttbench.types import Cell

# Earlier cells of this machine with their wall seconds, without those in which a process began.
Timings = Sequence[tuple[Cell, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEstimate:
    """What a cell will cost."""

    flops: float | None  # FLOP; None: the checkpoint has no formula
    state_bytes: int | None  # bytes of state at the end of the context, all sequences of the batch; None likewise
    seconds: float | None  # wall, of the cell alone; None: not known
    work: Work
    exact: bool = False  # `seconds` are those of the same cell under other seeds or weights
    changed: bool = False  # an earlier run measured the same by other code or packages
    setup_s: float | None = None  # wall seconds before the first cell of a process; None: not known
    probes_s: float = 0.0  # of these, for the probes that go before a first score
    # Work and seconds of cells of the same task on the same architecture, for the correction of rates.
    similar: tuple[tuple[Work, float], ...] = ()


class Estimator:
    """Cost of cells: FLOPs and bytes from the checkpoint's formulas, seconds from earlier cells of this machine.

    Seconds are the median of the same cell under other seeds and weights; failing that, the task's median seconds per
    FLOP on that architecture.
    """

    def __init__(self, timings: Timings, texts: Mapping[str, tuple[int, ...]]) -> None:
        """`texts`: bytes of the corpus's documents by split."""
        self._sizes = texts
        self._alike: dict[tuple[Hashable, ...], list[float]] = {}
        # Work, seconds, FLOP.
        self._similar: dict[tuple[Hashable, ...], list[tuple[Work, float, float | None]]] = {}
        tasks = {name: TASKS.load(name)() for name in {cell.task for cell, _ in timings} if name in TASKS}
        self._earlier: dict[tuple[Hashable, ...], set[str]] = {}  # what was measured -> ids of its cells
        for cell, seconds in timings:
            self._earlier.setdefault(_asked(cell), set()).add(cell.cell_id)
            task = tasks.get(cell.task)
            if task is None or task.version != cell.task_version:
                continue
            self._alike.setdefault(_key(cell, exact=True), []).append(seconds)
            work, _ = self._work(task, cell)
            self._similar.setdefault(_key(cell, exact=False), []).append((work, seconds, _flops(work, cell)))

    def __call__(self, task: Task, cell: Cell) -> CellEstimate:
        work, sequences = self._work(task, cell)
        flops, seconds = _flops(work, cell), None
        alike, similar = self._alike.get(_key(cell, exact=True)), self._similar.get(_key(cell, exact=False), [])
        per_flop = [spent / amount for _, spent, amount in similar if amount]
        if alike:
            seconds = statistics.median(alike)
        elif flops is not None and per_flop:
            seconds = statistics.median(per_flop) * flops
        cost = cell.checkpoint.cost
        state_bytes = None if cost is None else cost.state_nbytes(_longest(cell)) * sequences
        return CellEstimate(
            flops=flops,
            state_bytes=state_bytes,
            seconds=seconds,
            work=work,
            exact=bool(alike),
            changed=bool(self._earlier) and cell.cell_id not in self._earlier.get(_asked(cell), {cell.cell_id}),
            similar=tuple((done, spent) for done, spent, _ in similar),
        )

    def _work(self, task: Task, cell: Cell) -> tuple[Work, int]:
        """A cell's work, and how many sequences it reads at once."""
        texts = Texts(sizes=self._sizes, token_bytes=token_bytes(cell.checkpoint.vocab_size))
        params = task.Params(**cell.params)
        sequences = task.sequences(params, cell.context_len, cell.batch_size, cost=cell.checkpoint.cost)
        return task.work(params, cell.context_len, sequences, texts=texts), sequences


def _flops(work: Work, cell: Cell) -> float | None:
    return None if cell.checkpoint.cost is None else work.flops(cell.checkpoint.cost)


def _key(cell: Cell, *, exact: bool) -> tuple[Hashable, ...]:
    """What makes two cells take about as long."""
    rough = (cell.task, cell.checkpoint.architecture, cell.dtype, cell.placement, cell.engine, cell.attention)
    rough += (cell.threads, cell.batch_size)
    if not exact:
        return rough
    return (*rough, cell.checkpoint.num_params, cell.context_len, _spelled(cell.params), cell.corpus)


def _asked(cell: Cell) -> tuple[Hashable, ...]:
    """What a cell measures, whatever the code and the packages that do it."""
    identity = cell.identity()
    for name in ("code", "software", "schema", "task_version", "architecture_version"):
        identity.pop(name, None)
    return _spelled({**identity, "params": _spelled(identity["params"])})


def _spelled(entries: Mapping[str, Any]) -> tuple[Hashable, ...]:
    """Entries in one order, so that 1, 1.0 and True stay three values, as in a cell's identity."""
    return tuple((name, repr(entries[name])) for name in sorted(entries))


def _longest(cell: Cell) -> int:
    """Tokens of a sequence, for costs: its context, or its reach where that is shorter."""
    return cell.context_len if cell.reach is None else min(cell.context_len, cell.reach)
