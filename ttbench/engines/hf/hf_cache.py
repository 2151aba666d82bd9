"""The tensors inside a cache of transformers, whatever its type: counted, copied onto a larger batch.

transformers has many cache types (keys and values by layer, convolution and recurrent states, lists of tensors, lists
of tuples), and new ones with each release. None of them is named here: objects, lists, tuples and dictionaries are
walked for tensors. What holds no state of a sequence (configurations, modules) is left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ttbench.errors import UsageError


def cache_tensors(cache: Any) -> list[Tensor]:
    """Every tensor of a cache once."""
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        found[id(tensor)] = tensor
        return tensor

    _replace(cache, note, seen=set())
    return list(found.values())


def nbytes_used(cache: Any) -> int:
    """Bytes of the elements of all its floating-point tensors; counters and masks are not state of the model."""
    return sum(t.numel() * t.element_size() for t in cache_tensors(cache) if t.is_floating_point())


def nbytes_allocated(cache: Any) -> int:
    """Bytes of the storages behind them, each once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in cache_tensors(cache)}
    return sum(storages.values())


def copy_cache(cache: Any) -> Any:
    """A copy that shares nothing with the original."""
    return copy.deepcopy(cache)


def broadcast(cache: Any, batch_size: int) -> Any:
    """A copy of a cache of batch 1 for `batch_size` sequences; the batch is the first dimension of every state.

    Raises UsageError when a state has another first dimension: then its layout is not known.
    """

    def repeat(tensor: Tensor) -> Tensor:
        # counters and flags have no batch
        if not tensor.is_floating_point() or tensor.ndim < 2:
            return tensor
        if tensor.shape[0] != 1:
            raise UsageError(
                f"this model's cache holds a state of shape {list(tensor.shape)} for one sequence, so it cannot be "
                f"spread over {batch_size}; use --batch-size 1"
            )
        return tensor.repeat_interleave(batch_size, dim=0)

    return _replace(copy_cache(cache), repeat, seen=set())


def _replace(value: Any, change: Callable[[Tensor], Tensor], *, seen: set[int]) -> Any:
    """`value` with each tensor replaced by `change` of it; mutable holders are changed in place."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        parts = [_replace(item, change, seen=seen) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if id(value) in seen or isinstance(value, nn.Module | PreTrainedConfig | type | torch.dtype | torch.device):
        return value
    seen.add(id(value))
    if isinstance(value, list):
        value[:] = [_replace(item, change, seen=seen) for item in value]
    elif isinstance(value, dict):
        value.update({key: _replace(item, change, seen=seen) for key, item in value.items()})
    elif hasattr(value, "__dict__"):
        for name, item in list(vars(value).items()):
            changed = _replace(item, change, seen=seen)
            if changed is not item:
                setattr(value, name, changed)
    return value
