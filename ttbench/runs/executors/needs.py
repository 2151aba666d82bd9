"""What the worker of a group of cells needs, as far as a plan can tell: bytes of memory, and GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from ttbench.errors import UsageError
from ttbench.machine.gpu.accelerators import accelerators
from ttbench.runs.executors.base import is_timing
from ttbench.runs.plan import Plan, groups
from ttbench.runs.process import free_memory_bytes
from ttbench.types import Cell

# Of a process with torch in it, before weights: 310 MiB resident measured on Linux, and buffers of one slice of logits.
PROCESS_BYTES = 512 * 1024**2
DTYPE_BYTES: Mapping[str, int] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
GIB = 1024**3


def group_bytes(plan: Plan, group: Iterable[Cell]) -> int:
    """Bytes of memory that the worker of a group needs at least: its process, the weights, and the largest state.

    Activations and logits are not counted: they follow from how a model is written, not from its formulas.
    """
    cells = tuple(group)
    weights = max(cell.checkpoint.num_params * DTYPE_BYTES.get(cell.dtype, 4) for cell in cells)
    # A file is read whole where it has to be cast.
    weights = max(weights, *(cell.checkpoint.weight_bytes for cell in cells))
    estimates = (plan.estimates.get(cell.cell_id) for cell in cells)
    state = max((each.state_bytes or 0 for each in estimates if each is not None), default=0)
    return PROCESS_BYTES + weights + state


def quality_groups(cells: Iterable[Cell]) -> list[tuple[Cell, ...]]:
    """The groups that may run side by side."""
    return [group for group in groups(cells) if not is_timing(group[0])]


def side_by_side_bytes(plan: Plan, found: Iterable[tuple[Cell, ...]], *, jobs: int) -> int:
    """Bytes of memory that the `jobs` largest of some groups need together at least."""
    return sum(sorted((group_bytes(plan, group) for group in found), reverse=True)[:jobs])


def gpu_ids() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return tuple(each.strip() for each in allowed.split(",") if each.strip() not in ("", "-1", "NoDevFiles"))
    return tuple(str(index) for index, _ in enumerate(accelerators()))


def require_room(plan: Plan, cells: Sequence[Cell], *, jobs: int) -> None:
    """Raise UsageError where the machine has no room for `jobs` workers of quality cells side by side."""
    found = quality_groups(cells)
    if len(found) < 2:
        return
    jobs = min(jobs, len(found))
    numbered = sorted({group[0].device for group in found if ":" in group[0].device})
    if numbered:
        raise UsageError(f"--jobs {jobs} gives each worker a GPU of its own: write --device cuda, not {numbered[0]}")
    if any(group[0].device != "cpu" for group in found) and (gpus := len(gpu_ids())) < jobs:
        raise UsageError(
            f"--jobs {jobs} needs {jobs} GPUs, one for each worker, and {gpus} can be used here: --jobs {max(gpus, 1)}"
        )
    needed = side_by_side_bytes(plan, found, jobs=jobs)
    free = free_memory_bytes()
    if free is not None and needed > free and all(group[0].device == "cpu" for group in found):
        fits = next((fewer for fewer in range(jobs - 1, 0, -1) if needed * fewer <= free * jobs), 1)
        raise UsageError(
            f"--jobs {jobs} needs at least {needed / GIB:.1f} GiB of memory for its largest checkpoints side by side, "
            f"and {free / GIB:.1f} GiB are free: --jobs {fits}"
        )
