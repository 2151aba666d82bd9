"""A tape: calls on a CPU, written down operation by operation and replayed on the same memory.

It is what a CUDA graph is, as far as a CPU can tell, and it is strict where a GPU would be wrong in silence:

- Recording leaves all memory from before as it was, as a capture does, which executes nothing.
- An operation is replayed with the numbers that Python gave it then, on the tensors that it was given then.
- What was made on the way lies in the pool. All of the pool, of all graphs, is overwritten with NaN (all bits set)
  when something was captured and before every replay; so nothing can be read before it is written anew.
- What would hand a value to the host raises NotCapturable.

It proves nothing about CUDA's streams, kernels or allocator, and it is no engine that a user can ask for: it is slower
than the calls themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ttbench.engines.graph import syncs
from ttbench.engines.graph.recording import NotCapturable
from ttbench.kernels.dispatch.trees import tensors

_POISON = 0xFF  # each byte: NaN in every floating-point dtype, -1 in every integer
# They give memory and write nothing.
_ALLOCATES = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided")


@dataclass(frozen=True, slots=True)
class Call:
    """One operation, with the tensors and numbers that it was given and the memory that it made."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    made: tuple[bool, ...]  # of each tensor in `out`: whether its memory is new; else it is that of an argument

    @property
    def acts(self) -> bool:
        """Whether there is something to do again: not for views, nor for memory that nothing was written to."""
        if self.func.name().partition(".")[0] in _ALLOCATES:
            return False
        return any(self.made) or bool(_written(self.func, self.args, self.kwargs))

    def replay(self) -> None:
        """Again, into the same memory."""
        new = self.func(*self.args, **self.kwargs)
        for old, now, made in zip(tensors(self.out), tensors(new), self.made, strict=True):
            if made:
                old.untyped_storage().copy_(now.untyped_storage())


@dataclass(frozen=True, slots=True)
class TapeGraph:
    """`ttbench.engines.graph.recording.Graph` of a tape."""

    calls: tuple[Call, ...]
    tape: Tape

    def replay(self) -> None:
        self.tape.poison()
        for call in self.calls:
            call.replay()


class Tape:
    """`ttbench.engines.graph.recording.Recorder` on a CPU."""

    name = "tape"

    def __init__(self) -> None:
        self._pool: list[torch.UntypedStorage] = []

    def warm_up(self, call: Callable[[], None], *, times: int) -> None:
        for _ in range(times):
            call()

    def capture(self, call: Callable[[], None]) -> TapeGraph:
        """As `Recorder.capture`. Raises NotCapturable."""
        with _Recording() as recording:
            call()
        for storage, content in recording.changed.values():
            storage.copy_(content)
        self._pool += recording.made.values()
        self.poison()
        return TapeGraph(calls=tuple(call for call in recording.calls if call.acts), tape=self)

    @property
    def pool_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._pool)

    def poison(self) -> None:
        """Overwrite all that was made while something was captured."""
        for storage in self._pool:
            storage.fill_(_POISON)  # type: ignore[attr-defined]


class _Recording(TorchDispatchMode):
    """Writes down every operation, and what memory from before held when it was first written."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.made: dict[int, torch.UntypedStorage] = {}
        self.changed: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        why = syncs.before(func, args, kwargs)
        if why is not None:
            raise NotCapturable(why)
        for tensor in _written(func, args, kwargs):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.made and storage._cdata not in self.changed:
                self.changed[storage._cdata] = storage, storage.clone()
        out = func(*args, **kwargs)
        given = {x.untyped_storage()._cdata for x in tensors((args, kwargs))}
        made = []
        for tensor in tensors(out):
            storage = tensor.untyped_storage()
            made.append(storage._cdata not in given)
            if made[-1]:
                self.made[storage._cdata] = storage
        self.calls.append(Call(func=func, args=args, kwargs=kwargs, out=out, made=tuple(made)))
        return out


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes to, as its schema says."""
    found: list[Tensor] = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += tensors(value)
    return found
