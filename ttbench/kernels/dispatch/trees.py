"""Arguments and results of ops as trees: tensors inside tuples, lists, dicts and the dataclasses of states."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of a tree, in a fixed order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from tensors(part)
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from tensors(part)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from tensors(getattr(tree, field.name))


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a tree with `change` applied to every tensor; everything else is kept as it is."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(mapped(part, change) for part in tree)
    if isinstance(tree, dict):
        return {name: mapped(part, change) for name, part in tree.items()}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [field.name for field in dataclasses.fields(tree)]
        return dataclasses.replace(tree, **{name: mapped(getattr(tree, name), change) for name in names})
    return tree


def copied(tree: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy that shares no memory with `tree`; its floating-point tensors in `dtype`."""
    return mapped(tree, lambda x: x.clone().to(dtype) if dtype is not None and x.is_floating_point() else x.clone())


def difference(got: Any, wanted: Any) -> float:
    """The largest difference between two trees of tensors, each relative to the largest value of the wanted tensor.

    NaN in both at one place is no difference (what is not to be read may hold it); in one only, it is infinite.

    Raises:
        ValueError: the trees do not have equal shapes.
    """
    worst = 0.0
    for one, other in zip(tensors(got), tensors(wanted), strict=True):
        if one.shape != other.shape:
            raise ValueError(f"a tensor of shape {tuple(one.shape)} where {tuple(other.shape)} is wanted")
        if not other.is_floating_point():
            worst = worst if torch.equal(one, other) else torch.inf
            continue
        one, other = one.double(), other.double()
        if not torch.equal(one.isnan(), other.isnan()):
            return torch.inf
        one, other = one.nan_to_num(0.0), other.nan_to_num(0.0)
        scale = other.abs().max().item() if other.numel() else 0.0
        off = (one - other).abs().max().item() if other.numel() else 0.0
        worst = max(worst, off / scale if scale else off)
    return worst
