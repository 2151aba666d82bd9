"""Which implementation of an op runs.

Every op is written several times under one signature: `reference`, a form in plain torch (`chunked`, `step`, `whole`)
and, for some, a fused Triton twin in `kernels/fused/`. A function in plain torch that carries `@op(name, form)` hands
its call to the twin where there is one that takes it, and notes under `name` what ran (`kernels/dispatch/running.py`).

The twin is taken on a CUDA device, without gradients, when Triton is installed. `using` overrides that: `torch` never
takes a twin, `fused` takes it on any device (Triton's interpreter, the meta device). While `proving`, a twin is held
against the float64 reference at every new shape; where it is off by more than its bound, plain torch runs instead, then
and later, and what ran says so.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ttbench.errors import one_line
from ttbench.kernels.dispatch.catalogue import FUSED, absent, load_twin
from ttbench.kernels.dispatch.proof import bound_of, error_of
from ttbench.kernels.dispatch.running import is_proving, note, way_asked_for
from ttbench.kernels.dispatch.trees import tensors
from ttbench.kernels.dispatch.twin import Twin

P = ParamSpec("P")
R = TypeVar("R")


def op(name: str, form: str | None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as the plain torch form `form` of the op `name`.

    Args:
        name: as it stands in `kernel_path` and in `ttbench kernels list`; `<op>_step` for one token.
        form: `chunked`, `step`, `whole` ... : what is noted where no twin takes the call. None: nothing is, since
            there is but one way to write the op in plain torch.
    """

    def mark(plain: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(plain)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            twin, why = _twin(name, args, kwargs)
            if twin is None:
                if why is not None:
                    note(name, f"{form or 'torch'} (no fused kernel: {why})")
                elif form is not None:
                    note(name, form)
                return plain(*args, **kwargs)
            note(name, twin.label(*args, **kwargs))
            return twin.run(*args, **kwargs)

        return run

    return mark


def fuses(name: str, like: Tensor) -> bool:
    """Whether the op has a twin that is taken on a tensor's device, for those who plan by it before they call."""
    return name in FUSED and takes_twins(like)


def takes_twins(like: Tensor) -> bool:
    """Whether twins are taken on a tensor's device."""
    way = way_asked_for()
    taken = way == "fused" or (way == "auto" and like.device.type == "cuda")
    return taken and like.dtype != torch.float64 and absent() is None


# Calls that were proved, and why the twin is not used for those that failed.
_PROVED: set[tuple[Any, ...]] = set()
_FAILED: dict[tuple[Any, ...], str] = {}


def _twin(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Twin | None, str | None]:
    """The twin that takes a call, or none and why; without a reason where plain torch is what anybody expects."""
    way = way_asked_for()
    if way == "torch" or name not in FUSED or torch.is_grad_enabled():
        return None, None
    first = next(tensors(args))
    if first.device.type != "cuda" and way != "fused":
        return None, None
    if (why := absent()) is not None:
        return None, why
    twin = load_twin(name)
    if (why := twin.refuses(*args, **kwargs)) is not None:
        return None, why
    if is_proving() or _FAILED:
        # of one model, the first argument's shape decides all others: a key of all would cost as much as the launch
        key = (name, first.shape, first.dtype, first.device)
        if is_proving() and key not in _PROVED and first.device.type != "meta":
            _prove(key, twin, args, kwargs)
        if key in _FAILED:
            return None, _FAILED[key]
    return twin, None


def _prove(key: tuple[Any, ...], twin: Twin, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Hold a twin against plain torch in float64 at these arguments; what was found is kept, and a failure is said."""
    _PROVED.add(key)
    try:
        off, bound = error_of(twin, args, kwargs), bound_of(args, kwargs)
        why = None if off <= bound else f"off by {off:.1e} here, more than {bound:.0e}"
    except Exception as error:  # a kernel that does not compile or start is no reason to lose the cell
        why = f"failed here: {one_line(error)}"
    if why is not None:
        logging.getLogger("ttbench").warning("%s runs in plain torch: its fused kernel %s", twin.name, why)
        _FAILED[key] = why
