"""Cells of the fakes and records of them, for tests of what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttbench.runs.plan import plan
from ttbench.store.record import CellRecord
from ttbench.tasks.base import Task
from ttbench.types import Cell, Checkpoint, Sample, Scalar


def fake_cells(
    checkpoints: Sequence[Checkpoint], context_lens: Sequence[int], *, params: Mapping[str, Scalar] | None = None
) -> tuple[Cell, ...]:
    """Cells of the task `fake-quality`, which must be registered (`fakes`)."""
    return plan(
        "fake-quality",
        checkpoints=checkpoints,
        context_lens=context_lens,
        params=params or {},
        corpus=None,
        corpus_digest=None,
        seed=0,
        dtype="float32",
        device="cpu",
        attention="sdpa",
        batch_size=None,
        threads=1,
        machine="m",
    ).cells


def ok_record(task: Task | type[Task], cell: Cell, samples: Sequence[Sample], **more: Any) -> CellRecord:
    """A cell that ended well, as a worker would have it."""
    return CellRecord(
        cell=cell,
        status="ok",
        reason=None,
        started="",
        cell_s=1.0,
        cell_cpu_s=1.0,
        load_average=0.0,
        engine="eager",
        kernel_path={},
        metrics=task.metrics,
        samples=tuple(samples),
        **more,
    )
