"""Engine `graph` by name: what it reads, how it is opened and checked. Torch-free until it is asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ttbench.engines.kinds import Eager
from ttbench.types import Checkpoint

if TYPE_CHECKING:
    from ttbench.engines.check_result import CheckResult
    from ttbench.engines.engine import Engine


class GraphKind(Eager):
    """Engine `graph`: the architectures of the registry, their steps replayed as CUDA graphs."""

    devices = ("cuda",)

    def read(
        self, folder: Path, *, provenance: str, dtype: str, name: str | None = None, revision: str | None = None
    ) -> Checkpoint:
        """As `Eager.read`, without the implementations of attention that no graph can hold."""
        from ttbench.kernels.attention import BACKENDS

        found = super().read(folder, provenance=provenance, dtype=dtype, name=name, revision=revision)
        return dataclasses.replace(
            found, attention=tuple(name for name in found.attention if BACKENDS[name].takes_mask)
        )

    def open(
        self, checkpoint: Checkpoint, *, device: str, dtype: str, attention: str | None, unchecked: bool
    ) -> Engine:
        from ttbench.checkpoints.loading import load_model
        from ttbench.engines.graph.graph_engine import GraphEngine

        model = load_model(checkpoint, device=device, dtype=dtype, attention=attention)
        return GraphEngine(model, device=device, dtype=dtype)

    def check(self, checkpoint: str, *, device: str, dtype: str, ctx: int | None) -> list[CheckResult]:
        from ttbench.engines.graph.graph_check import check_graph

        return check_graph(checkpoint, device=device, dtype=dtype, ctx=ctx)


KIND = GraphKind()
