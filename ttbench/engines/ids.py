"""What engines are given: ids, targets and lengths, checked for shape and range before a model sees them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ttbench.errors import UsageError


def as_ids(
    noun: str, values: Any, *, num_dims: int, batch_size: int | None, vocab_size: int, lowest: int = 0
) -> Int[Tensor, "..."]:
    """`values` as an int64 tensor of shape [B] or [B, T >= 1], still where it was.

    Args:
        noun: what the message calls them.
        batch_size: B; None takes any.
        lowest: smallest id allowed; -1 for targets that are not scored.

    Raises UsageError on another shape, kind or range.
    """
    ids = torch.as_tensor(values)
    fits = ids.ndim == num_dims and ids.shape[0] >= 1 and (batch_size is None or ids.shape[0] == batch_size)
    if not fits or (num_dims == 2 and ids.shape[1] < 1):
        batch = "B" if batch_size is None else batch_size
        named, expected = ("[B, T]", f"({batch}, T >= 1)") if num_dims == 2 else ("[B]", f"({batch},)")
        raise UsageError(f"{noun} must have shape {named} = {expected}; got {tuple(ids.shape)}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise UsageError(f"{noun} must be integers; got {ids.dtype}")
    # Ids already on a GPU come from a model; looking at them would wait for the device.
    if ids.device.type == "cpu":
        low, high = (int(edge) for edge in torch.aminmax(ids))
        if low < lowest or high >= vocab_size:
            raise UsageError(f"{noun} must be in {lowest}..{vocab_size - 1}; got {low}..{high}")
    return ids.to(torch.int64)


def scored_places(
    ids: Int[Tensor, "B T"], targets: Int[Tensor, "..."], lengths: Int[np.ndarray, "..."] | None
) -> Bool[Tensor, "B T"]:
    """Where a target is scored: not -1, and before its row's length. Raises UsageError when shapes disagree."""
    if targets.shape != ids.shape:
        raise UsageError(f"targets must have the shape of ids, {tuple(ids.shape)}; got {tuple(targets.shape)}")
    scored = targets >= 0
    if lengths is not None:
        ends = torch.as_tensor(np.asarray(lengths))
        if ends.shape != ids.shape[:1] or ends.min() < 0 or ends.max() > ids.shape[1]:
            raise UsageError(
                f"lengths must have shape [B] = ({ids.shape[0]},) with values in 0..{ids.shape[1]}; got {ends.tolist()}"
            )
        scored &= torch.arange(ids.shape[1]) < ends[:, None]
    return scored
