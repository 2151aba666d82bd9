"""Which implementation of the operations is timed: plain torch, or fused kernels where there are some. Torch-free."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

RUNNING = "ttbench.kernels.dispatch.running"  # where an implementation is chosen
# As the choice is called there, and as lines call it; `auto` takes a fused kernel wherever there is one.
WORDS = {"torch": "torch", "auto": "fused"}


def _running() -> Any:
    """The module that chooses; None where there is nothing to choose."""
    parent = RUNNING.rpartition(".")[0]
    if importlib.util.find_spec(parent) is None or importlib.util.find_spec(RUNNING) is None:
        return None
    return importlib.import_module(RUNNING)


def ways(device: str) -> tuple[str, ...]:
    """The implementations that can be told apart on a device: a CPU runs no fused kernel."""
    return tuple(WORDS) if device == "cuda" and _running() is not None else ("torch",)


@contextmanager
def chosen(way: str) -> Iterator[dict[str, str]]:
    """Run operations by one of `ways` inside the block; the mapping says, per operation, what ran."""
    running = _running()
    if running is None:
        yield {}
        return
    with running.using(way), running.watching() as seen:
        yield seen
