"""What the graph engine asks of whatever captures calls and replays them.

Two things do: `cuda.CudaRecorder`, by CUDA graphs, and `tape.Tape`, which stands in for it in tests, on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class NotCapturable(RuntimeError):
    """A call does what a graph cannot hold, such as handing a value of the device to the host."""


class Graph(Protocol):
    """Operations on fixed memory, in a fixed order, with fixed numbers."""

    def replay(self) -> None:
        """Run them again on the same memory."""
        ...


class Recorder(Protocol):
    """Captures calls. All of its graphs share one pool of memory.

    So what a call makes while it is captured is of no use outside it: the next replay of any graph may overwrite it.
    A call therefore returns nothing, and writes its results to memory that was there before.
    """

    name: str  # as rows call it

    def warm_up(self, call: Callable[[], None], *, times: int) -> None:
        """Run a call, as capture needs it to have run before: kernels compiled, libraries opened."""
        ...

    def capture(self, call: Callable[[], None]) -> Graph:
        """Write down what a call does, without doing it: memory from before holds afterwards what it held.

        Raises RuntimeError where it cannot be captured.
        """
        ...

    @property
    def pool_bytes(self) -> int:
        """Bytes of memory that the graphs hold for what they make on the way."""
        ...
