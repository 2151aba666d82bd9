"""What a call must do at least, and what the machine can do at best: the columns of a roofline. Torch-free at import.

    prefill of T tokens   FLOP of all tokens, the output head's of the last one alone
                          weights once, and the state written
    one decoding step     FLOP of the token
                          weights once, and for each sequence of the batch: the part of the state that does not grow
                          read and written, what grows with the context (a cache of keys and values) read, one token
                          added to it

Activations, logits and ids are not counted: an implementation can keep them in caches. A prefill that reads its prompt
in pieces reads the weights once for each, and moves more than this. So these are lower bounds, and the share of a
ceiling that follows from them is never flattering.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttbench.declare import ColumnDeclaration, real, truth
from ttbench.types import Cell, Cost

COLUMNS: Mapping[str, ColumnDeclaration] = {
    "call_flops": real("arithmetic that one call needs by the architecture's formula, over the batch", "FLOP"),
    "call_bytes": real("weights and state that one call must move at least, over the batch", "bytes"),
    "ceiling_s": real("least time of one call: its FLOP and bytes at the machine's ceilings", "s"),
    "ceiling_flops_per_s": real("ceiling of this machine: best matrix product in this dtype", "FLOP/s"),
    "ceiling_bytes_per_s": real("ceiling of this machine: best pass over memory that reads", "bytes/s"),
    "ceiling_copy_bytes_per_s": real("ceiling of this machine: best copy, read and written bytes counted", "bytes/s"),
    "graph_node_s": real("ceiling of this machine: a kernel in a CUDA graph that computes nothing; null on a CPU", "s"),
    "ceilings_busy": truth("whether other programs ran while the ceilings were measured, which lowers them"),
}
Values = Mapping[str, float | bool | None]
NOTHING: Values = dict.fromkeys(COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Of one call, over the batch."""

    flops: float
    num_bytes: float


def prefill_demand(cost: Cost, *, context_len: int, batch_size: int, weight_bytes: int) -> Demand:
    """Of reading `context_len` tokens from an empty state.

    Args:
        weight_bytes: bytes of weights that are read whole, see `ttbench.machine.ceilings.streamed_bytes`.
    """
    return Demand(
        flops=batch_size * cost.read_flops(context_len),
        num_bytes=weight_bytes + batch_size * cost.state_nbytes(context_len),
    )


def decode_demand(cost: Cost, *, context_len: int, num_steps: int, batch_size: int, weight_bytes: int) -> Demand:
    """Of one step, the mean of `num_steps` steps that follow `context_len` tokens; `weight_bytes` as above."""
    depths = range(context_len, context_len + num_steps)
    return Demand(
        flops=batch_size * sum(map(cost.decode_flops, depths)) / num_steps,
        num_bytes=weight_bytes + batch_size * sum(map(cost.step_nbytes, depths)) / num_steps,
    )


def columns_by_phase(cell: Cell, model: Any, *, num_steps: int) -> dict[str, Values]:
    """The columns of the phases prefill and decode; where the architecture has no formula, the ceilings alone.

    Measures the ceilings where they are not known yet, which takes seconds and memory.

    Args:
        model: the module whose weights run.
        num_steps: that a timed block of decoding takes.
    """
    # Late: it imports torch, which whoever has a model has done.
    from ttbench.machine import ceilings

    found = ceilings.ceilings(device=cell.device, dtype=cell.dtype, threads=cell.threads)
    known: Values = {
        **NOTHING,
        "ceiling_flops_per_s": found.matmul_flops_per_s,
        "ceiling_bytes_per_s": found.read_bytes_per_s,
        "ceiling_copy_bytes_per_s": found.copy_bytes_per_s,
        "graph_node_s": found.graph_node_s,
        "ceilings_busy": found.busy,
    }
    cost = cell.checkpoint.cost
    if cost is None:
        return {"prefill": known, "decode": known}
    sizes = {"context_len": cell.context_len, "batch_size": cell.batch_size}
    weight_bytes = ceilings.streamed_bytes(model)
    demands = {
        "prefill": prefill_demand(cost, **sizes, weight_bytes=weight_bytes),
        "decode": decode_demand(cost, **sizes, num_steps=num_steps, weight_bytes=weight_bytes),
    }
    return {
        phase: {
            **known,
            "call_flops": each.flops,
            "call_bytes": each.num_bytes,
            "ceiling_s": found.least_s(flops=each.flops, num_bytes=each.num_bytes),
        }
        for phase, each in demands.items()
    }
