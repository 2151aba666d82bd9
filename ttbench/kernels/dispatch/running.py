"""How the ops of a block run: the way that is asked for, whether kernels are proved, and who is told what ran.

Torch-free, so that a worker watches before torch is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Way = Literal["auto", "torch", "fused"]

_WAY: ContextVar[Way] = ContextVar("way", default="auto")
_PROVING: ContextVar[bool] = ContextVar("proving", default=False)
_WATCHERS: ContextVar[tuple[dict[str, str], ...]] = ContextVar("watchers", default=())


@contextmanager
def using(way: Way) -> Iterator[None]:
    """Choose implementations by `way` inside the block."""
    token = _WAY.set(way)
    try:
        yield
    finally:
        _WAY.reset(token)


@contextmanager
def proving(*, on_any_device: bool = False) -> Iterator[None]:
    """Prove every twin that is called inside the block at its own shapes; by default where `auto` would take it."""
    token = _PROVING.set(True)
    try:
        with using("fused" if on_any_device else _WAY.get()):
            yield
    finally:
        _PROVING.reset(token)


def way_asked_for() -> Way:
    """See `using`."""
    return _WAY.get()


def is_proving() -> bool:
    """See `proving`."""
    return _PROVING.get()


@contextmanager
def watching() -> Iterator[dict[str, str]]:
    """A dict that is filled, inside the block, with op -> implementation that ran; several are joined by ' + '."""
    seen: dict[str, str] = {}
    token = _WATCHERS.set((*_WATCHERS.get(), seen))
    try:
        yield seen
    finally:
        _WATCHERS.reset(token)


def note(name: str, implementation: str) -> None:
    """Tell every watcher that `implementation` of the op `name` ran."""
    for seen in _WATCHERS.get():
        before = seen.get(name)
        if before is None:
            seen[name] = implementation
        elif implementation not in before.split(" + "):
            seen[name] = f"{before} + {implementation}"


@contextmanager
def unwatched() -> Iterator[None]:
    """Ops that run inside the block are told to nobody: probes and warm-ups are no part of a measurement."""
    token = _WATCHERS.set(())
    try:
        yield
    finally:
        _WATCHERS.reset(token)
