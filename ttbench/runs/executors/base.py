"""What an executor is: it is given the cells of a run that are to be measured, and brings each to an end in the store.

Another package adds one through the entry-point group `ttbench.executors`, as a class with the methods of `Executor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ttbench.registry import EXECUTORS, TASKS
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan
from ttbench.runs.progress import Outlook, Progress
from ttbench.store.record import CellRecord
from ttbench.store.store import Store
from ttbench.tasks.base import declared_columns
from ttbench.types import Cell, Status

LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the cells of a run are to run, as it was asked for; no part of what they measure."""

    executor: str = LOCAL  # registered name
    jobs: int = 1  # checkpoints side by side, executor local only
    cluster: str | None = None  # YAML file of what a cluster is asked for

    @classmethod
    def of(cls, options: Options) -> Placement:
        """As some options say it; the rest has its default. Raises UnknownNameError for an unknown executor."""
        name = options.get("executor") or LOCAL
        EXECUTORS[name]
        return cls(
            executor=name,
            jobs=options.get("jobs") or 1,
            cluster=options.get("cluster"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What an executor is to bring to an end."""

    store: Store
    plan: Plan
    cells: tuple[Cell, ...]  # those to measure, in the plan's order
    progress: Progress
    timeout_s: float | None = None  # per cell; None: each cell's own
    memory_limit: int | None = None  # bytes of data per worker; None: what the machine has free

    @property
    def outlook(self) -> Outlook:
        """A new outlook on the assignment."""
        return Outlook(self.plan, self.cells)


class Executor(Protocol):
    """A place where cells run."""

    detached: ClassVar[bool]  # `run` only submits; the cells end later, and `ttbench collect` takes what they left
    num_ended: int  # cells that were brought to an end so far

    def __init__(self, placement: Placement) -> None:
        """Raises UsageError where the placement has no meaning here."""
        ...

    def check(self, plan: Plan, cells: Sequence[Cell]) -> None:
        """Raise UsageError where these cells of a plan cannot run; asked before anything is stored or started."""
        ...

    def run(self, work: Assignment) -> None:
        """Bring every cell to an end in the store, or submit them. Raises StoreError when that cannot be written."""
        ...


def open_executor(placement: Placement) -> Executor:
    """The executor of a placement. Raises UnknownNameError for a name that is not registered."""
    return EXECUTORS.load(placement.executor)(placement)


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
        figures=TASKS.load(cell.task).figures,
        columns=declared_columns(TASKS.load(cell.task)),
        samples=(),
        evidence=({"stderr": stderr},) if stderr else (),
    )


def is_timing(cell: Cell) -> bool:
    """Whether a cell times or weighs a process of its own, and so must have its machine for itself."""
    return TASKS.load(cell.task).isolation == "cell"
