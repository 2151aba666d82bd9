"""A task that measures nothing and goes wrong once: what `make slurm` and `make ray` let happen to cells."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ttbench.tasks.base import Bench, Task
from ttbench.types import Checkpoint, Cost, Metric, Sample, digest

SHARED_BYTES = 900 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class TroubleParams:
    """What happens, at which context, and where it is noted that it has happened."""

    what: str = ""  # hang | slow | shared; empty: nothing
    at: int | None = None  # context; None: at every one
    once: str = ""  # folder: what is noted there does not happen again
    slow_s: float = 0.0
    rounds: int = 1


class Trouble(Task):
    """Cells of a checkpoint share a process."""

    name: ClassVar[str] = "trouble"
    version: ClassVar[int] = 1
    Params: ClassVar[type[Any]] = TroubleParams
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="hits", label="hits", unit="1", better="higher", statistic="ratio", numerator="hits", denominator="n"
        ),
    )
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = False
    default_ctx: ClassVar[str] = "1k"

    def num_rounds(self, params: TroubleParams) -> int:
        return params.rounds

    def measure(self, bench: Bench) -> Iterator[Sample]:
        params: TroubleParams = self.Params(**bench.cell.params)
        if params.what and params.at in (None, bench.cell.context_len):
            note = Path(params.once) / bench.cell.cell_id
            if not note.exists():
                note.touch()
                happen(params)
        hits = int(digest(bench.cell.cell_id)[:2], 16)
        node = int(os.environ.get("SLURMD_NODENAME", "n0")[1:])
        yield Sample(keys={"trial": 0}, values={"hits": hits, "n": 255, "node": node})


class TroubleTiming(Trouble):
    """One process per cell."""

    name: ClassVar[str] = "trouble-timing"
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "cell"


def happen(params: TroubleParams) -> None:
    if params.what == "hang":
        time.sleep(3600)
    if params.what == "slow":
        time.sleep(params.slow_s)
    if params.what == "shared":
        # Shared memory counts in the control group and not in the limit that a worker sets itself.
        memory = mmap.mmap(-1, SHARED_BYTES)
        for place in range(0, SHARED_BYTES, mmap.PAGESIZE):
            memory[place] = 1
        time.sleep(3600)


def checkpoint(name: str) -> Checkpoint:
    """A checkpoint that exists by name only."""
    return Checkpoint(
        name=name,
        path=f"nowhere/{name}",
        architecture="transformer",
        architecture_version=1,
        dialect="made",
        provenance="local",
        revision=None,
        weights_digest=digest(name),
        config_digest=digest("config"),
        tokenizer_digest=digest("bytes"),
        vocab_size=257,
        train_ctx=1024,
        num_params=1000,
        num_params_non_embedding=800,
        weight_bytes=4000,
        cost=Cost(flops_per_token=2000, flops_per_context_token=10, state_bytes=64, state_bytes_per_token=8),
    )
