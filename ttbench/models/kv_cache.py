"""Keys and values of every token, in a layer's part of the state. Everything is written in place.

Letters: B batch, G key/value heads, T tokens, S keys in sight, D head dim.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ttbench.models.layers import bucket_len
from ttbench.models.stack import At, Part, Slot

EVERY_PLACE = 1 << 40  # more than any cache has: the variant of steps that serve every length


def slots(*, num_heads: int, head_dim: int) -> dict[str, Slot]:
    """Room for keys and values of one layer, which grow with tokens."""
    return {name: Slot(shape=(num_heads, 1, head_dim), length_dim=1) for name in ("keys", "values")}


def extend(
    part: Part | None, k: Float[Tensor, "B G T D"], v: Float[Tensor, "B G T D"], *, read: int
) -> tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]]:
    """Keys and values of all tokens so far: the `read` in `part`, then the new ones, which are written there."""
    if part is None:
        return k, v
    keys, values = part["keys"], part["values"]
    end = read + k.shape[2]
    keys[:, :, read:end], values[:, :, read:end] = k, v
    return keys[:, :, :end], values[:, :, :end]


def extend_step(
    part: Part, k: Float[Tensor, "B G 1 D"], v: Float[Tensor, "B G 1 D"], *, at: At, seen_len: int
) -> tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"], Bool[Tensor, "1 1 1 S"]]:
    """As `extend` for one token, without a sync: the first `seen_len` places at most, and which of them exist."""
    keys, values = part["keys"], part["values"]
    keys.index_copy_(2, at.positions, k)
    values.index_copy_(2, at.positions, v)
    seen_len = min(seen_len, keys.shape[2])
    seen = (torch.arange(seen_len, device=k.device) <= at.positions)[None, None, None]
    return keys[:, :, :seen_len], values[:, :, :seen_len], seen


def variant(num_tokens: int) -> int:
    """Places that the step after `num_tokens` tokens reads: a bucket of the used length."""
    return bucket_len(num_tokens + 1)
