"""A twin held against its reference: the float64 result of the op's plain torch form, from the same arguments.

Kernels are interpreted where there is no GPU: Triton's interpreter runs their arithmetic in float32, one program after
another, so it shows wrong numbers, wrong masks and wrong addresses within the arguments, but no races, no missing
barrier and no rounding of bfloat16.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ttbench.kernels.dispatch.running import unwatched, using
from ttbench.kernels.dispatch.trees import copied, difference, mapped, tensors
from ttbench.kernels.dispatch.twin import Case, Twin, interpreted

# Largest difference from float64, relative to the largest value of each result. On a GPU a float32 model multiplies in
# tf32 (10 bits of mantissa) and a bfloat16 model in bfloat16 (7 bits); the interpreter in float32.
BOUNDS: Mapping[torch.dtype, float] = {torch.float32: 1e-3, torch.float16: 4e-3, torch.bfloat16: 3e-2}
INTERPRETED_BOUND = 2e-5


def plain_of(twin: Twin) -> Callable[..., Any]:
    """The op's form in plain torch."""
    module, _, name = twin.plain.partition(":")
    found = getattr(importlib.import_module(module), name)
    return getattr(found, "__wrapped__", found)


def bound_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """How far a twin may be from float64 at these arguments."""
    dtypes = {x.dtype for x in tensors((args, dict(kwargs))) if x.is_floating_point()}
    dtype = kwargs.get("operands") or max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    if interpreted():
        # what is stored as bfloat16 is cut, not rounded, there
        return INTERPRETED_BOUND if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    return BOUNDS[dtype]


def error_of(twin: Twin, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """The difference from float64 at these arguments, of what is returned and of what is written in place.

    The arguments are copied, so that nothing is changed.
    """
    return _error(_call(twin, args, kwargs), twin, args, kwargs)


def _call(twin: Twin, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """What a call returns, and its arguments after it; both are the caller's to change."""
    ours = copied((args, dict(kwargs)))
    with _poisoned():
        got = twin.run(*ours[0], **ours[1])
    return got, ours


def _error(found: tuple[Any, Any], twin: Twin, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """The difference of what a call gave from what the plain form gives in float64.

    NaN in an argument marks what must not be read. The plain form may read it and multiply by zero, so it is given
    zeros there; what a call leaves as NaN there is left out.
    """
    before = copied((args, dict(kwargs)), torch.float64)
    theirs = mapped(before, lambda x: x.nan_to_num(0.0) if x.is_floating_point() else x.clone())
    named = {"operands": kwargs["operands"]} if "operands" in kwargs else {}
    # the ops that a plain form calls are no part of what ran, and are plain themselves
    with using("torch"), unwatched():
        wanted = plain_of(twin)(*theirs[0], **{**theirs[1], **named})
    for old, ours, plain in zip(tensors(before), tensors(found[1]), tensors(theirs), strict=True):
        if ours.is_floating_point():
            ours.copy_(torch.where(old.isnan() & ours.isnan(), plain.to(ours.dtype), ours))
    return difference(found, (wanted, theirs))


@contextmanager
def _poisoned() -> Iterator[None]:
    """Memory that is allocated and not written is NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What one case of one twin showed."""

    twin: str
    case: str
    dtype: str
    error: float  # the larger of two draws
    bound: float
    repeats: bool  # whether two calls with equal arguments gave equal bits
    reason: str | None = None  # why it could not be run

    @property
    def holds(self) -> bool:
        """Whether the twin may stand for the op."""
        return self.reason is None and self.error <= self.bound and self.repeats


def prove(twin: Twin, case: Case, *, device: torch.device, dtype: torch.dtype) -> Proof:
    """Run a case with two draws of inputs, each against float64, and the first one twice for equal bits."""
    generator = torch.Generator().manual_seed(0)
    named = {"twin": twin.name, "case": case.label, "dtype": str(dtype).removeprefix("torch.")}
    args, kwargs = case.make(generator, device, dtype)
    bound = bound_of(args, kwargs)
    if (why := twin.refuses(*args, **kwargs)) is not None:
        return Proof(**named, error=torch.nan, bound=bound, repeats=False, reason=f"refused: {why}")
    with torch.inference_mode():
        found, again = _call(twin, args, kwargs), _call(twin, args, kwargs)
        repeats = _bits(found) == _bits(again)
        worst = _error(found, twin, args, kwargs)
        args, kwargs = case.make(generator, device, dtype)
        worst = max(worst, error_of(twin, args, kwargs))
    return Proof(**named, error=worst, bound=bound, repeats=repeats)


def _bits(tree: Any) -> list[bytes]:
    return [x.contiguous().cpu().view(torch.uint8).numpy().tobytes() for x in tensors(tree)]
