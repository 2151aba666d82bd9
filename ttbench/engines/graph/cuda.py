"""Every call of torch.cuda that the graph engine makes. It has never run on a GPU: see docs/graphs.md.

One stream for warming up and for capturing, so that what a library makes once for each stream (the workspace of
cuBLAS) is there before a graph is made, and outside the pool.
Source: torch's notes on CUDA graphs; `mamba_ssm.utils.generation` warms up and shares a pool in the same way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ttbench.errors import UsageError


class CudaRecorder:
    """`ttbench.engines.graph.recording.Recorder` by CUDA graphs."""

    name = "cuda_graph"

    def __init__(self, device: torch.device) -> None:
        """Raises UsageError on another device than a GPU."""
        if device.type != "cuda":
            raise UsageError(
                f"engine graph replays CUDA graphs and cannot run on {device.type}; "
                "add --device cuda, or use --engine eager"
            )
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, call: Callable[[], None], *, times: int) -> None:
        """Run a call on the stream of the captures; what comes next on the current stream waits for it."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(times):
                call()
        current.wait_stream(self._stream)

    def capture(self, call: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """As `Recorder.capture`; waits for the device."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            call()
        return graph

    @property
    def pool_bytes(self) -> int:
        """Bytes that torch's allocator has reserved for the pool."""
        segments = torch.cuda.memory_snapshot()
        return sum(part["total_size"] for part in segments if tuple(part["segment_pool_id"]) == tuple(self._pool))
